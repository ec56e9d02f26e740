"""The reference maths: exact values, ties, zeros, NaN."""

import pytest
import torch

from flashrl_registry.ops import codes_int8, quantize_int8, rescale_rows, row_absmax_scale, smoothed


def test_largest_weight_lands_on_127_and_nothing_clips() -> None:
    weight = torch.randn(8, 33, generator=torch.Generator().manual_seed(0)) * 3
    codes, scale = quantize_int8(weight)
    assert codes.dtype == torch.int8
    assert scale.shape == (8, 1)
    assert (codes.abs().amax(dim=1) == 127).all()
    assert (codes.float() * scale - weight).abs().max() <= scale.max() / 2 * 1.0001


def test_ties_round_to_even() -> None:
    codes = codes_int8(torch.tensor([[0.5, 1.5, 2.5, -0.5, -1.5]]), torch.ones(1, 1))
    assert codes.tolist() == [[0, 2, 2, 0, -2]]


def test_frozen_scales_clip() -> None:
    codes, scale = quantize_int8(torch.tensor([[500.0, -500.0, 1.0]]), torch.tensor([1.0]))
    assert codes.tolist() == [[127, -128, 1]]
    assert scale.tolist() == [[1.0]]


def test_a_row_of_zeros_has_scale_one() -> None:
    codes, scale = quantize_int8(torch.zeros(2, 4))
    assert scale.tolist() == [[1.0], [1.0]]
    assert not codes.any()


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_a_poisoned_row_shows_in_its_scale(poison: float) -> None:
    weight = torch.ones(2, 4)
    weight[1, 2] = poison
    scale = row_absmax_scale(weight)
    assert torch.isfinite(scale[0]).all()
    assert not torch.isfinite(scale[1]).any()


def test_underflowing_scale_does_not_divide_by_zero() -> None:
    codes, scale = quantize_int8(torch.full((1, 3), 1e-45))
    assert torch.isfinite(scale).all()
    assert not codes.any()


def test_smoothing_cancels_between_source_and_target() -> None:
    generator = torch.Generator().manual_seed(1)
    norm, weight = torch.rand(16, generator=generator) + 0.5, torch.randn(4, 16, generator=generator)
    factor = torch.rand(16, generator=generator) + 0.1
    hidden = torch.randn(3, 16, generator=generator)
    plain = (hidden * norm) @ weight.T
    moved = (hidden * rescale_rows(norm, factor, torch.float32)) @ smoothed(weight, inv_columns_I=factor).T
    assert torch.allclose(plain, moved, rtol=1e-4, atol=1e-5)


def test_inputs_are_not_modified() -> None:
    weight = torch.randn(4, 4).to(torch.float32)
    before = weight.clone()
    smoothed(weight, inv_rows_O=torch.full((4,), 2.0), inv_columns_I=torch.full((4,), 3.0))
    quantize_int8(weight)
    rescale_rows(weight, torch.full((4,), 2.0), torch.bfloat16)
    assert torch.equal(weight, before)


@pytest.mark.parametrize("shape", [(1, 1), (3, 700), (5000, 700), (70, 20000), (2, 2_000_000)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_blocks_change_no_bit(shape: tuple[int, int], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(*shape, generator=generator).to(dtype)
    rows, columns = (torch.rand(size, generator=generator) + 0.5 for size in shape)
    before = weight.clone()
    whole = smoothed(weight, inv_rows_O=rows, inv_columns_I=columns)
    scale = whole.abs().amax(dim=1, keepdim=True) / 127
    codes, scales = quantize_int8(weight, inv_rows_O=rows, inv_columns_I=columns)
    assert torch.equal(scales, scale)
    assert torch.equal(codes, torch.round(whole / scale).clamp(-128, 127).to(torch.int8))
    frozen, _ = quantize_int8(weight, scale[:, 0] / 2, inv_rows_O=rows, inv_columns_I=columns)
    assert torch.equal(frozen, torch.round(whole / (scale / 2)).clamp(-128, 127).to(torch.int8))
    assert torch.equal(weight, before)


def test_a_transposed_view_is_quantized_as_its_copy() -> None:
    weight = torch.randn(33, 65, generator=torch.Generator().manual_seed(4)).t()
    assert torch.equal(quantize_int8(weight)[0], quantize_int8(weight.contiguous())[0])
