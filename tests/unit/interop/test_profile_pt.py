"""FlashRL's own profiles come in with the relations that the pair has, and go out equal."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from flashrl_registry.compiler import compile_plan, preset_rules
from flashrl_registry.documents import Plan, UpdateSettings, read_document
from flashrl_registry.errors import InteropError, SchemaError
from flashrl_registry.interop.profile_pt import ImportedProfile, import_int8, read_profile_pt, write_int8, write_names
from flashrl_registry.interop.profile_pt.reciprocals import invert
from flashrl_registry.profiling import profile_pair

INT8_PAIRS = ("smooth", "plain", "float_scales", "half_scales")
UP, DOWN, NORM, Q = (
    f"model.layers.0.{name}.weight" for name in ("mlp.up_proj", "mlp.down_proj", "input_layernorm", "self_attn.q_proj")
)


def imported(file: Path, flashrl: Any, pair: str, folder: Path) -> ImportedProfile:
    inventory = flashrl.inventory(pair)
    entries, _ = read_profile_pt(file, inventory)
    assert isinstance(entries, dict)
    return import_int8(entries, inventory, folder, quantized_name="q", source=str(file))


def frozen_plan(made: ImportedProfile, flashrl: Any, pair: str) -> Plan:
    inventory = flashrl.inventory(pair)
    rules = preset_rules("int8", inventory, made.profile)
    rules = rules.model_copy(update={"update": UpdateSettings(scales="frozen")})
    return compile_plan(rules, inventory, made.profile).plan


def differences(left: dict[str, Any], right: dict[str, Any]) -> list[str]:
    """Entries that are not equal in keys, types, shapes, dtypes or bits; requires_grad does not count."""
    found = sorted(set(left) ^ set(right))
    for name in set(left) & set(right):
        for key in {*left[name], *right[name]}:
            one, other = left[name].get(key), right[name].get(key)
            if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
                same = one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
            else:
                same = type(one) is type(other) and one == other
            if not same:
                found.append(f"{name} {key}")
    return found


def pairs(flashrl: Any) -> list[str]:
    return [name for name in (*INT8_PAIRS, "real") if name in flashrl.references]


def test_an_int8_profile_of_flashrl_comes_back_bit_for_bit(flashrl: Any, tmp_path: Path) -> None:
    for pair in pairs(flashrl):
        file = flashrl.folder / f"{pair}.pt"
        made = imported(file, flashrl, pair, tmp_path / pair)
        write_int8(tmp_path / f"{pair}.pt", frozen_plan(made, flashrl, pair), made.sidecar)
        theirs, ours = (torch.load(path, weights_only=True) for path in (file, tmp_path / f"{pair}.pt"))
        assert differences(theirs, ours) == [], pair
        assert theirs.keys() >= {NORM, Q, UP, DOWN}


def test_the_profile_is_what_our_profiler_measures_on_the_same_pair(flashrl: Any, tmp_path: Path) -> None:
    for pair in ("smooth", *(["real"] if "real" in flashrl.references else [])):
        made = imported(flashrl.folder / f"{pair}.pt", flashrl, pair, tmp_path / pair)
        _, measured = profile_pair(flashrl.references[pair], flashrl.quantized[pair], tmp_path / f"{pair}-measured")
        groups = [{(g.source, g.kind, tuple(sorted(g.targets))) for g in p.smoothing} for p in (made.profile, measured)]
        assert groups[0] == groups[1]
        assert made.profile.tensors == measured.tensors
        theirs, ours = load_file(made.sidecar), load_file(tmp_path / f"{pair}-measured" / measured.sidecar.file_name)
        assert theirs.keys() == ours.keys()
        for key, vector in ours.items():
            if "up_proj" in key and key.startswith("inv_smoothing"):  # sums in another order
                assert torch.allclose(theirs[key], vector, rtol=1e-5, atol=0)
            else:
                assert torch.equal(theirs[key], vector), key


def test_vectors_of_ones_are_no_smoothing_but_come_back(flashrl: Any, tmp_path: Path) -> None:
    made = imported(flashrl.folder / "plain.pt", flashrl, "plain", tmp_path)
    assert {group.kind for group in made.profile.smoothing} == {"linear"}
    kept = [key for key in load_file(made.sidecar) if key.startswith("flashrl/")]
    assert f"flashrl/input_scale/{NORM}" in kept
    assert f"flashrl/input_scale/{Q}" in kept


def test_the_document_is_one_that_the_compiler_and_the_registry_read(flashrl: Any, tmp_path: Path) -> None:
    from flashrl_registry.documents import Profile, write_document

    made = imported(flashrl.folder / "smooth.pt", flashrl, "smooth", tmp_path)
    write_document(made.profile, tmp_path / "profile.yaml")
    assert read_document(tmp_path / "profile.yaml", Profile) == made.profile
    plan = frozen_plan(made, flashrl, "smooth")
    assert plan.count_by_treatment() == {"int8": 14, "keep": 3, "rescale": 4}


def test_a_profile_of_bf16_norms_that_says_float16_is_read_by_the_headers(flashrl: Any, tmp_path: Path) -> None:
    """FlashRL under transformers 4 wrote float16 for every norm."""
    data = torch.load(flashrl.folder / "smooth.pt", weights_only=True)
    for name, entry in data.items():
        if "layernorm" in name:
            entry["type"] = torch.float16
    torch.save(data, tmp_path / "old.pt")
    _, notes = read_profile_pt(tmp_path / "old.pt", flashrl.inventory("smooth"))
    assert notes == ["4 entries have type torch.float16; the checkpoint's headers say otherwise, and they count"]
    made = imported(tmp_path / "old.pt", flashrl, "smooth", tmp_path)
    write_int8(tmp_path / "new.pt", frozen_plan(made, flashrl, "smooth"), made.sidecar)
    again = torch.load(tmp_path / "new.pt", weights_only=True)
    assert again[NORM]["type"] == torch.bfloat16
    assert differences(torch.load(flashrl.folder / "smooth.pt", weights_only=True), again) == []


def test_an_fp8_profile_is_its_list_of_names(flashrl: Any, tmp_path: Path) -> None:
    names, notes = read_profile_pt(flashrl.folder / "fp8.pt", flashrl.inventory("fp8"))
    assert isinstance(names, list)
    assert (len(names), notes) == (14, [])
    write_names(tmp_path / "again.pt", names)
    assert torch.load(tmp_path / "again.pt", weights_only=True) == torch.load(
        flashrl.folder / "fp8.pt", weights_only=True
    )


def change(flashrl: Any, tmp_path: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    data = torch.load(flashrl.folder / "smooth.pt", weights_only=True)
    edit(data)
    torch.save(data, tmp_path / "changed.pt")
    return tmp_path / "changed.pt"


def test_every_entry_that_does_not_fit_the_model_is_named_at_once(flashrl: Any, tmp_path: Path) -> None:
    def edit(data: dict[str, Any]) -> None:
        data["model.layers.0.self_attn.q_porj.weight"] = data[Q]
        data[UP]["output_scale"] = data[UP]["output_scale"][:-1]
        data[DOWN]["input_scale"] = data[DOWN]["input_scale"].clone().detach()
        data[DOWN]["input_scale"][0, 3] = float("nan")
        data[NORM]["type"] = "bfloat16"
        data["model.layers.1.input_layernorm.weight"]["type"] = torch.int8
        data["model.layers.1.mlp.up_proj.weight"] = 3
        data["model.layers.1.mlp.gate_proj.weight"]["input_scale"] = 2.0

    with pytest.raises(SchemaError) as caught:
        read_profile_pt(change(flashrl, tmp_path, edit), flashrl.inventory("smooth"))
    text = str(caught.value)
    assert len(caught.value.findings) == 7
    for part in (
        "q_porj.weight: is no tensor of reference; did you mean 'model.layers.0.self_attn.q_proj",
        "up_proj.weight: output_scale is torch.float32 [47, 1], not torch.float32 [48, 1]",
        "down_proj.weight: input_scale is not positive and finite in 1 of 48 channels",
        "input_layernorm.weight: has type 'bfloat16'",
        "input_layernorm.weight: has type torch.int8, and its shape [32] is no linear's",
        "up_proj.weight: is not a dict of input_scale, output_scale, type: int",
        "gate_proj.weight: input_scale is the number 2.0",
    ):
        assert part in text


def test_factors_that_nothing_explains_are_refused_by_name(flashrl: Any, tmp_path: Path) -> None:
    def edit(data: dict[str, Any]) -> None:
        for leaf in ("q_proj", "k_proj", "v_proj"):
            data[f"model.layers.0.self_attn.{leaf}.weight"]["input_scale"] = 1.0
        data[DOWN]["input_scale"] = (data[DOWN]["input_scale"] * 1.5).detach()

    file = change(flashrl, tmp_path, edit)
    with pytest.raises(SchemaError) as caught:
        imported(file, flashrl, "smooth", tmp_path / "out")
    assert f"{NORM}: is multiplied by factors that no int8 linear divides out" in str(caught.value)


def test_relations_come_from_the_vectors_and_not_from_the_names(flashrl: Any, tmp_path: Path) -> None:
    """The norms of two layers change places, with all that they feed: what feeds what follows."""

    def edit(data: dict[str, Any]) -> None:
        for leaf in ("input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
            one, other = (data[f"model.layers.{layer}.{leaf}.weight"] for layer in (0, 1))
            if leaf == "input_layernorm":
                one["input_scale"], other["input_scale"] = other["input_scale"], one["input_scale"]

    made = imported(change(flashrl, tmp_path, edit), flashrl, "smooth", tmp_path / "out")
    targets = {group.source: group.targets for group in made.profile.smoothing}
    assert Q in targets["model.layers.1.input_layernorm.weight"]


def test_equal_factors_of_two_norms_are_refused(flashrl: Any, tmp_path: Path) -> None:
    def edit(data: dict[str, Any]) -> None:
        data["model.layers.1.input_layernorm.weight"]["input_scale"] = data[NORM]["input_scale"]

    with pytest.raises(SchemaError, match="could be fed by each of"):
        imported(change(flashrl, tmp_path, edit), flashrl, "smooth", tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"no pickle", b"PK\x03\x04 cut short", b"\x80\x02c__builtin__\nprint\n."])
def test_what_is_no_profile_or_runs_code_is_refused(tmp_path: Path, flashrl: Any, content: bytes) -> None:
    (tmp_path / "p.pt").write_bytes(content)
    with pytest.raises(InteropError, match="is no profile that can be read without running code"):
        read_profile_pt(tmp_path / "p.pt", flashrl.inventory("smooth"))


@pytest.mark.parametrize("content", [3, torch.ones(2), "x"])
def test_other_content_is_refused(tmp_path: Path, flashrl: Any, content: object) -> None:
    torch.save(content, tmp_path / "p.pt")
    with pytest.raises(InteropError, match="an int8 profile is a dict"):
        read_profile_pt(tmp_path / "p.pt", flashrl.inventory("smooth"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_reciprocal_leads_back_to_the_number(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    numbers = torch.exp(4 * torch.randn(20_000, generator=generator)).to(dtype).float()
    numbers = numbers[torch.isfinite(numbers) & (numbers > 0)]
    found, exact = invert(1.0 / numbers)
    assert exact.all()
    assert torch.equal(1.0 / found, 1.0 / numbers)
    if dtype != torch.float32:
        assert torch.equal(found, numbers)
