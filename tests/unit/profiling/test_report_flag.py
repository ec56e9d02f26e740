"""``flashrl profile --report``."""

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
