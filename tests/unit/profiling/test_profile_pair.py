"""What a profile says of a pair whose factors are known."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from flashrl_registry.documents import Profile, read_document
from flashrl_registry.documents.names import expand, natural_key
from flashrl_registry.documents.quantization import INT8_ACTIVATIONS
from flashrl_registry.ops import codes_int8, smoothed
from flashrl_registry.profiling import changes, compiled, profile_pair, reader, sample

UP, DOWN, Q, OUT = (
    f"model.layers.0.{name}.weight" for name in ("mlp.up_proj", "mlp.down_proj", "self_attn.q_proj", "self_attn.o_proj")
)


def test_factors_of_norms_come_back_exactly(pair: Any, tmp_path: Path) -> None:
    document, profile = profile_pair(*pair.write(), tmp_path / "out")
    vectors = load_file(tmp_path / "out" / profile.sidecar.file_name)
    norms = [group for group in profile.smoothing if group.kind == "norm"]
    assert len(norms) == 4
    for group in norms:
        expected = pair.inv_smoothing[group.source]
        assert torch.equal(vectors[f"inv_smoothing/{group.source}"], expected)
        assert (group.smallest, group.largest) == (expected.min().item(), expected.max().item())
    assert document == tmp_path / "out" / "profile.yaml"


def test_scales_are_those_of_the_checkpoint_bit_for_bit(pair: Any, tmp_path: Path) -> None:
    _, profile = profile_pair(*pair.write(), tmp_path / "out")
    vectors = load_file(tmp_path / "out" / profile.sidecar.file_name)
    scales = {key: tensor for key, tensor in vectors.items() if key.startswith("weight_scale/")}
    assert len(scales) == 14
    for key, scale in scales.items():
        stored = pair.quantized[key.removeprefix("weight_scale/") + "_scale"]
        assert scale.dtype == torch.float32
        assert torch.equal(scale, stored.float().flatten())


def test_row_factors_come_back_within_rounding(pair: Any, tmp_path: Path) -> None:
    _, profile = profile_pair(*pair.write(), tmp_path / "out")
    vectors = load_file(tmp_path / "out" / profile.sidecar.file_name)
    (group,) = (group for group in profile.smoothing if group.source == UP)
    assert (group.kind, group.targets) == ("linear", [DOWN])
    error = vectors[f"inv_smoothing/{UP}"] / pair.inv_smoothing[UP] - 1
    assert error.abs().max() < 0.01


def test_the_vectors_requantize_the_reference_to_the_checkpoints_codes(pair: Any, tmp_path: Path) -> None:
    _, profile = profile_pair(*pair.write(), tmp_path / "out")
    vectors = load_file(tmp_path / "out" / profile.sidecar.file_name)
    columns = {
        target: vectors[f"inv_smoothing/{group.source}"] for group in profile.smoothing for target in group.targets
    }
    for name in (Q, OUT):
        weight = smoothed(pair.reference[name], inv_columns_I=columns.get(name))
        codes = codes_int8(weight, vectors[f"weight_scale/{name}"].view(-1, 1))
        assert torch.equal(codes, pair.quantized[name])


def test_facts_say_how_well_each_linear_is_reproduced(pair: Any, tmp_path: Path) -> None:
    _, profile = profile_pair(*pair.write(), tmp_path / "out")
    facts = {linear.name: linear for linear in profile.linears}
    assert list(facts) == sorted(facts, key=natural_key)
    assert len(facts) == 14
    for entry in profile.linears:
        assert 0.2 < entry.residual_rms < 0.45
        assert entry.rows_checked == min(32, pair.reference[entry.name].shape[0])
    assert facts[Q].codes_equal == 1
    assert facts[Q].largest_difference == 0
    assert facts[UP].codes_equal > 0.8


def test_every_tensor_of_the_reference_has_a_role(pair: Any, tmp_path: Path) -> None:
    _, profile = profile_pair(*pair.write(), tmp_path / "out")
    roles = {name: family.role for family in profile.tensors for name in expand(family.names)}
    assert set(roles) == set(pair.reference)
    assert roles["model.embed_tokens.weight"] == roles["lm_head.weight"] == roles["model.norm.weight"] == "unchanged"
    assert roles["model.layers.1.post_attention_layernorm.weight"] == "rescaled"
    assert roles[OUT] == "quantized"
    assert "model.layers.{0..1}.mlp.up_proj.weight" in {family.names for family in profile.tensors}


def test_the_document_is_sealed_and_reads_back(pair: Any, tmp_path: Path) -> None:
    document, profile = profile_pair(*pair.write(), tmp_path / "x.yaml")
    assert read_document(document, Profile) == profile
    assert profile.digest == profile.compute_digest()
    sidecar = document.parent / profile.sidecar.file_name
    assert hashlib.sha256(sidecar.read_bytes()).hexdigest() == sidecar.stem
    assert profile.sidecar.num_bytes == sidecar.stat().st_size
    assert (profile.reference.name, profile.quantized.name) == ("reference", "quantized")
    assert profile.quantized.input_activations == INT8_ACTIVATIONS


def test_two_runs_give_the_same_bytes(pair: Any, tmp_path: Path) -> None:
    folders = pair.write()
    for name in ("a", "b"):
        profile_pair(*folders, tmp_path / name)
    first, second = (sorted((tmp_path / name).iterdir()) for name in ("a", "b"))
    assert [file.name for file in first] == [file.name for file in second]
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


def test_nothing_but_the_two_files_is_left(pair: Any, tmp_path: Path) -> None:
    _, profile = profile_pair(*pair.write(), tmp_path / "out")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"profile.yaml", profile.sidecar.file_name}


def test_an_unsmoothed_pair_has_row_factors_near_one_and_no_norms(unsmoothed_pair: Any, tmp_path: Path) -> None:
    _, profile = profile_pair(*unsmoothed_pair.write(), tmp_path / "out")
    assert [group.kind for group in profile.smoothing] == ["linear", "linear"]
    for group in profile.smoothing:
        assert abs(group.smallest - 1) < 0.02
        assert abs(group.largest - 1) < 0.02
    assert not [family for family in profile.tensors if family.role == "rescaled"]


def test_channels_that_are_zero_in_both_checkpoints_have_factor_one(pair: Any, tmp_path: Path) -> None:
    norm = "model.layers.0.input_layernorm.weight"
    for state in (pair.reference, pair.quantized):
        state[norm][3] = 0
        state[UP][5] = 0
    _, profile = profile_pair(*pair.write(), tmp_path / "out")
    vectors = load_file(tmp_path / "out" / profile.sidecar.file_name)
    assert {g.source: g.num_zero_channels for g in profile.smoothing if g.num_zero_channels} == {norm: 1, UP: 1}
    assert vectors[f"inv_smoothing/{norm}"][3] == vectors[f"inv_smoothing/{UP}"][5] == 1


def test_a_linear_that_stayed_bf16_is_unchanged_and_takes_no_factor(unsmoothed_pair: Any, tmp_path: Path) -> None:
    pair = unsmoothed_pair
    pair.quantized[DOWN] = pair.reference[DOWN]
    del pair.quantized[f"{DOWN}_scale"]
    _, profile = profile_pair(*pair.write(), tmp_path / "out")
    assert [group.source for group in profile.smoothing] == ["model.layers.1.mlp.up_proj.weight"]
    roles = {name: family.role for family in profile.tensors for name in expand(family.names)}
    assert (roles[DOWN], roles[UP]) == ("unchanged", "quantized")


def test_scales_without_a_second_dimension_and_weight_only_checkpoints_are_read(pair: Any, tmp_path: Path) -> None:
    pair.quantized[f"{Q}_scale"] = pair.quantized[f"{Q}_scale"].flatten()
    pair.group["input_activations"] = None
    _, profile = profile_pair(*pair.write(), tmp_path / "out")
    assert profile.quantized.input_activations is None


def test_unquantized_tensors_may_be_cast(pair: Any, tmp_path: Path) -> None:
    for name in ("model.embed_tokens.weight", "model.norm.weight"):
        pair.reference[name] = pair.reference[name].float() * 1.0001
        pair.quantized[name] = pair.reference[name].to(torch.float16)
    _, profile = profile_pair(*pair.write(), tmp_path / "out")
    dtypes = {name: family.dtype for family in profile.tensors for name in expand(family.names)}
    assert dtypes["model.norm.weight"] == "float32"


def test_sharded_checkpoints_give_the_same_profile(pair: Any, tmp_path: Path) -> None:
    reference, quantized = pair.write()
    _, whole = profile_pair(reference, quantized, tmp_path / "whole")
    names = sorted(pair.reference)
    weight_map = {name: f"model-{index % 3}.safetensors" for index, name in enumerate(names)}
    for file in set(weight_map.values()):
        save_file({name: pair.reference[name] for name in names if weight_map[name] == file}, reference / file)
    (reference / "model.safetensors").unlink()
    (reference / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert profile_pair(reference, quantized, tmp_path / "sharded")[1].digest == whole.digest


def test_progress_counts_every_tensor_once(pair: Any, tmp_path: Path) -> None:
    calls: list[tuple[int, int, str, int]] = []
    profile_pair(*pair.write(), tmp_path / "out", progress=lambda *call: calls.append(call))
    total = len(pair.reference)
    assert [done for done, *_ in calls] == list(range(1, total + 1))
    assert {call[1] for call in calls} == {total}
    assert {call[2] for call in calls} == set(pair.reference)
    read = [call[3] for call in calls]
    assert read == sorted(read)
    assert read[-1] > 0


def test_memory_is_bounded_by_the_chunk_and_not_by_the_tensor(
    pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = pair.write()
    _, expected = profile_pair(*folders, tmp_path / "whole", every_row=True)
    sizes: list[int] = []
    read_into = reader.LocalFiles.read_into

    def spy(self: reader.LocalFiles, file: Path, start: int, buffer: memoryview) -> int:
        sizes.append(len(buffer))
        return read_into(self, file, start, buffer)

    monkeypatch.setattr(reader.LocalFiles, "read_into", spy)
    monkeypatch.setattr(compiled, "CHUNK_ELEMENTS", 64)
    monkeypatch.setattr(changes, "_COMPARED_BYTES", 128)
    monkeypatch.setattr(sample, "ROWS_SAMPLED", 8)
    _, chunked = profile_pair(*folders, tmp_path / "chunked", every_row=True)
    assert max(sizes) <= 512
    assert chunked.digest == expected.digest
