"""The numerics of a profile: factors by quotient or least squares, and how well they reproduce the codes.

A quantized linear holds ``q ~= W * rows / columns / scale`` where ``rows`` is the factor of its own output channels
(1 unless it feeds another linear) and ``columns`` the factor of what feeds it. ``scale`` is in the checkpoint. The
factor of a norm is the quotient of the two norms. The factor of a linear's rows is what is left over: the ``beta``
of each row that minimises ``|beta * x - q|^2`` for ``x = W / columns / scale``.

A channel that is zero in both checkpoints is dead: nothing says what its factor was and no output depends on it. Its
factor is 1, and the columns that read it are left out of every fit and every comparison.

Shape legend: O output channels, I input columns, R a subset of rows.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flashrl_registry.documents import LinearFacts
from flashrl_registry.ops import codes_int8, smoothed
from flashrl_registry.ops.quantize import INT8_MAX, INT8_MIN


def is_cast(reference: Tensor, quantized: Tensor) -> bool:
    """Whether one tensor is the other, rounded to its dtype."""
    return bool(torch.equal(reference.to(quantized.dtype), quantized))


def norm_factor(reference_O: Tensor, quantized_O: Tensor) -> tuple[Tensor, Tensor]:
    """Factor that was folded into a norm's weight: ``quantized / reference`` in float32.

    Args:
        reference_O: Norm of the reference checkpoint, any float dtype. Not modified.
        quantized_O: Norm of the quantized checkpoint, any float dtype. Not modified.

    Returns:
        The factor, float32, shape (O,), 1 where both are zero; and where that is, bool, shape (O,). A channel that
        is zero in one of the two has the factor 0 or infinity; see :func:`factor_fault`.

    Source:
        FlashRL 1.0.3, ``profiling_int8``: ``input_scale`` of a layernorm.
    """
    reference_O, quantized_O = reference_O.float(), quantized_O.float()
    dead_O = (reference_O == 0) & (quantized_O == 0)
    return (quantized_O / reference_O).masked_fill(dead_O, 1.0), dead_O


def row_factor(
    weight_OI: Tensor, codes_OI: Tensor, scale_O: Tensor, columns_I: Tensor | None, dead_I: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Factor that was folded into a linear's rows, by least squares against the codes.

    ``beta = sum(q * x) / sum(x * x)`` over each row; the sums are taken in float64, so that the result does not
    depend on their order. Rounding to int8 leaves a relative error of about ``0.29 / (rms(x) * sqrt(I))``: a linear
    whose rows were never scaled gets values near 1, and they are kept as they are. They fit the codes slightly
    better than 1 does, dividing the next linear's columns by them cancels them, and it is what FlashRL stores.

    Args:
        weight_OI: Rows of the reference checkpoint, any float dtype. Not modified.
        codes_OI: The same rows of the quantized checkpoint, int8. Not modified.
        scale_O: Their scales, float32.
        columns_I: Factor of the tensor that feeds the linear, or None.
        dead_I: Its dead channels, bool, or None.

    Returns:
        The factor, float32, shape (O,), 1 where a row is zero in both; and where that is, bool, shape (O,).

    Source:
        FlashRL 1.0.3, ``profiling_int8`` and ``least_square``; deviation: float64 sums.
    """
    x_OI = smoothed(weight_OI, inv_columns_I=columns_I) / scale_O.view(-1, 1)
    if dead_I is not None:
        x_OI = x_OI.masked_fill(dead_I, 0.0)
    above_O = (codes_OI.float() * x_OI).sum(dim=1, dtype=torch.float64)
    below_O = x_OI.square().sum(dim=1, dtype=torch.float64)
    dead_O = (below_O == 0) & codes_OI.eq(0).all(dim=1)
    return (above_O / below_O).float().masked_fill(dead_O, 1.0), dead_O


def factor_fault(factor_O: Tensor) -> str | None:
    """Why a factor cannot be divided out again, or None: it must be finite and positive in every channel."""
    bad_O = ~(torch.isfinite(factor_O) & (factor_O > 0))
    if not bad_O.any():
        return None
    first = int(bad_O.nonzero()[0])
    return f"has no positive, finite factor in {int(bad_O.sum())} of {bad_O.numel()} channels (the first is {first})"


def scale_fault(scale_O: Tensor) -> str | None:
    """Why scales cannot be used, or None: each must be finite and positive."""
    bad_O = ~(torch.isfinite(scale_O) & (scale_O > 0))
    return f"is not positive and finite in {int(bad_O.sum())} rows" if bad_O.any() else None


@dataclass(frozen=True)
class Factors:
    """What a linear's codes are explained with.

    Attributes:
        scale_O: Scales of the checkpoint, float32.
        rows_O: Factor of its own output channels, or None.
        columns_I: Factor of what feeds it, or None.
        dead_I: Dead channels of what feeds it, bool, or None.
    """

    scale_O: Tensor
    rows_O: Tensor | None
    columns_I: Tensor | None
    dead_I: Tensor | None


def sample_rows(num_rows: int, most: int) -> list[int]:
    """At most ``most`` row numbers, evenly spaced, the first included."""
    count = min(num_rows, most)
    return [index * num_rows // count for index in range(count)]


def linear_facts(
    name: str, weight_RI: Tensor, codes_RI: Tensor, rows: list[int], factors: Factors
) -> LinearFacts | None:
    """Requantize rows of the reference with a profile's factors and compare with the checkpoint's own codes.

    Args:
        name: Weight tensor.
        weight_RI: Rows of the reference checkpoint. Not modified.
        codes_RI: The same rows of the quantized checkpoint, int8. Not modified.
        rows: Their row numbers.
        factors: Factors of the whole linear.

    Returns:
        Shares and distances in codes; None where the weight and the factors give a value that is not finite.
    """
    scale_R1 = factors.scale_O[rows].view(-1, 1)
    rows_R = None if factors.rows_O is None else factors.rows_O[rows]
    weight_RI = smoothed(weight_RI, inv_rows_O=rows_R, inv_columns_I=factors.columns_I)
    unrounded_RI = weight_RI / scale_R1
    if not torch.isfinite(unrounded_RI).all():
        return None
    if factors.dead_I is not None and not factors.dead_I.all():
        alive_I = ~factors.dead_I
        weight_RI, codes_RI, unrounded_RI = weight_RI[:, alive_I], codes_RI[:, alive_I], unrounded_RI[:, alive_I]
    difference_RI = (codes_int8(weight_RI, scale_R1).int() - codes_RI.int()).abs()
    rounded_RI = unrounded_RI.round()
    num_clipped = int(((rounded_RI < INT8_MIN) | (rounded_RI > INT8_MAX)).sum())
    # Summed per row first: a sum over everything would be split by the number of threads, and its bits depend on it.
    squares_R = (unrounded_RI - codes_RI).double().square().sum(dim=1)
    return LinearFacts(
        name=name,
        rows_checked=len(rows),
        codes_equal=round(int(difference_RI.eq(0).sum()) / codes_RI.numel(), 6),
        largest_difference=int(difference_RI.max()),
        residual_rms=round(math.sqrt(math.fsum(squares_R.tolist()) / codes_RI.numel()), 6),
        clip_rate=round(num_clipped / codes_RI.numel(), 8),
    )
