"""Symmetric float8_e4m3fn with one float32 scale per tensor, per output channel or per 128 x 128 block.

``scale`` always dequantizes: ``w ~= codes * scale``. Absmax puts the largest magnitude of its elements on 448, the
largest finite e4m3fn number, so nothing saturates. The conversion rounds to nearest, ties to even.

Shape legend: O output channels, I input columns, P blocks of rows, J blocks of columns, 1 a kept dimension.

Source: OCP 8-bit floating point specification (E4M3); block scaling as DeepSeek-V3 (arXiv 2412.19437, section 3.3).
"""

import torch
from torch import Tensor

from flashrl_registry.ops.smooth import divided

FP8_MAX = 448.0
BLOCK = 128


def quantize_fp8_tensor(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """One scale for the whole weight.

    Args:
        weight_OI: bfloat16, float16 or float32. Not modified.

    Returns:
        float8_e4m3fn codes (O, I) and a float32 scale (1,), on the weight's device; the scale is not finite where
        the weight is not.
    """
    scale_1 = _scale(weight_OI.abs().amax().float().reshape(1))
    return _codes(weight_OI, scale_1), scale_1


def quantize_fp8_channel(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """One scale per output channel; returns float8_e4m3fn codes (O, I) and float32 scales (O, 1)."""
    scale_O1 = _scale(weight_OI.abs().amax(dim=1, keepdim=True).float())
    return _codes(weight_OI, scale_O1), scale_O1


def quantize_fp8_block(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """One scale per 128 x 128 block.

    Args:
        weight_OI: bfloat16, float16 or float32; O and I are multiples of 128. Not modified.

    Returns:
        float8_e4m3fn codes (O, I) and float32 scales (O / 128, I / 128).
    """
    num_rows, num_columns = weight_OI.shape
    blocks = weight_OI.reshape(num_rows // BLOCK, BLOCK, num_columns // BLOCK, BLOCK)
    scale_P1J1 = _scale(blocks.abs().amax(dim=(1, 3), keepdim=True).float())
    return _codes(blocks, scale_P1J1).reshape(num_rows, num_columns), scale_P1J1[:, 0, :, 0].contiguous()


def _scale(peak: Tensor) -> Tensor:
    scale = divided(peak, FP8_MAX)
    # A quotient that underflows would make codes infinite. NaN is not zero, so NaN keeps a NaN scale.
    return torch.where(scale == 0, torch.ones_like(scale), scale)


def _codes(weight: Tensor, scale: Tensor) -> Tensor:
    # A quotient may round to just above 448, which e4m3fn has no number for.
    return (weight.float() / scale).clamp_(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
