"""Pairs that tools do make and that look wrong at first: each is profiled, and its profile replays."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pairs import folded, linears

from flashrl_registry.documents import Profile
from flashrl_registry.errors import CheckpointMismatchError
from flashrl_registry.profiling import profile_pair, verify_profile

L0 = "model.layers.0."
UP, DOWN, GATE = (f"{L0}mlp.{name}_proj.weight" for name in ("up", "down", "gate"))
V, OUT = (f"{L0}self_attn.{name}_proj.weight" for name in "vo")


def accepted(pair: Any, folder: Path) -> Profile:
    """Profile in both ways, and replay."""
    folders = pair.write()
    document, profile = profile_pair(*folders, folder / "sampled")
    verify_profile(document, *folders)
    verify_profile(profile_pair(*folders, folder / "every", every_row=True)[0], *folders)
    return profile


def test_norms_in_float32_replay_although_a_quotient_is_not_exact(pair: Any, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    for name, tensor in pair.reference.items():
        pair.reference[name] = tensor.float()
        if name not in pair.inv_smoothing and name in pair.quantized and not name.endswith("_proj.weight"):
            pair.quantized[name] = tensor.float()
    for name in [name for name in pair.inv_smoothing if name.endswith("layernorm.weight")]:
        factor = torch.exp(torch.randn(32, generator=generator))
        pair.inv_smoothing[name] = factor
        pair.quantized[name] = pair.reference[name] / (1 / factor)
    for name in linears(pair):
        weight = folded(pair, name)
        scale = weight.abs().amax(dim=1, keepdim=True) / 127
        pair.quantized[name], pair.quantized[f"{name}_scale"] = (weight / scale).round().to(torch.int8), scale
    assert len(accepted(pair, tmp_path).smoothing) == 6


def test_rows_that_differ_from_each_other_are_no_drift_of_a_sample(pair: Any, tmp_path: Path) -> None:
    """The share of equal codes is that of the rows that were looked at, and others have another."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(512, 32, generator=generator).to(torch.bfloat16)
    scale = weight.float().abs().amax(dim=1, keepdim=True) / 127
    shift = torch.zeros(512, 32)
    shift[(torch.arange(512) // 8 % 2 == 0), ::4] = 1  # the first and the last rows, and half of the others
    shift[-8:, ::4] = 1
    name = f"{L0}self_attn.gate.weight"
    pair.reference[name], pair.quantized[f"{name}_scale"] = weight, scale
    pair.quantized[name] = ((weight.float() / scale).round() + shift).clamp(-128, 127).to(torch.int8)
    accepted(pair, tmp_path)


@pytest.mark.parametrize("tiny", [1e-9, 1e-20, 1e-38])
def test_rows_that_are_too_small_for_a_code_have_no_factor_and_are_no_fault(
    pair: Any, tmp_path: Path, tiny: float
) -> None:
    """A neuron that has decayed: its scale is the smallest that a tool writes, and its codes are zero."""
    pair.reference[UP][3] = (pair.reference[UP][3].float() * tiny).to(torch.bfloat16)
    pair.quantized[UP][3], pair.quantized[f"{UP}_scale"][3] = 0, torch.finfo(torch.float32).eps
    (group,) = (group for group in accepted(pair, tmp_path).smoothing if group.source == UP)
    assert group.num_zero_channels == 1


def test_codes_that_are_zero_where_the_weights_are_not_are_a_fault_still(pair: Any, tmp_path: Path) -> None:
    pair.quantized[UP][3] = 0
    with pytest.raises(CheckpointMismatchError, match=f"{UP}: has no positive, finite factor in 1 of 48 channels"):
        profile_pair(*pair.write(), tmp_path / "out")


def test_rows_of_zeros_are_dead_in_asymmetric_codes_too(pair: Any, tmp_path: Path) -> None:
    """Their codes are the zero point, which is not zero."""
    pair.group["weights"]["symmetric"] = False
    pair.reference[UP][3] = 0
    for name in linears(pair):
        weight = folded(pair, name)
        low, high = weight.amin(dim=1, keepdim=True).clamp(max=0), weight.amax(dim=1, keepdim=True).clamp(min=0)
        scale = ((high - low) / 255).clamp(min=torch.finfo(torch.float32).eps)
        zero = (-128 - low / scale).round().clamp(-128, 127)
        pair.quantized[f"{name}_scale"], pair.quantized[f"{name}_zero_point"] = scale, zero.to(torch.int8)
        pair.quantized[name] = (weight / scale + zero).round().clamp(-128, 127).to(torch.int8)
    (group,) = (group for group in accepted(pair, tmp_path).smoothing if group.source == UP)
    assert group.num_zero_channels == 1


def test_a_bias_behind_a_row_of_zeros_may_have_any_factor(pair: Any, tmp_path: Path) -> None:
    """The weights do not say what it was, and the columns that read it are left out."""
    pair.reference[UP][3], pair.quantized[UP][3] = 0, 0
    pair.reference[f"{L0}mlp.up_proj.bias"] = torch.ones(48)
    pair.quantized[f"{L0}mlp.up_proj.bias"] = torch.ones(48) * pair.inv_smoothing[UP]
    pair.quantized[f"{L0}mlp.up_proj.bias"][3] = 17.0
    accepted(pair, tmp_path)


def test_errors_of_gptq_where_few_channels_are_large_are_rounding(pair: Any, tmp_path: Path) -> None:
    """They are up to 0.86 codes."""
    generator = torch.Generator().manual_seed(2)
    for name in linears(pair):
        weight = folded(pair, name) / pair.quantized[f"{name}_scale"].float()
        noise = torch.randn(weight.shape, generator=generator) * 0.78
        pair.quantized[name] = (weight + noise).round().clamp(-128, 127).to(torch.int8)
    profile = accepted(pair, tmp_path)
    assert {facts.rounding for facts in profile.linears} == {"gptq"}
    assert len(profile.smoothing) == 6


@pytest.mark.parametrize("name", [OUT, GATE, UP, DOWN])
def test_columns_that_gptq_set_to_zero_behind_a_dead_neuron_are_no_fault(pair: Any, tmp_path: Path, name: str) -> None:
    """Their input was zero in every token; the weights of the reference are what they were."""
    pair.quantized[name][:, [5, 20]] = 0
    assert len(accepted(pair, tmp_path).smoothing) == 6


def test_more_than_some_columns_without_codes_are_a_fault(pair: Any, tmp_path: Path) -> None:
    pair.quantized[OUT][:, :8] = 0
    with pytest.raises(CheckpointMismatchError, match=f"{OUT}: is not explained"):
        profile_pair(*pair.write(), tmp_path / "out")


def test_a_norm_of_one_plus_w_that_became_zero_in_a_channel_is_refused_as_that(pair: Any, tmp_path: Path) -> None:
    """As a norm of ``w`` it would be wrong in every channel that changed its sign, which says nothing."""
    norm = f"{L0}input_layernorm.weight"
    pair.reference[norm] = torch.linspace(-0.5, 0.5, 32)
    pair.quantized[norm] = (1 + pair.reference[norm]) / 3 - 1
    pair.quantized[norm][4] = -1
    with pytest.raises(CheckpointMismatchError) as caught:
        profile_pair(*pair.write(), tmp_path / "out")
    assert "no positive, finite factor in 1 of 32 channels (the first is 4) as a norm of 1 + w" in str(caught.value)


def test_a_norm_of_one_plus_w_that_bfloat16_left_few_bits_of_still_explains_what_it_feeds(
    pair: Any, tmp_path: Path
) -> None:
    """Divided by ten and more, ``1 + w`` is small, and ``w`` is near minus one, where steps are large."""
    generator = torch.Generator().manual_seed(4)
    norm, name = f"{L0}input_layernorm.weight", f"{L0}self_attn.q_proj.weight"
    weight = (torch.randn(256, generator=generator) * 0.2).to(torch.bfloat16)
    smoothing = torch.exp(torch.randn(256, generator=generator) * 0.5) * 12
    pair.reference = {norm: weight, name: torch.randn(64, 256, generator=generator).to(torch.bfloat16)}
    rows = pair.reference[name].float() * smoothing
    scale = rows.abs().amax(dim=1, keepdim=True) / 127
    pair.quantized = {norm: ((1 + weight.float()) / smoothing - 1).to(torch.bfloat16)}
    pair.quantized |= {name: (rows / scale).round().to(torch.int8), f"{name}_scale": scale}
    profile = accepted(pair, tmp_path)
    assert profile.linears[0].residual_rms > 0.45
    assert [(group.source, group.offset) for group in profile.smoothing] == [(norm, 1)]


def test_few_codes_in_the_rows_of_an_expert_still_give_the_factor_of_what_it_feeds(pair: Any, tmp_path: Path) -> None:
    """Fitted to few codes it is known to a percent or two, and 1.3 times the best factor's residual is less."""
    generator = torch.Generator().manual_seed(4)
    up, down = (f"{L0}mlp.experts.0.{leaf}_proj.weight" for leaf in ("up", "down"))
    smoothing = torch.exp(torch.randn(256, generator=generator) * 0.3)
    pair.reference = {up: torch.randn(256, 128, generator=generator), down: torch.randn(64, 256, generator=generator)}
    pair.reference[up][5] *= 20
    for name, rows in ((up, pair.reference[up] / smoothing[:, None]), (down, pair.reference[down] * smoothing)):
        scale = rows.abs().max().reshape(1) / 127
        pair.quantized |= {name: (rows / scale).round().to(torch.int8), f"{name}_scale": scale}
    pair.quantized = {name: pair.quantized[name] for name in (up, down, f"{up}_scale", f"{down}_scale")}
    pair.group["weights"]["strategy"] = "tensor"
    profile = accepted(pair, tmp_path)
    assert [(group.source, group.targets) for group in profile.smoothing] == [(up, [down])]
    assert profile.linears[0].residual_rms > 0.45


def test_a_bias_that_was_changed_after_its_profile_was_made_is_refused(pair: Any, tmp_path: Path) -> None:
    bias = f"{L0}mlp.up_proj.bias"
    pair.reference[bias], pair.quantized[bias] = torch.ones(48), torch.ones(48) * pair.inv_smoothing[UP]
    document, _ = profile_pair(*pair.write(), tmp_path / "out")
    verify_profile(document, *pair.write())
    pair.quantized[bias][7] *= 3
    with pytest.raises(CheckpointMismatchError, match=f"{bias}: is not the reference's bias times the profile's"):
        verify_profile(document, *pair.write())


def test_a_norm_that_lost_its_factor_after_its_profile_was_made_is_refused(pair: Any, tmp_path: Path) -> None:
    """The codes behind it still carry the factor, and are explained by the profile's."""
    norm = f"{L0}input_layernorm.weight"
    document, _ = profile_pair(*pair.write(), tmp_path / "out")
    pair.quantized[norm] = pair.reference[norm].clone()
    with pytest.raises(CheckpointMismatchError, match=f"{norm}: is not the reference's norm times the profile's"):
        verify_profile(document, *pair.write())


def test_a_column_of_codes_that_was_changed_after_its_profile_was_made_is_refused(pair: Any, tmp_path: Path) -> None:
    """The average hides one of a thousand."""
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(64, 1024, generator=generator)
    weight[:, 700] /= 8
    scale = weight.abs().amax(dim=1, keepdim=True) / 127
    pair.reference = {OUT: weight}
    pair.quantized = {OUT: (weight / scale).round().to(torch.int8), f"{OUT}_scale": scale}
    document, _ = profile_pair(*pair.write(), tmp_path / "out")
    pair.quantized[OUT][:, 700] *= 4
    with pytest.raises(CheckpointMismatchError, match=r"columns that are not explained .*: 1 of 1024 columns"):
        verify_profile(document, *pair.write())


def test_a_norm_that_is_off_by_a_number_is_named_beside_what_it_feeds(pair: Any, tmp_path: Path) -> None:
    norm = f"{L0}post_attention_layernorm.weight"
    pair.quantized[norm] = pair.quantized[norm] * 2
    with pytest.raises(CheckpointMismatchError) as caught:
        profile_pair(*pair.write(), tmp_path / "out")
    assert any(f"or {norm} is off by a number" in fault["reason"] for fault in caught.value.context["faults"])
