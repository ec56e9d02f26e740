"""docs/diagnostics.md names every code that the sources and the corpus have, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from flashrl_registry.errors import FlashRLError

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "diagnostics.md").read_text()
SECTIONS = dict(re.findall(r"^## (\w+): .*?\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
SEVERITIES = {"error", "warning", "note"}
# Pydantic's names for what no file of the corpus shows.
BEYOND_CORPUS = {"string_too_long", "dict_type"}


def documented(section: str) -> dict[str, list[str]]:
    """Code to the other cells of its row."""
    rows = re.findall(r"^\| (`.*?) \|(.*)\|$", SECTIONS[section], re.MULTILINE)
    return {
        code: [cell.strip() for cell in rest.split("|")]
        for codes, rest in rows
        for code in re.findall(r"`([^`]+)`", codes)
    }


def calls(name: str) -> Iterator[ast.Call]:
    for base in (ROOT / "flashrl_registry", ROOT / "cli"):
        for path in base.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
                    yield node


def text_of(node: ast.expr) -> str:
    assert isinstance(node, ast.Constant), f"write the code out: {ast.unparse(node)}"
    return str(node.value)


def test_every_diagnostic_is_on_the_page_with_its_severities() -> None:
    found: dict[str, set[str]] = {}
    for call in calls("Diagnostic"):
        found.setdefault(text_of(call.args[0]), set()).add(text_of(call.args[1]))
    page = {code: set(cells[0].split(", ")) for code, cells in documented("Diagnostics").items()}
    assert page == found
    assert set().union(*page.values()) == SEVERITIES


def test_every_finding_is_on_the_page() -> None:
    literal = {
        text_of(keyword.value) for call in calls("Finding") for keyword in call.keywords if keyword.arg == "code"
    }
    corpus = {
        code
        for path in (ROOT / "tests" / "data" / "documents" / "invalid").rglob("*.*")
        for code in re.findall(r"^# expect: (\S+)", path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    }
    page = set(documented("Findings"))
    assert literal | corpus - {"integrity"} <= page
    assert page <= literal | corpus | BEYOND_CORPUS


def subclasses(cls: type[FlashRLError]) -> Iterator[type[FlashRLError]]:
    for child in cls.__subclasses__():
        yield child
        yield from subclasses(child)


def test_every_error_is_on_the_page() -> None:
    codes = {cls.code for cls in subclasses(FlashRLError)} | {"flashrl"}
    at_the_boundary = set(re.findall(r'_error\("(\w+)"', (ROOT / "cli" / "flashrl_cli" / "app.py").read_text()))
    assert set(documented("Errors")) == codes | at_the_boundary | {"usage"}
