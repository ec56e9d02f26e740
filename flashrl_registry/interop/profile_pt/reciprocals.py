"""From a stored reciprocal back to the number it was taken of, so that dividing again gives the same bits.

FlashRL stores ``o = fl(1 / s)``. ``fl(1 / o)`` need not be ``s``: both divisions round. But ``s`` lies within a few
float32 neighbours of it, and a checkpoint's scales are mostly bfloat16 numbers, of which one alone is that near. A
candidate counts only if its own reciprocal is ``o`` bit for bit.

Shape legend: O output channels, I input columns.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

_STEPS = (0, 1, -1, 2, -2, 3, -3)
_SHORT = (torch.bfloat16, torch.float16)


def invert(reciprocal: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers whose float32 reciprocals these are.

    Args:
        reciprocal: float32, > 0. Not modified.

    Returns:
        The numbers, those that fit bfloat16 or float16 first; and where their reciprocals are exact, bool.
    """
    best = 1.0 / reciprocal
    exact = torch.zeros_like(best, dtype=torch.bool)
    for candidate in _candidates(1.0 / reciprocal):
        better = ~exact & (1.0 / candidate == reciprocal)
        best = torch.where(better, candidate, best)
        exact |= better
    return best, exact


def factored_scale(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The scale and the row factor of a linear that feeds another one.

    FlashRL stores the linear's ``rows = fl(1 / fl(scale / factor))`` and, at what it feeds, ``columns =
    fl(1 / factor)``. The factor is a measured float32 number; the scale is taken for the bfloat16 or float16 number
    that fits, which is what tells the linear that the factor belongs to from all others.

    Args:
        rows: ``output_scale`` of the linear, float32, shape (O,). Not modified.
        columns: ``input_scale`` of what it feeds, float32, shape (I,) with I = O. Not modified.

    Returns:
        Scale, factor, and where the scale is a short float and both reproduce the stored numbers, bool; shape (O,).
    """
    scale, factor = (1.0 / columns) / rows, 1.0 / columns
    exact = torch.zeros_like(rows, dtype=torch.bool)
    for candidate in _neighbours(1.0 / columns):
        fits = 1.0 / candidate == columns
        for short in _SHORT:
            rounded = (candidate / rows).to(short).float()
            better = ~exact & fits & (1.0 / (rounded / candidate) == rows)
            scale, factor = torch.where(better, rounded, scale), torch.where(better, candidate, factor)
            exact |= better
    return scale, factor, exact


def _candidates(around: Tensor) -> Iterator[Tensor]:
    for short in _SHORT:
        yield around.to(short).float()
    yield from _neighbours(around)


def _neighbours(around: Tensor) -> Iterator[Tensor]:
    """The number itself and the float32 numbers next to it. All are positive, so their bits are ordered as they are."""
    bits = around.view(torch.int32)
    for step in _STEPS:
        yield (bits + step).view(torch.float32)
