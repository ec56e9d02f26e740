"""FLASHRL_CONFIG as FlashRL's own config file: compiled for the engine's model, and the same at every start."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from flashrl_registry.errors import ResolutionError, SchemaError
from flashrl_registry.registry import NamedRef, PathRef, PresetRef, read_bundle
from flashrl_registry.resolver import open_hybrid
from flashrl_registry.runtime.reference import plan_reference


@pytest.fixture
def job(flashrl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The folder of a FlashRL job."""
    (tmp_path / "profiles").mkdir()
    shutil.copy(flashrl.folder / "smooth.pt", tmp_path / "profiles" / "profile.pt")
    monkeypatch.chdir(tmp_path)
    return flashrl


def reference(job: Any, config: str, pair: str = "smooth") -> Any:
    return plan_reference(config, Path("registry"), lambda: job.inventory(pair))


def no_model() -> None:
    raise AssertionError("our own references need no model here")


def test_int8_with_its_profile_becomes_a_pinned_plan_of_its_own(job: Any) -> None:
    ref = reference(job, str(job.folder / "int8.yaml"))
    assert isinstance(ref, PathRef)
    bundle = read_bundle(ref.path)
    assert bundle.plan.digest == ref.digest
    assert bundle.sidecar is not None
    assert bundle.plan.update.scales == "frozen"
    assert bundle.plan.count_by_treatment()["int8"] == 14
    before = {file: file.stat().st_mtime_ns for file in ref.path.rglob("*")}
    assert reference(job, str(job.folder / "int8.yaml")) == ref
    assert {file: file.stat().st_mtime_ns for file in ref.path.rglob("*")} == before, "a restart finds the same files"
    assert [entry.name for entry in ref.path.parent.iterdir()] == [ref.path.name], "nothing half made is left"


def test_damaged_files_of_an_earlier_start_are_made_again(job: Any) -> None:
    ref = reference(job, str(job.folder / "int8.yaml"))
    next(ref.path.glob("*.safetensors")).write_bytes(b"")
    assert reference(job, str(job.folder / "int8.yaml")) == ref
    assert read_bundle(ref.path).plan.digest == ref.digest


@pytest.mark.parametrize("function", ["fp8", "fp8_vllm", "fp8_fast", "fp8_vllm_fast", "bf16"])
def test_functions_without_a_profile(job: Any, function: str) -> None:
    ref = reference(job, str(job.folder / f"{function}.yaml"))
    treatments = set(read_bundle(ref.path).plan.count_by_treatment())
    assert treatments == ({"keep"} if function == "bf16" else {"keep", "fp8"})


def test_several_entries_become_a_hybrid(job: Any) -> None:
    Path("two.yaml").write_text("configs:\n- {fn: int8, model: q, profile: profiles/profile.pt}\n- {fn: bf16}\n")
    ref = reference(job, "two.yaml")
    opened = open_hybrid(ref)
    assert opened is not None
    assert [member.name for member in opened.hybrid.members] == ["int8", "bf16"]
    assert opened.hybrid.compute_digest() == ref.digest
    assert read_bundle(opened.file.parent / "int8").plan.digest == opened.hybrid.members[0].digest


def test_a_missing_profile_is_one_clear_error(job: Any) -> None:
    Path("config.yaml").write_text("configs: [{fn: int8, model: ./quantized}]\n")
    with pytest.raises(SchemaError, match=r"config\.yaml:1:\d+: .* no file \./quantized/profile\.pt"):
        reference(job, "config.yaml")


def test_a_model_without_headers_is_refused(job: Any) -> None:
    with pytest.raises(ResolutionError, match="no safetensors headers"):
        plan_reference(str(job.folder / "int8.yaml"), Path("registry"), lambda: None)


def test_our_own_references_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("schema_version: flashrl.plan/v1\n")
    for text, kind in (("int8", PresetRef), ("org/name@1.0.0", NamedRef), (str(tmp_path / "plan.yaml"), PathRef)):
        assert isinstance(plan_reference(text, tmp_path, no_model), kind)
