"""``make demo-hub``: what README.md shows is what happens."""

import difflib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]
PAIR = Path(os.environ.get("FLASHRL_TEST_PAIR", ROOT / ".cache" / "demo" / "pair"))
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    """demo/hub.py."""
    spec = importlib.util.spec_from_file_location("demo_hub", ROOT / "demo" / "hub.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.hub
@pytest.mark.vllm
def test_the_readme_shows_how_a_plan_comes_over_a_hub_into_an_engine(demo: ModuleType, tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(ROOT / "demo" / "prepare_pair.py"), "--out", str(PAIR)], check=True)
    now, shown = demo.comparable(demo.transcript(tmp_path / "work", PAIR)), demo.comparable(demo.in_readme(README))
    differ = "\n".join(difflib.unified_diff(shown.splitlines(), now.splitlines(), "README.md", "now", lineterm="", n=0))
    assert not differ, f"{differ}\nrefresh it with: python demo/hub.py --write"
    assert now.count("<text>") == 2, "the engine generates"


def test_runs_on_two_machines_are_compared_by_what_is_the_same_in_them(demo: ModuleType) -> None:
    one, two = "a" * 64, "b" * 64
    first = f"digest sha256:{one}\nsha256:{one[:12]} at {two[:40]}\nThe sky is ->' blue, \\'tis'\nA    B\n"
    other = first.replace("a" * 12, "c" * 12).replace("c" * 60 + "aaaa", "c" * 64).replace("blue", "grey")
    assert demo.comparable(first) == "digest <1>\n<1> at <2>\nThe sky is -><text>\nA  B\n"
    assert demo.comparable(other) == demo.comparable(first)
    assert demo.comparable(first) != demo.comparable(first.replace(f"{one[:12]} at", f"{two[:12]} at"))
