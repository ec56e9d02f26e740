"""``flashrl-registry report`` as people run it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from report_documents import Documents

from flashrl_cli.app import run
from flashrl_registry.documents import write_document

ROOT = Path(__file__).parents[3]
BUNDLED = ROOT / "profiles" / "HuggingFaceTB" / "SmolLM2-135M-Instruct" / "int8" / "profile.yaml"


def report(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run("flashrl-registry", ["report", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_profile_becomes_a_page_and_a_file_of_facts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, facts = tmp_path / "new" / "report.html", tmp_path / "report.json"
    code, out, err = report(capsys, BUNDLED, "-o", page, "--facts", facts)
    assert (code, err) == (0, "")
    assert "linears    210" in out
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert len(json.loads(facts.read_text())["linears"]) == 210


def test_json_says_what_was_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = report(capsys, BUNDLED.parent, "-o", tmp_path / "x.html", "--plan", BUNDLED.parent, "--json")
    said = json.loads(out)
    assert (code, said["ok"], said["summary"]["num_linears"]) == (0, True, 210)
    assert said["num_bytes"] == (tmp_path / "x.html").stat().st_size


def test_scores_of_another_model_are_one_error(
    documents: Documents, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_document(documents.sensitivity, tmp_path / "scores.yaml")
    code, out, err = report(capsys, BUNDLED, "-o", tmp_path / "x.html", "--sensitivity", tmp_path / "scores.yaml")
    assert (code, out) == (1, "")
    assert "sensitivity: the scores are of" in err
    assert not (tmp_path / "x.html").exists()


@pytest.mark.parametrize("files", [("-o", "profile.yaml"), ("-o", "x.html", "--facts", "profile.yaml"), ("-o", ".")])
def test_a_report_is_never_written_over_a_document(
    files: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("profile.yaml").write_text("mine")
    code, _, err = report(capsys, BUNDLED, *files)
    assert code == 2
    assert "is not a file such as report." in err
    assert [(path.name, path.read_text()) for path in Path().iterdir()] == [("profile.yaml", "mine")]


def test_without_matplotlib_it_says_what_to_install(tmp_path: Path) -> None:
    code = f"""
import sys
sys.modules["matplotlib"] = None
from flashrl_cli.app import run
sys.exit(run("flashrl-registry", ["report", {str(BUNDLED)!r}, "-o", {str(tmp_path / "x.html")!r}]))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "a report needs matplotlib" in ran.stderr
    assert 'pip install "flashrl-registry[report]"' in ran.stderr


def test_it_needs_no_torch(tmp_path: Path) -> None:
    code = f"""
import sys
from flashrl_cli.app import run
code = run("flashrl-registry", ["report", {str(BUNDLED)!r}, "-o", {str(tmp_path / "x.html")!r}])
sys.exit(code or any(name in sys.modules for name in ("torch", "numba", "transformers", "matplotlib.pyplot")))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
