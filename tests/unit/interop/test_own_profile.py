"""A FlashRL config that names a profile of ours runs: FlashRL's two commands, ``profile`` and ``setup``, by ours."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flashrl_registry.errors import IntegrityError, NotFoundError
from flashrl_registry.registry import read_bundle
from flashrl_registry.runtime.reference import plan_reference

Command = Callable[..., Any]


@pytest.fixture
def job(flashrl: Any, cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A folder in which a pair was profiled, as FlashRL's own instructions say."""
    (tmp_path / "job").mkdir()
    monkeypatch.chdir(tmp_path / "job")
    pair = ("-m", flashrl.references["smooth"], "-qm", flashrl.quantized["smooth"])
    ran = cli("profile", *pair, "-o", "profile.pt", "--fn", "int8", program="flashrl")
    assert ran.code == 0, ran.err
    return flashrl


def plan_of(config: str, job: Any) -> Any:
    ref = plan_reference(config, Path("registry"), lambda: job.inventory("smooth"))
    return read_bundle(ref.path)  # type: ignore[union-attr]


@pytest.mark.parametrize("named", ["profile.pt", "profile.yaml", ".", "absolute"])
def test_setup_with_our_profile_writes_a_config_that_runs(job: Any, cli: Command, named: str, tmp_path: Path) -> None:
    profile = Path("profile.yaml").resolve() if named == "absolute" else named
    ran = cli("setup", "-m", job.quantized["smooth"], "-p", profile, "-o", "config.yaml", "--json", program="flashrl")
    assert ran.code == 0, ran.err
    assert any("FlashRL itself cannot read" in note for note in ran.json["notes"])
    started = plan_of("config.yaml", job)
    assert started.plan.count_by_treatment()["int8"] == 14
    assert started.plan.update.scales == "recompute"
    assert started.sidecar is not None

    model = job.references["smooth"]
    ran = cli("import", "config.yaml", "-m", model, "-o", tmp_path / "imported", "--json")
    assert ran.code == 0, ran.out
    ran = cli("compile", "-m", model, "--scheme", "int8", "--profile", "profile.yaml", "-o", tmp_path / "compiled")
    assert ran.code == 0, ran.err
    compiled, imported = (read_bundle(tmp_path / name).plan for name in ("compiled", "imported"))
    assert imported.digest == started.plan.digest
    assert imported.profile == compiled.profile
    assert imported.tensors == compiled.tensors


def test_an_import_with_force_replaces_a_plan_with_its_profile(job: Any, cli: Command, tmp_path: Path) -> None:
    cli("setup", "-m", job.quantized["smooth"], "-p", "profile.pt", "-o", "config.yaml", program="flashrl")
    to = ("-m", job.references["smooth"], "-o", tmp_path / "out")
    assert cli("import", "config.yaml", *to).code == 0
    assert (tmp_path / "out" / "profile.yaml").exists()
    Path("plain.yaml").write_text("configs: [{fn: bf16}]")
    before = sorted((tmp_path / "out").iterdir())
    assert cli("import", "plain.yaml", *to).code == 1
    assert sorted((tmp_path / "out").iterdir()) == before
    assert cli("import", "plain.yaml", *to, "--force").code == 0
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"plan.yaml", "plan.json"}
    assert read_bundle(tmp_path / "out").profile is None


def test_a_profile_beside_the_config_is_found_from_anywhere(
    job: Any, cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli("setup", "-m", job.quantized["smooth"], "-p", "profile.pt", "-o", "config.yaml", program="flashrl")
    monkeypatch.chdir(tmp_path)
    assert plan_of("job/config.yaml", job).sidecar is not None


def test_an_fp8_entry_takes_its_scales_from_the_weights(job: Any, cli: Command, tmp_path: Path) -> None:
    options = ("-m", job.quantized["smooth"], "-p", "profile.yaml", "--fn", "fp8_channel", "-o", "config.yaml")
    assert cli("setup", *options, program="flashrl").code == 0
    ran = cli("import", "config.yaml", "-m", job.references["smooth"], "-o", tmp_path / "imported", "--json")
    assert ran.code == 0, ran.out
    assert any("is not used" in note for note in ran.json["notes"])
    assert read_bundle(tmp_path / "imported").plan.count_by_treatment()["fp8_channel"] == 14


def test_vectors_that_are_missing_or_damaged_are_one_clear_error(job: Any, cli: Command) -> None:
    cli("setup", "-m", job.quantized["smooth"], "-p", "profile.pt", "-o", "config.yaml", program="flashrl")
    [vectors] = Path().glob("*.safetensors")
    data = vectors.read_bytes()
    vectors.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(IntegrityError):
        plan_of("config.yaml", job)
    vectors.unlink()
    with pytest.raises(NotFoundError):
        plan_of("config.yaml", job)
