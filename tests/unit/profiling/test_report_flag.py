"""``flashrl profile --report``."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flashrl_cli.app import run


def test_a_profile_run_draws_its_report_when_it_is_asked(
    pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference, quantized = pair.write()
    command = ["profile", "-m", str(reference), "-qm", str(quantized), "-o", str(tmp_path / "out"), "--report"]
    assert run("flashrl", command) == 0
    page = tmp_path / "out" / "profile.html"
    assert f"report     {page}" in capsys.readouterr().out
    assert "model.layers.1.mlp.down_proj.weight" in page.read_text()
    assert run("flashrl-registry", ["report", str(tmp_path / "out"), "-o", str(tmp_path / "again.html")]) == 0
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_a_report_that_cannot_be_drawn_is_said_before_the_work(
    pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.startswith("flashrl_registry.report")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    reference, quantized = pair.write()
    command = ["profile", "-m", str(reference), "-qm", str(quantized), "-o", str(tmp_path / "out"), "--report"]
    assert run("flashrl", command) == 1
    assert 'pip install "flashrl-registry[report]"' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


FULL = """
import resource, sys
from flashrl_cli.app import run
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(run(sys.argv[2], sys.argv[3:]))
"""


def run_full(limit: int, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process whose files can be no larger than so many bytes."""
    root = Path(__file__).parents[3]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "cli"), *sys.path])}
    line = [sys.executable, "-c", FULL, str(limit), *command]
    return subprocess.run(line, env=environ, capture_output=True, text=True, check=False)


def test_a_disk_that_does_not_hold_the_report_leaves_an_older_profile_as_it_was(pair: Any, tmp_path: Path) -> None:
    """The profile and its vectors would fit; the page does not."""
    out = tmp_path / "out"
    command = ["profile", "-o", str(out), "--report"]
    assert run("flashrl", [*command, *("-m", str(pair.write()[0])), *("-qm", str(pair.write()[1]))]) == 0
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    name = "model.layers.0.self_attn.q_proj.weight"
    pair.quantized[name] = pair.quantized[name].clone()
    pair.quantized[name][0, 0] ^= 1
    scale = "model.layers.0.self_attn.o_proj.weight_scale"
    pair.quantized[scale] = pair.quantized[scale] * 1.01
    reference, quantized = map(str, pair.write())
    limit = max(len(data) for file, data in before.items() if not file.endswith(".html")) + 4096
    assert limit < len(before["profile.html"])
    ran = run_full(limit, "flashrl", *command, "-m", reference, "-qm", quantized, "--json")
    assert ran.returncode == 1, ran.stderr
    error = json.loads(ran.stdout)["error"]
    assert error["message"] == f"{out / 'profile.html'} cannot be written: File too large"
    assert "as it was" in error["hint"]
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    assert not list(tmp_path.glob(".flashrl-profile-*"))


def test_a_report_whose_place_is_taken_by_a_folder_is_named_and_nothing_is_written(
    pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference, quantized = pair.write()
    (tmp_path / "out" / "profile.html").mkdir(parents=True)
    command = ["profile", "-m", str(reference), "-qm", str(quantized), "-o", str(tmp_path / "out"), "--report"]
    assert run("flashrl", command) == 1
    assert f"{tmp_path / 'out' / 'profile.html'} cannot be written: Is a directory" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["profile.html"]


def test_a_report_that_a_disk_does_not_hold_is_named_by_the_report_command_too(pair: Any, tmp_path: Path) -> None:
    reference, quantized = map(str, pair.write())
    assert run("flashrl", ["profile", "-m", reference, "-qm", quantized, "-o", str(tmp_path / "out")]) == 0
    page = tmp_path / "page.html"
    ran = run_full(4096, "flashrl-registry", "report", str(tmp_path / "out"), "-o", str(page))
    assert ran.returncode == 1
    assert ran.stderr.startswith(f"error: {page}: File too large")
    assert {file.name for file in tmp_path.iterdir()} == {"reference", "quantized", "out"}
