"""float8_e4m3fn codes: absmax on 448, scales that dequantize, poison that shows."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from flashrl_registry.ops import quantize_fp8_block, quantize_fp8_channel, quantize_fp8_tensor

Quantize = Callable[[Tensor], tuple[Tensor, Tensor]]
ALL = [quantize_fp8_tensor, quantize_fp8_channel, quantize_fp8_block]
SHAPES = {quantize_fp8_tensor: (1,), quantize_fp8_channel: (256, 1), quantize_fp8_block: (2, 3)}


def weight(dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return (torch.randn(256, 384, generator=torch.Generator().manual_seed(0)) * 0.02).to(dtype)


def spread(scale: Tensor) -> Tensor:
    """Scales of blocks, rows or the tensor over every element of a 256 x 384 weight."""
    if scale.shape == (2, 3):
        return scale.repeat_interleave(128, 0).repeat_interleave(128, 1)
    return scale.reshape(-1, 1).expand(256, 384)


@pytest.mark.parametrize("quantize", ALL)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_codes_times_scale_is_the_weight_within_half_a_step(quantize: Quantize, dtype: torch.dtype) -> None:
    value = weight(dtype)
    codes, scale = quantize(value)
    assert codes.dtype == torch.float8_e4m3fn
    assert scale.dtype == torch.float32
    assert scale.shape == SHAPES[quantize]
    error = (codes.float() * spread(scale) - value.float()).abs()
    # Three mantissa bits: half a step is 1/16 of a normal number; below 2^-6 steps are 2^-9.
    assert (error <= torch.maximum(value.float().abs() / 16, spread(scale) * 2**-10) * 1.001).all()


@pytest.mark.parametrize("quantize", ALL)
def test_the_largest_magnitude_is_448_and_nothing_saturates(quantize: Quantize) -> None:
    codes, scale = quantize(weight())
    peaks = (codes.float().abs() * spread(scale) == spread(scale) * 448).sum()
    assert peaks >= scale.numel()
    assert torch.isfinite(codes.float()).all()


@pytest.mark.parametrize("quantize", ALL)
def test_zeros_have_scale_one_and_underflow_does_not_divide_by_zero(quantize: Quantize) -> None:
    codes, scale = quantize(torch.zeros(256, 384))
    assert (scale == 1).all()
    assert not codes.float().any()
    _, tiny = quantize(torch.full((256, 384), 1e-45))
    assert torch.isfinite(tiny).all()


@pytest.mark.parametrize("quantize", ALL)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_a_poisoned_weight_shows_in_a_scale(quantize: Quantize, poison: float) -> None:
    value = weight()
    value[130, 300] = poison
    _, scale = quantize(value)
    assert not torch.isfinite(scale).all()


def test_a_block_knows_only_its_own_weights() -> None:
    value = torch.ones(256, 384)
    value[200, 300] = 896
    _, scale = quantize_fp8_block(value)
    assert scale[1, 2] == 2
    assert (scale.flatten()[:-1] == 1 / 448).all()


@pytest.mark.parametrize("quantize", ALL)
def test_inputs_are_not_modified_and_any_strides_will_do(quantize: Quantize) -> None:
    value = weight()
    before = value.clone()
    turned = value.t().contiguous().t()
    assert all(torch.equal(a.float(), b.float()) for a, b in zip(quantize(value), quantize(turned), strict=True))
    assert torch.equal(value, before)
