"""Every 8-bit format that is read: what is found is the same, and what a plan cannot use is said."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from pairs import folded, linears
from safetensors.torch import load_file
from torch import Tensor

from flashrl_registry.profiling import profile_pair, sample, verify_profile

INT8 = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": False}
FP8 = {"num_bits": 8, "type": "float", "symmetric": True, "dynamic": False}
TOKEN = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": True, "strategy": "token"}
STATIC = {"num_bits": 8, "type": "float", "symmetric": True, "dynamic": False, "strategy": "tensor"}
BLOCK = 16


def blocks(weight: Tensor, rows: int, columns: int) -> Tensor:
    """A weight as (P, rows, J, columns)."""
    return weight.reshape(weight.shape[0] // rows, rows, weight.shape[1] // columns, columns)


def symmetric(weight: Tensor, rows: int, columns: int, largest: float) -> tuple[Tensor, Tensor]:
    """Unrounded codes, and scales (P, J)."""
    cut = blocks(weight, rows, columns)
    scale = (cut.abs().amax(dim=(1, 3), keepdim=True) / largest).float()
    return (cut / scale).reshape(weight.shape), scale[:, 0, :, 0]


def int8(rows: Callable[[Tensor], int], columns: Callable[[Tensor], int]) -> Callable[[Tensor], dict[str, Tensor]]:
    def quantize(weight: Tensor) -> dict[str, Tensor]:
        codes, scale = symmetric(weight, rows(weight), columns(weight), 127)
        return {"": codes.round().clamp(-128, 127).to(torch.int8), "_scale": scale}

    return quantize


def asymmetric(columns: Callable[[Tensor], int]) -> Callable[[Tensor], dict[str, Tensor]]:
    def quantize(weight: Tensor) -> dict[str, Tensor]:
        cut = blocks(weight, 1, columns(weight))
        low, high = cut.amin(dim=3, keepdim=True).clamp(max=0), cut.amax(dim=3, keepdim=True).clamp(min=0)
        scale = (high - low) / 255
        zero = (-128 - low / scale).round().clamp(-128, 127)
        codes = (cut / scale + zero).round().clamp(-128, 127).to(torch.int8).reshape(weight.shape)
        return {"": codes, "_scale": scale[:, 0, :, 0], "_zero_point": zero[:, 0, :, 0].to(torch.int8)}

    return quantize


def fp8(
    rows: Callable[[Tensor], int], columns: Callable[[Tensor], int], suffix: str = "_scale", shape: Any = None
) -> Callable[[Tensor], dict[str, Tensor]]:
    def quantize(weight: Tensor) -> dict[str, Tensor]:
        codes, scale = symmetric(weight, rows(weight), columns(weight), 448)
        scale = scale if shape is None else scale.reshape(shape)
        return {"": codes.to(torch.float8_e4m3fn), suffix: scale}

    return quantize


def whole_rows(weight: Tensor) -> int:
    return weight.shape[0]


def whole_columns(weight: Tensor) -> int:
    return weight.shape[1]


def one(_: Tensor) -> int:
    return 1


def block(_: Tensor) -> int:
    return BLOCK


def compressed(form: str, weights: dict[str, Any], inputs: dict[str, Any] | None = TOKEN) -> dict[str, Any]:
    return {
        "quant_method": "compressed-tensors", "format": form,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": inputs}},
    }  # fmt: skip


@dataclass(frozen=True)
class Form:
    """A format, what it does to a weight, and what a profile says of it."""

    config: dict[str, Any]
    quantize: Callable[[Tensor], dict[str, Tensor]]
    scheme: str
    limit: str | None = None
    static: bool = False


FORMS = {
    "int-quantized per channel": Form(
        compressed("int-quantized", {**INT8, "strategy": "channel"}), int8(one, whole_columns), "int8"
    ),
    "int-quantized per tensor": Form(
        compressed("int-quantized", {**INT8, "strategy": "tensor"}), int8(whole_rows, whole_columns), "int8",
        "per tensor",
    ),
    "int-quantized per group": Form(
        compressed("int-quantized", {**INT8, "strategy": "group", "group_size": BLOCK}), int8(one, block), "int8",
        "per group",
    ),
    "int-quantized per block": Form(
        compressed("int-quantized", {**INT8, "strategy": "block", "block_structure": [BLOCK, BLOCK]}),
        int8(block, block), "int8", "per block",
    ),
    "int-quantized, asymmetric": Form(
        compressed("int-quantized", {**INT8, "strategy": "channel", "symmetric": False}), asymmetric(whole_columns),
        "int8", "asymmetric",
    ),
    "int-quantized, asymmetric per group": Form(
        compressed("int-quantized", {**INT8, "strategy": "group", "group_size": BLOCK, "symmetric": False}),
        asymmetric(block), "int8", "asymmetric",
    ),
    "int-quantized, static inputs": Form(
        compressed("int-quantized", {**INT8, "strategy": "channel"}, {**STATIC, "type": "int"}),
        int8(one, whole_columns), "int8", static=True,
    ),
    "naive-quantized": Form(
        compressed("naive-quantized", {**INT8, "strategy": "channel"}, None), int8(one, whole_columns), "int8"
    ),
    "float-quantized per tensor": Form(
        compressed("float-quantized", {**FP8, "strategy": "tensor"}, STATIC),
        fp8(whole_rows, whole_columns, shape=(1,)), "fp8_tensor", "fp8", static=True,
    ),
    "float-quantized per channel": Form(
        compressed("float-quantized", {**FP8, "strategy": "channel"}, {**TOKEN, "type": "float"}),
        fp8(one, whole_columns), "fp8_channel", "fp8",
    ),
    "float-quantized per block": Form(
        compressed("float-quantized", {**FP8, "strategy": "block", "block_structure": [BLOCK, BLOCK]}, None),
        fp8(block, block), "fp8_block", "fp8",
    ),
    "fp8 of DeepSeek": Form(
        {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK]},
        fp8(block, block, "_scale_inv"), "fp8_block", "fp8",
    ),
    "fp8 of AutoFP8": Form(
        {"quant_method": "fp8", "activation_scheme": "static"}, fp8(whole_rows, whole_columns, shape=()), "fp8_tensor",
        "fp8", static=True,
    ),
    "fp8 of vLLM per channel": Form(
        {"quant_method": "fp8", "activation_scheme": "dynamic"}, fp8(one, whole_columns), "fp8_channel", "fp8"
    ),
}  # fmt: skip


def requantize(pair: Any, form: Form) -> None:
    """Replace a pair's codes by those of a format."""
    for name in linears(pair):
        del pair.quantized[f"{name}_scale"]
        stored = form.quantize(folded(pair, name))
        pair.quantized |= {f"{name}{suffix}": tensor.contiguous() for suffix, tensor in stored.items()}
        if form.static:
            pair.quantized[name.removesuffix("weight") + "input_scale"] = torch.ones(1)
    pair.quantized_config["quantization_config"] = copy.deepcopy(form.config)


@pytest.mark.parametrize("name", FORMS)
def test_factors_scales_and_codes_come_back_whatever_the_format(pair: Any, tmp_path: Path, name: str) -> None:
    form = FORMS[name]
    coarse = "per tensor" in name or "per block" in name or "DeepSeek" in name
    if coarse:  # rows share a scale, so small ones of 32 columns have too few codes to measure a factor on
        pair.inv_smoothing |= {source: torch.ones(48) for source in pair.inv_smoothing if "up_proj" in source}
    requantize(pair, form)
    folders = pair.write()
    document, profile = profile_pair(*folders, tmp_path / "out", scheme=form.scheme)
    vectors = load_file(document.parent / profile.sidecar.file_name)
    assert profile.scheme == form.scheme
    assert sum(group.kind == "norm" for group in profile.smoothing) == 4
    assert sum(group.kind == "linear" for group in profile.smoothing) == (0 if coarse and "fp8" in form.scheme else 2)
    for group in profile.smoothing:
        error = vectors[f"inv_smoothing/{group.source}"] / pair.inv_smoothing[group.source] - 1
        assert error.abs().max() < (1e-6 if group.kind == "norm" else 0.06)
    for facts in profile.linears:
        # Few columns leave the factor of a row uncertain, and with it the columns that it feeds.
        assert facts.rounding == "nearest" or facts.name.endswith(("up_proj.weight", "down_proj.weight"))
        assert facts.residual_rms < 0.5
        assert facts.codes_equal > 0.7
        suffix = "_scale_inv" if form.config.get("weight_block_size") else "_scale"
        stored = pair.quantized[f"{facts.name}{suffix}"]
        key = "weight_scale" if form.limit is None else "stored_scale"
        assert torch.equal(vectors[f"{key}/{facts.name}"].flatten(), stored.float().flatten())
        assert (f"stored_zero_point/{facts.name}" in vectors) == (form.limit == "asymmetric")
    unsmoothed = [facts for facts in profile.linears if facts.name.endswith("o_proj.weight")]
    assert [facts.codes_equal for facts in unsmoothed] == [1, 1]
    assert (profile.no_frozen_scales is None) == (form.limit is None)
    assert form.limit is None or form.limit in str(profile.no_frozen_scales)
    assert (profile.quantized.input_activations is not None and not profile.quantized.input_activations.dynamic) == (
        form.static
    )
    verified = verify_profile(document, *folders)
    assert len(verified.linears) == len(profile.linears)


@pytest.mark.parametrize("name", ["int-quantized per channel", "float-quantized per channel", "fp8 of DeepSeek"])
def test_every_row_says_what_a_sample_of_all_rows_says(
    pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(sample, "ROWS_SAMPLED", 64)
    requantize(pair, FORMS[name])
    folders = pair.write()
    _, sampled = profile_pair(*folders, tmp_path / "a", scheme=FORMS[name].scheme)
    _, all_rows = profile_pair(*folders, tmp_path / "b", scheme=FORMS[name].scheme, every_row=True)
    for one_, other in zip(sampled.linears, all_rows.linears, strict=True):
        assert (one_.codes_equal, one_.residual_rms) == pytest.approx((other.codes_equal, other.residual_rms), abs=1e-5)
        assert other.num_dead_columns is not None
    assert [group.num_dead_channels for group in all_rows.smoothing] == [0] * 6
    assert {group.num_dead_channels for group in sampled.smoothing} == {None}


def test_columns_that_no_code_reads_are_counted_for_pruning(pair: Any, tmp_path: Path) -> None:
    for name in linears(pair):
        if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
            pair.reference[name][:, 5] = 0
            pair.quantized[name][:, 5] = 0
    _, profile = profile_pair(*pair.write(), tmp_path / "out", every_row=True)
    dead = {group.source: group.num_dead_channels for group in profile.smoothing if group.num_dead_channels}
    assert dead == {f"model.layers.{layer}.input_layernorm.weight": 1 for layer in range(2)}


def test_errors_that_are_passed_on_are_told_from_rounding(pair: Any, tmp_path: Path) -> None:
    """GPTQ: what a column's rounding left is given to the columns after it."""
    generator = torch.Generator().manual_seed(3)
    for name in linears(pair):
        weight, scale = folded(pair, name), pair.quantized[f"{name}_scale"].float()
        inputs = torch.randn(256, weight.shape[1], generator=generator) @ torch.randn(
            weight.shape[1], weight.shape[1], generator=generator
        )
        hessian = inputs.T @ inputs
        hessian += torch.eye(len(hessian)) * hessian.diagonal().mean() * 0.01
        inverse = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
        weight, codes = weight / scale, torch.zeros_like(weight)
        for column in range(weight.shape[1]):
            codes[:, column] = weight[:, column].round().clamp(-128, 127)
            error = (weight[:, column] - codes[:, column]) / inverse[column, column]
            weight[:, column:] -= error[:, None] * inverse[column, column:]
        pair.quantized[name] = codes.to(torch.int8)
    _, profile = profile_pair(*pair.write(), tmp_path / "out")
    assert {facts.rounding for facts in profile.linears} == {"gptq"}


def test_the_checkpoints_own_arithmetic_is_recognized(unsmoothed_pair: Any, tmp_path: Path) -> None:
    """llm-compressor divides in the weight's dtype: codes differ from those of float32, and are the checkpoint's."""
    pair = unsmoothed_pair
    for name in linears(pair):
        scale = pair.quantized[f"{name}_scale"]
        pair.quantized[name] = (pair.reference[name] / scale).round().clamp(-128, 127).to(torch.int8)
    _, profile = profile_pair(*pair.write(), tmp_path / "out")
    for facts in profile.linears:
        if not facts.name.endswith(("up_proj.weight", "down_proj.weight")):
            assert facts.codes_equal_in_dtype == 1
            assert facts.codes_equal < 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_reference_in_another_float_is_measured_as_it_is(pair: Any, tmp_path: Path, dtype: torch.dtype) -> None:
    pair.reference = {name: tensor.to(dtype) for name, tensor in pair.reference.items()}
    _, profile = profile_pair(*pair.write(), tmp_path / "out")
    assert {family.dtype for family in profile.tensors} == {str(dtype).removeprefix("torch.")}
    assert {facts.codes_equal_in_dtype is None for facts in profile.linears} == {dtype == torch.float32}
    assert sum(group.kind == "norm" for group in profile.smoothing) == 4
