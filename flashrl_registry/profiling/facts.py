"""How well a profile reproduces the codes of a checkpoint: one linear requantized and compared.

A channel that is zero in both checkpoints is dead: nothing says what its factor was and no output depends on it. Its
factor is 1, and the columns that read it are left out of every fit and every comparison.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashrl_registry.documents import LinearFacts
from flashrl_registry.profiling import layout
from flashrl_registry.profiling.layout import F32, F64, Bytes, Mask, Weight
from flashrl_registry.profiling.linear import (
    FP8_MAX,
    INT8_RANGE,
    Columns,
    Linear,
    Pair,
    all_chunks,
    blank_dead,
)
from flashrl_registry.profiling.plausible import wrong_rows
from flashrl_registry.profiling.sample import Sample, SampledRows, read_sample

LARGEST_RESIDUAL = 1.0
"""Residual in codes, root mean square, above which a relation is wrong. Rounding to nearest leaves 0.29 to 0.31 and
GPTQ up to 0.49; the factor of another norm, or none, left 5 to 166 (all measured on a 135M model). GPTQ leaves up to
0.86 where inputs are correlated and a few channels are fifty times the others (synthetic ones, damping 0.01)."""
NEAREST_BELOW, GPTQ_ABOVE = 0.345, 0.355
"""Residual in codes, root mean square: rounding to nearest leaves 0.289 to 0.314, up to 0.341 behind a norm of
``1 + w`` in bfloat16, and GPTQ 0.365 to 0.492 (measured)."""


def norm_factor(reference_O: F32, quantized_O: F32, offset: int) -> tuple[F32, Mask]:
    """Factor that was folded into a norm's weight: ``(offset + quantized) / (offset + reference)`` in float32.

    Args:
        reference_O: Norm of the reference checkpoint, float32.
        quantized_O: Norm of the quantized checkpoint, float32.
        offset: 1 for norms that multiply by ``1 + w``, 0 for others.

    Returns:
        The factor, 1 where both are zero; and where that is. A channel that is zero in one of the two has the factor
        0 or infinity; see :func:`factor_fault`.

    Source:
        FlashRL 1.0.3, ``profiling_int8``: ``input_scale`` of a layernorm (there without the offset).
    """
    above, below = (np.float32(offset) + quantized_O, np.float32(offset) + reference_O) if offset else (
        quantized_O, reference_O)  # fmt: skip
    dead = (above == 0) & (below == 0)
    with np.errstate(all="ignore"):
        factor = (above / below).astype(np.float32)
    factor[dead] = 1
    return factor, dead


def _unusable(factor_O: F32) -> Mask:
    with np.errstate(invalid="ignore"):
        bad: Mask = ~(np.isfinite(factor_O) & (factor_O > 0))
    return bad


def num_unusable(factor_O: F32) -> int:
    """Channels whose factor cannot be divided out again."""
    return int(_unusable(factor_O).sum())


def factor_fault(factor_O: F32) -> str | None:
    """Why a factor cannot be divided out again, or None: it must be finite and positive in every channel."""
    bad = _unusable(factor_O)
    if not bad.any():
        return None
    return f"has no positive, finite factor in {int(bad.sum())} of {bad.size} channels (the first is {bad.argmax()})"


@dataclass(frozen=True)
class Compared:
    """What requantizing a linear showed.

    Attributes:
        facts: Shares and distances in codes; None where something is not finite.
        used: 1 for each column that has a code other than zero, shape (I,); None where not every row was looked at.
        wrong_rows: Rows that are not explained although the linear is.
        spread: Standard deviation of the rows' shares of equal codes.
    """

    facts: LinearFacts | None
    used: NDArray[np.uint8] | None
    wrong_rows: list[int]
    spread: float = 0.0


def linear_facts(
    pair: Pair,
    linear: Linear,
    columns: Columns,
    rows_O: F32 | None,
    *,
    every_row: bool,
    taken: SampledRows | None = None,
) -> Compared:
    """Requantize a linear with a profile's factors and compare with the checkpoint's own codes.

    Args:
        pair: Both checkpoints.
        linear: The linear.
        columns: Factor of what feeds it.
        rows_O: Factor of its own output channels, or None.
        every_row: Look at all rows; otherwise at the sample.
        taken: The sample where it was read before; it is written to.
    """
    found = _compared(pair, linear, columns, rows_O, every_row=every_row, taken=taken)
    if found.facts is not None and found.facts.residual_rms > LARGEST_RESIDUAL:
        lost = Sample(pair, linear).lost(columns)
        if lost is not None:
            return _compared(pair, linear, columns.without(lost), rows_O, every_row=every_row, taken=None)
    return found


def _compared(
    pair: Pair, linear: Linear, columns: Columns, rows_O: F32 | None, *, every_row: bool, taken: SampledRows | None
) -> Compared:
    if not every_row:
        taken = taken or read_sample(pair, linear)
        factors = None if rows_O is None else rows_O[taken.rows]
        parts = columns.at(taken.rows // linear.part_rows)
        found = _looked_at(pair, taken.linear, parts, factors, iter([(0, taken.weight_RI, taken.codes_RI)]), None)
        return replace(found, wrong_rows=taken.rows[found.wrong_rows].tolist())
    used: NDArray[np.uint8] = np.zeros(linear.num_columns, np.uint8)
    chunks = ((start, *pair.rows(linear, start, stop)) for start, stop in all_chunks(pair, linear))
    return _looked_at(pair, linear, columns, rows_O, chunks, used)


def _looked_at(  # noqa: PLR0917 - one thing in six parts
    pair: Pair, linear: Linear, columns: Columns, rows_O: F32 | None, chunks: Iterator[tuple[int, Weight, Bytes]],
    used: NDArray[np.uint8] | None,
) -> Compared:  # fmt: skip
    """Facts of a linear whose rows come in chunks: first row, weights, codes."""
    table = np.empty((linear.num_rows, layout.NUM_FACTS))
    num_blank = 0
    for start, weight, codes in chunks:
        stop = start + len(weight)
        if used is not None:
            pair.loops.mark_used(codes if linear.is_int else codes & 0x7F, used)
        num_blank += blank_dead(linear, columns, weight, codes, start)
        factor = np.ones(stop - start, np.float32) if rows_O is None else rows_O[start:stop]
        _compare(pair.loops, linear, columns, (weight, codes), start, factor, table[start:stop])
    if not np.isfinite(table).all() or table[:, layout.NOT_FINITE].any():
        return Compared(None, used, [])
    facts = _facts(linear, table, linear.num_rows * linear.num_columns, num_blank, used)
    left, noise, signal = (table[:, column] for column in (layout.RESIDUAL, layout.NOISE, layout.SIGNAL))
    spread = float(table[:, layout.EQUAL].std()) / linear.num_columns
    return Compared(facts, used, wrong_rows(left, noise, signal, linear.num_columns).tolist(), spread)


def _compare(  # noqa: PLR0917 - the compiled loop takes them all
    loops: Any, linear: Linear, columns: Columns, rows: tuple[Weight, Bytes], start: int, factor: F32, out: F64
) -> None:
    weight, codes = rows
    part_rows = columns.part_rows(linear)
    if linear.is_int:
        loops.compare_int8(
            weight, codes, start, linear.scale_PJ, linear.zero_PJ, linear.row_block, linear.column_block, factor,
            columns.inv_EI, part_rows, *INT8_RANGE, linear.low, out,
        )  # fmt: skip
    else:
        loops.compare_fp8(
            weight, codes, start, linear.scale_PJ, linear.row_block, linear.column_block, factor, columns.inv_EI,
            part_rows, linear.values, linear.low, out,
        )  # fmt: skip


def _facts(
    linear: Linear, table: NDArray[np.float64], size: int, num_blank: int, used: NDArray[np.uint8] | None
) -> LinearFacts:
    # Counts, and sums of float32 numbers: in float64 no order of the rows shows in the digits that are kept.
    total = table[:, : layout.LARGEST].sum(axis=0).tolist()
    count = max(1, size - num_blank)
    residual = math.sqrt(total[layout.RESIDUAL] / count)
    peak = table[:, layout.PEAK]
    peak = peak[peak > 0]
    limit = float(INT8_RANGE[1]) if linear.is_int else FP8_MAX
    signal, noise = total[layout.SIGNAL], total[layout.NOISE]
    return LinearFacts(
        name=linear.name,
        rows_checked=len(table),
        codes_equal=round((total[layout.EQUAL] - num_blank) / count, 6),
        largest_difference=int(table[:, layout.LARGEST].max()),
        residual_rms=round(residual, 6),
        clip_rate=round(total[layout.CLIPPED] / count, 8),
        codes_equal_in_dtype=round((total[layout.EQUAL_LOW] - num_blank) / count, 6) if linear.low else None,
        rounding="nearest" if residual < NEAREST_BELOW else "gptq" if residual > GPTQ_ABOVE else "unclear",
        sqnr_db=round(10 * math.log10(signal / noise), 3) if signal > 0 and noise > 0 else None,
        headroom=round(float(np.median(limit / peak)), 4) if peak.size and not linear.zero_PJ.size else None,
        num_dead_columns=None if used is None else int((used == 0).sum()),
    )
