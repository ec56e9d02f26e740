"""Single rows and columns that carry another factor than the one that was found: the average does not show them.

A scale that is off in one row of thousands, or a norm that is off in one channel, moves the residual of a whole linear
less than the step from one way of rounding to another does. So columns are fitted one by one, and rows whose scale is
far from the others' are looked at even where only a sample of the rows is. What counts is that the codes are the
weights times another factor: errors that GPTQ passed on to a column that matters little are larger than many a wrong
factor (up to four codes, and more than the column's own codes, measured), and are no multiple of its weights.

Shape legend: R sampled rows, I input columns, O output channels, E parts (experts in one tensor), P and J blocks of
rows and columns.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashrl_registry.profiling.layout import F32, F64, Mask
from flashrl_registry.profiling.linear import Columns, Linear, Pair
from flashrl_registry.profiling.sample import Sample

TOLERATED = 2.0
"""A factor that is off by more than this, or its reciprocal, is wrong: channels that are the quotient of two norms."""
TOLERATED_IN_FITS = 4.0
"""The same of factors that were fitted to rows, some of which have few codes other than zero."""
TOLERATED_NEAR_ZERO = 8.0
"""The same of norms of ``1 + w``, whose quotient is that of two roundings where ``w`` is near minus one."""
_EXPLAINED = 0.25
"""Share of the codes' squares that the other factor may leave."""
_QUIET = 2.0
"""Codes, root mean square, up to which rounding leaves nothing to fit."""
_STEP = 4
"""Every fourth of the sampled rows says which columns are worth a fit over all of them."""
_UNUSUAL = 8.0
"""Powers of two between a scale and the median of its linear from which on its rows are looked at."""
_FAR = 20.0
"""Powers of two between a factor and the median that no smoothing makes; llm-compressor's is at least 1e-5."""
_LOOKED_AT = 32
"""Scales of a linear that are looked at, the most unusual ones."""
_ROW_LEFT, _ROW_SHARE = 4.0, 0.2
"""Codes, root mean square, and share of the weights' squares that are left of a row above both of which it is wrong;
GPTQ leaves up to 0.6 codes (measured)."""


def tolerated_factor(*, fitted: bool, offset: int | None) -> float:
    """How far a channel may be from the factor that was found, or its reciprocal.

    Args:
        fitted: The factor was fitted to a linear's rows, and is no quotient of norms.
        offset: 1 for a norm of ``1 + w``.
    """
    if offset:
        return TOLERATED_NEAR_ZERO
    return TOLERATED_IN_FITS if fitted else TOLERATED


def wrong_columns(sample: Sample, columns: Columns, tolerated: float, *, carries_rows: bool) -> Mask:
    """Columns that carry another factor than the one that explains the linear as a whole.

    Args:
        sample: Some rows of the linear.
        columns: What was found to feed it.
        tolerated: See :func:`tolerated_factor`.
        carries_rows: Its rows carry a factor, which is fitted to each.

    Returns:
        Shape (I,); of experts in one tensor, a column is wrong where it is in any of them.
    """
    parts = sample.rows // sample.linear.part_rows
    at = columns.at(parts)
    with np.errstate(all="ignore"):
        rows = sample.row_factor(columns) if carries_rows else None
        if sample.linear.num_parts > 1:
            first = np.flatnonzero(np.diff(parts, prepend=-1))
            xx, xy, yy = _sums_of_parts(sample, at, rows, first)
            return np.asarray(_is_wrong(xx, xy, yy, np.diff(first, append=len(parts))[:, None], tolerated).any(axis=0))
        inverse, x, y = at.inv_EI[0], sample.x_RI, sample.y_RI
        few = slice(None, None, _STEP if len(x) > _STEP else 1)
        xx, xy, yy = _sums(x[few], y[few], inverse, None if rows is None else rows[few])
        suspect = (yy > len(x[few])) & _is_off(xx, xy, tolerated**0.5)  # one code each
        if at.dead_EI is not None:
            suspect &= ~at.dead_EI[0]
        which = np.flatnonzero(suspect)
        wrong: Mask = np.zeros(len(inverse), np.bool_)
        if which.size:
            exact = _sums(x[:, which].astype(np.float64), y[:, which].astype(np.float64), inverse[which], rows)
            wrong[which] = _is_wrong(*exact, len(x), tolerated)
        return wrong


def _sums(x_RI: Any, y_RI: Any, inverse_I: F32, rows_R: F64 | None) -> tuple[Any, Any, Any]:
    """Sums of ``x * x``, ``x * y`` and ``y * y`` over rows, ``x`` with its factors; those of columns come last."""
    if rows_R is not None:
        x_RI = x_RI * rows_R.astype(x_RI.dtype)[:, None]
    xx, xy, yy = (np.einsum("ri,ri->i", *pair) for pair in ((x_RI, x_RI), (x_RI, y_RI), (y_RI, y_RI)))
    return xx * inverse_I * inverse_I, xy * inverse_I, yy


def _sums_of_parts(
    sample: Sample, columns: Columns, rows_R: F64 | None, first: NDArray[np.intp]
) -> tuple[Any, Any, Any]:
    """The same for each part; ``first`` are the first rows of each."""
    x, y = sample.x_RI.astype(np.float64) * columns.inv_EI, sample.y_RI.astype(np.float64)
    if rows_R is not None:
        x *= rows_R[:, None]
    if columns.dead_EI is not None:
        y = np.where(columns.dead_EI, 0.0, y)
    xx, xy, yy = (np.add.reduceat(left * right, first) for left, right in ((x, x), (x, y), (y, y)))
    return xx, xy, yy


def wrong_scales(pair: Pair, linear: Linear, columns: Columns, rows_O: F32 | None) -> list[int]:
    """Rows whose scale is far from the others' and does not fit the weights, whether or not they are in the sample.

    Args:
        pair: Both checkpoints.
        linear: The linear.
        columns: What feeds it.
        rows_O: Factor of its own rows, or None.

    Returns:
        The first row of each such scale, among the most unusual ones.
    """
    scale_PJ = linear.scale_PJ
    if scale_PJ.size == 1 or scale_PJ.max() <= scale_PJ.min() * np.float32(2**_UNUSUAL):
        return []
    octaves_PJ = octaves_from_median(scale_PJ)
    most = np.argsort(octaves_PJ, axis=None, kind="stable")[::-1][:_LOOKED_AT]
    cells = [divmod(index, scale_PJ.shape[1]) for index in most.tolist() if octaves_PJ.flat[index] > _UNUSUAL]
    if not cells:
        return []
    rows = sorted({block * linear.row_block for block, _ in cells})
    sample = Sample(pair, linear, [(row, row + 1) for row in rows])
    at = columns.at(sample.rows // linear.part_rows)
    x_RI: F64 = sample.x_RI.astype(np.float64) * at.inv_EI
    if rows_O is not None:
        x_RI *= rows_O[sample.rows][:, None]
    y_RI: F64 = sample.y_RI.astype(np.float64)
    if at.dead_EI is not None:
        y_RI = np.where(at.dead_EI, 0.0, y_RI)
    wrong = set()
    for block, column in cells:
        row = block * linear.row_block
        place = rows.index(row), slice(column * linear.column_block, (column + 1) * linear.column_block)
        x, y = x_RI[place], y_RI[place]
        with np.errstate(all="ignore"):
            if _is_wrong((x * x).sum(), (x * y).sum(), (y * y).sum(), len(x), TOLERATED_NEAR_ZERO):
                wrong.add(row)
    return sorted(wrong)


def far_factors(factor_O: F32) -> NDArray[np.intp]:
    """Channels whose factor is more than a million times the median, or less than its millionth."""
    return np.flatnonzero(octaves_from_median(factor_O) > _FAR)


def count_and_first(numbers: Sequence[int] | NDArray[np.intp], count: int, what: str) -> str:
    """How many rows or channels, and which is the first."""
    return f"{len(numbers)} of {count} {what} (the first is {int(numbers[0])})"


def wrong_rows(left_R: F64, noise_R: F64, signal_R: F64, num_columns: int) -> NDArray[np.intp]:
    """Rows of which more is left than rounding leaves, and more than a fifth of what they are.

    Args:
        left_R: Sums of squares of what is left, in codes; float64, shape (R,), as all of them.
        noise_R: The same in the weights' own size.
        signal_R: Sums of squares of the weights.
        num_columns: Length of a row.
    """
    return np.flatnonzero((left_R > num_columns * _ROW_LEFT**2) & (noise_R > _ROW_SHARE * signal_R))


def _is_wrong(xx: Any, xy: Any, yy: Any, count: Any, tolerated: float) -> Any:
    """Whether codes are weights times a factor that is not one, from their sums."""
    fits = ~(yy - xy * xy / xx > _EXPLAINED * yy)  # sums that are not finite are of weights that a factor made so
    return (yy > count * _QUIET**2) & _is_off(xx, xy, tolerated) & (fits | ~np.isfinite(xx))


def _is_off(xx: Any, xy: Any, tolerated: float) -> Any:
    """Whether the factor that fits, ``xy / xx``, is far from one."""
    return (xy > tolerated * xx) | (tolerated * xy < xx) & (xy != 0) | ~np.isfinite(xx)


def octaves_from_median(values: F32) -> F32:
    """Powers of two between each value and the median; values are positive."""
    logarithm = np.log2(values)
    distance: F32 = np.abs(logarithm - np.median(logarithm))
    return distance
