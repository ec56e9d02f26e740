"""check-jsonschema with our schemas says of every file of the corpus what we say, but for the checks on the page.

docs/validation.md lists what only the command line checks; a file on which the two disagree must be of a listed class,
and each class must have such a file.
"""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from flashrl_registry.documents import KINDS, read_any
from flashrl_registry.documents.bundled import bundled
from flashrl_registry.errors import DocumentError, FlashRLError

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "tests" / "data" / "documents"


@dataclass(frozen=True)
class OnlyOurs:
    """One row of the page."""

    check: str
    code: str
    message: re.Pattern[str]


def classes() -> list[OnlyOurs]:
    page = (ROOT / "docs" / "validation.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| `(\w+)` \| `(.+)` \|$", page, re.MULTILINE)
    return [OnlyOurs(check, code, re.compile(pattern.replace(r"\|", "|"))) for check, code, pattern in rows]


@cache
def refused_by_check_jsonschema(kind: str) -> frozenset[str]:
    """Files of a kind that it refuses: one process, as a pre-commit hook would run it."""
    files = [str(path) for path in corpus(kind)]
    schema = bundled("schemas") / KINDS[kind].schema_file()
    command = [sys.executable, "-m", "check_jsonschema", "--schemafile", str(schema), "-o", "json", *files]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode in {0, 1}, ran.stderr
    report = json.loads(ran.stdout)
    faults = [*report.get("errors", []), *report.get("parse_errors", [])]
    assert bool(faults) == bool(ran.returncode)
    return frozenset(fault["filename"] for fault in faults)


def corpus(kind: str) -> list[Path]:
    return sorted([*(CORPUS / "valid" / kind).glob("*"), *(CORPUS / "invalid" / kind).glob("*")])


def our_faults(path: Path) -> list[tuple[str, str]]:
    """Code and message of each; empty for a valid document."""
    try:
        read_any(path)
    except DocumentError as exc:
        return [(finding.code, finding.message) for finding in exc.findings]
    except FlashRLError as exc:
        return [(exc.code, exc.message)]
    return []


def only_ours(kind: str) -> dict[Path, list[tuple[str, str]]]:
    """Files that we refuse and check-jsonschema accepts."""
    refused = refused_by_check_jsonschema(kind)
    return {path: faults for path in corpus(kind) if (faults := our_faults(path)) and str(path) not in refused}


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_refuses_we_refuse(kind: str) -> None:
    accepted_here = {str(path) for path in corpus(kind) if not our_faults(path)}
    assert not accepted_here & refused_by_check_jsonschema(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_what_only_we_refuse_is_a_check_on_the_page(kind: str) -> None:
    rows = classes()
    for path, faults in only_ours(kind).items():
        for code, message in faults:
            of = [row for row in rows if row.code == code and row.message.search(message)]
            assert len(of) == 1, f"{path.name}: {code}: {message!r} is of {len(of)} listed checks"


# Files of these would be large in a repository.
LIMITS = {
    "at most 1 MiB": f"description: {'a' * 1_100_000}\n",
    "at most 50,000 values": f"x-list: [{'1, ' * 50_001}]\n",
    "at most 32 levels": f"x-deep: {'[' * 40}{']' * 40}\n",
}


@pytest.mark.parametrize("check", LIMITS)
def test_only_we_have_limits(check: str, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text((CORPUS / "valid" / "rules" / "minimal.yaml").read_text() + LIMITS[check])
    [(code, message)] = our_faults(file)
    [row] = [row for row in classes() if row.check == check]
    assert (row.code, bool(row.message.search(message))) == (code, True)
    schema = bundled("schemas") / KINDS["rules"].schema_file()
    command = [sys.executable, "-m", "check_jsonschema", "--schemafile", str(schema), str(file)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_every_check_on_the_page_has_a_file_that_shows_it() -> None:
    faults = [fault for kind in KINDS for file in only_ours(kind).values() for fault in file]
    rows = classes()
    assert len(rows) >= 10
    unshown = [
        row.check
        for row in rows
        if row.check not in LIMITS and not any(row.code == c and row.message.search(m) for c, m in faults)
    ]
    assert not unshown


def test_the_two_agree_on_most_of_the_corpus() -> None:
    disagree = sum(len(only_ours(kind)) for kind in KINDS)
    refused = sum(len(refused_by_check_jsonschema(kind)) for kind in KINDS)
    print(f"refused by both: {refused}; by us alone: {disagree}")
    assert refused > 2 * disagree
