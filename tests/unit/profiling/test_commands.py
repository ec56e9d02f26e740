"""``flashrl profile`` and ``flashrl-registry profile-verify`` as a user types them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from flashrl_cli.app import run


def test_a_profile_is_made_and_replayed(pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(folder) for folder in pair.write()]
    out = str(tmp_path / "out")
    assert run("flashrl", ["profile", "-m", folders[0], "-qm", folders[1], "-o", out, "--threads", "2"]) == 0
    shown = capsys.readouterr().out
    assert "rounding   14 nearest" in shown
    assert "limits" not in shown
    assert run("flashrl-registry", ["profile-verify", f"{out}/profile.yaml", *folders]) == 0
    shown = capsys.readouterr().out
    assert "describes this pair" in shown
    assert "norms      4 equal to the last bit" in shown
    assert run("flashrl-registry", ["profile-verify", f"{out}/profile.yaml", *folders, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["ok"]
    assert len(data["linears"]) == data["num_linears"] == 14


def test_the_summary_says_how_many_rows_were_compared_and_how_to_compare_all(
    pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(folder) for folder in pair.write()]
    command = ["profile", "-m", folders[0], "-qm", folders[1], "-o", str(tmp_path / "out")]
    assert run("flashrl", command) == 0
    line = "rows       384 of 448 compared, an even sample of each linear; --every-row compares all\n"
    assert line in capsys.readouterr().out
    assert run("flashrl", [*command, "--every-row"]) == 0
    assert "rows       448 of 448 compared\n" in capsys.readouterr().out
    assert run("flashrl", [*command, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["rows_checked"], data["num_rows"]) == (384, 448)


def test_a_profile_is_verified_by_every_name_that_it_was_written_under(
    pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(folder) for folder in pair.write()]
    for out, name in (("out", "out"), ("out", "out/profile.yaml"), ("x.pt", "x.pt"), ("x.pt", "x.yaml")):
        assert run("flashrl", ["profile", "-m", folders[0], "-qm", folders[1], "-o", str(tmp_path / out)]) == 0
        assert run("flashrl-registry", ["profile-verify", str(tmp_path / name), *folders]) == 0
    capsys.readouterr()
    (tmp_path / "empty").mkdir()
    assert run("flashrl-registry", ["profile-verify", str(tmp_path / "empty"), *folders]) == 1
    assert f"{tmp_path / 'empty' / 'profile.yaml'}: cannot be read: No such file" in capsys.readouterr().err


def test_a_profile_of_another_pair_is_refused_with_exit_code_1(
    pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(folder) for folder in pair.write()]
    out = str(tmp_path / "out")
    assert run("flashrl", ["profile", "-m", folders[0], "-qm", folders[1], "-o", out, "--json"]) == 0
    norm = "model.layers.1.input_layernorm.weight"
    pair.quantized[norm] = pair.quantized[norm] * 4
    folders = [str(folder) for folder in pair.write()]
    capsys.readouterr()
    assert run("flashrl-registry", ["profile-verify", f"{out}/profile.yaml", *folders]) == 1
    assert f"{norm}: is not the reference's norm times the profile's factor" in capsys.readouterr().err


def test_what_a_plan_cannot_use_is_said(pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, factor in pair.inv_smoothing.items():
        if "layernorm" in name:  # norms as Gemma has them
            weight = pair.reference[name] = (pair.reference[name].float().abs() * 0.5).to(torch.bfloat16)
            pair.quantized[name] = ((1 + weight.float()) * factor - 1).to(torch.bfloat16)
    folders = [str(folder) for folder in pair.write()]
    arguments = ["profile", "-m", folders[0], "-qm", folders[1], "-o", str(tmp_path / "out")]
    assert run("flashrl", arguments) == 0
    assert "plans cannot apply 4 factors yet" in capsys.readouterr().out
    assert run("flashrl", [*arguments, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert len(data["not_applicable"]) == 4
    assert "multiplies by 1 + w" in data["not_applicable"][0]


@pytest.mark.parametrize("order", [(1, 0), (0, 0), (1, 1)])
def test_swapped_and_repeated_checkpoints_are_one_error(
    pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], order: tuple[int, int]
) -> None:
    folders = pair.write()
    arguments = ["-m", str(folders[order[0]]), "-qm", str(folders[order[1]]), "-o", str(tmp_path / "out")]
    assert run("flashrl", ["profile", *arguments]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert "(-m)" in shown
    assert not (tmp_path / "out").exists()
