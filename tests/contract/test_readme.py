"""The commands that README.md shows print what it shows."""

import difflib
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def refresh() -> ModuleType:
    """docs/refresh_readme.py."""
    spec = importlib.util.spec_from_file_location("refresh_readme", ROOT / "docs" / "refresh_readme.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_the_readme_shows_is_what_commands_print(refresh: ModuleType) -> None:
    now = refresh.refreshed(README)
    differ = "\n".join(
        difflib.unified_diff(README.splitlines(), now.splitlines(), "README.md", "now", lineterm="", n=0)
    )
    assert not differ, f"{differ}\nrefresh it with: python docs/refresh_readme.py --write"
    for command in ("explain", "diff", "lint", "migrate", "validate"):
        assert f"$ flashrl-registry {command} " in "".join(refresh._BLOCK.findall(README)), command


def test_an_output_that_differs_is_noticed(refresh: ModuleType) -> None:
    block = f"{refresh.MARKER}\n```console\n$ cd examples\n$ flashrl-registry show ./nothing-here --json\n{{}}\n```\n"
    assert refresh.num_blocks(block) == 1
    assert '"code": "not-found"' in refresh.refreshed(block)
    assert refresh.refreshed(block.replace(refresh.MARKER, "")) == block.replace(refresh.MARKER, "")
