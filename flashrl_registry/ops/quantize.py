"""Symmetric int8 with one scale per output channel.

``scale`` always dequantizes: ``w ~= codes * scale``. Row absmax puts the largest weight of a row on code 127, so
nothing clips. Ties round to even, as IEEE 754 and every GPU rounding instruction do.

Shape legend: O output channels, I input columns, 1 a kept dimension of size one.
"""

import torch
from torch import Tensor

from flashrl_registry.ops.blocks import row_blocks
from flashrl_registry.ops.smooth import divided, smoothed

INT8_MAX = 127
INT8_MIN = -128


def row_absmax_scale(weight_OI: Tensor) -> Tensor:
    """Scale that puts each row's largest magnitude on code 127.

    Args:
        weight_OI: float32. Not modified.

    Returns:
        float32, shape (O, 1), > 0; a row of zeros has scale 1, a row with NaN or infinity has that.
    """
    peak_O1 = torch.maximum(weight_OI.amax(dim=1, keepdim=True), weight_OI.amin(dim=1, keepdim=True).neg_())
    scale_O1 = divided(peak_O1, INT8_MAX)
    # A quotient that underflows would make codes infinite. NaN is not zero, so a row with NaN keeps a NaN scale.
    return torch.where(scale_O1 == 0, torch.ones_like(scale_O1), scale_O1)


def codes_int8(weight_OI: Tensor, scale_O1: Tensor) -> Tensor:
    """``clamp(round(w / scale), -128, 127)``; ties go to even.

    Args:
        weight_OI: float32. Not modified.
        scale_O1: float32 dequantization multipliers, shape (O, 1), > 0.

    Returns:
        int8, shape (O, I).
    """
    return (weight_OI / scale_O1).round_().clamp_(INT8_MIN, INT8_MAX).to(torch.int8)


def quantize_int8(
    weight_OI: Tensor,
    scale_O1: Tensor | None = None,
    *,
    inv_rows_O: Tensor | None = None,
    inv_columns_I: Tensor | None = None,
    columns_I: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Smooth and quantize a weight.

    Args:
        weight_OI: bfloat16, float16 or float32, shape (O, I). Not modified.
        scale_O1: float32 scales of the profile (frozen), or None for row absmax.
        inv_rows_O: As in :func:`~flashrl_registry.ops.smooth.smoothed`.
        inv_columns_I: The same.
        columns_I: The same.

    Returns:
        int8 codes (O, I) and float32 scales (O, 1), on the weight's device.
    """
    codes_OI = torch.empty_like(weight_OI, dtype=torch.int8, memory_format=torch.contiguous_format)
    if scale_O1 is None:
        scales_O1 = torch.empty(weight_OI.shape[0], 1, dtype=torch.float32, device=weight_OI.device)
    else:
        scales_O1 = scale_O1.to(weight_OI.device, torch.float32).reshape(-1, 1)
    for rows in row_blocks(weight_OI):
        inv_rows = None if inv_rows_O is None else inv_rows_O[rows]
        block_OI = smoothed(weight_OI[rows], inv_rows_O=inv_rows, inv_columns_I=inv_columns_I, columns_I=columns_I)
        if scale_O1 is None:
            scales_O1[rows] = row_absmax_scale(block_OI)
        codes_OI[rows] = block_OI.div_(scales_O1[rows]).round_().clamp_(INT8_MIN, INT8_MAX)
    return codes_OI, scales_O1
