"""Symmetric int8 with one scale per output channel.

``scale`` always dequantizes: ``w ~= codes * scale``. Row absmax puts the largest weight of a row on code 127, so
nothing clips. Ties round to even, as IEEE 754 and every GPU rounding instruction do.

Shape legend: O output channels, I input columns, 1 a kept dimension of size one.
"""

import torch
from torch import Tensor

INT8_MAX = 127
INT8_MIN = -128


def row_absmax_scale(weight_OI: Tensor) -> Tensor:
    """Scale that puts each row's largest magnitude on code 127.

    Args:
        weight_OI: float32. Not modified.

    Returns:
        float32, shape (O, 1), > 0; a row of zeros has scale 1, a row with NaN or infinity has that.
    """
    peak_O1 = weight_OI.abs().amax(dim=1, keepdim=True)
    scale_O1 = peak_O1 / INT8_MAX
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
    return torch.round(weight_OI / scale_O1).clamp_(INT8_MIN, INT8_MAX).to(torch.int8)


def quantize_int8(weight_OI: Tensor, scale_O1: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Quantize a smoothed weight.

    Args:
        weight_OI: float32, shape (O, I). Not modified.
        scale_O1: float32 scales of the profile (frozen), or None for row absmax.

    Returns:
        int8 codes (O, I) and float32 scales (O, 1), on the weight's device.
    """
    if scale_O1 is None:
        scale_O1 = row_absmax_scale(weight_OI)
    else:
        scale_O1 = scale_O1.to(weight_OI.device, torch.float32).reshape(-1, 1)
    return codes_int8(weight_OI, scale_O1), scale_O1
