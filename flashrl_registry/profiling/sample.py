"""A sample of a quantized linear's rows: which factor do its columns carry, and what does one leave?

Shape legend: R sampled rows, I input columns, E parts (experts in one tensor).
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flashrl_registry.profiling.layout import F32, F64, Bytes, Mask, Weight
from flashrl_registry.profiling.linear import NO_CODE, Columns, Linear, Pair, grid_rows

ROWS_SAMPLED = 32
"""Rows of each linear that its relations are found and verified on."""
_BLOCKS, _BLOCKS_OF_EXPERTS = 4, 16
_LOST = 1 / 8
"""Largest share of columns that may have lost their codes."""


def sampled_blocks(linear: Linear) -> list[tuple[int, int]]:
    """Row ranges of the sample, evenly spaced: few reads, and the same ones for everybody."""
    if linear.num_rows <= ROWS_SAMPLED:
        return [(0, linear.num_rows)]
    count = _BLOCKS if linear.num_parts == 1 else _BLOCKS_OF_EXPERTS
    size = ROWS_SAMPLED // count
    # The last rows are among them: where weights are fused, they are the ones that feed the next linear.
    starts = [index * (linear.num_rows - size) // (count - 1) for index in range(count)]
    return [(start, start + size) for start in starts]


@dataclass(frozen=True)
class SampledRows:
    """Sampled rows of a linear as a linear of their own.

    Attributes:
        rows: Their numbers.
        linear: The linear that they make; each is a part of its own where there are experts.
        weight_RI: Their weights.
        codes_RI: Their codes.
    """

    rows: NDArray[np.intp]
    linear: Linear
    weight_RI: Weight
    codes_RI: Bytes

    @property
    def num_bytes(self) -> int:
        """What they take in memory."""
        return int(self.weight_RI.nbytes + self.codes_RI.nbytes)


def read_sample(pair: Pair, linear: Linear, blocks: list[tuple[int, int]] | None = None) -> SampledRows:
    """Read the sample of a linear, or the row ranges that are named, into new memory."""
    blocks = blocks or sampled_blocks(linear)
    rows = np.concatenate([np.arange(start, stop) for start, stop in blocks])
    is_half = pair.reference.index.specs[linear.name].dtype == "bfloat16"
    weight_RI: Weight = np.empty((len(rows), linear.num_columns), np.uint16 if is_half else np.float32)
    codes_RI: Bytes = np.empty(weight_RI.shape, np.uint8)
    done = 0
    for start, stop in blocks:
        part = slice(done, done + stop - start)
        weight_RI[part], codes_RI[part] = pair.rows(linear, start, stop)
        done += stop - start
    blocks_R = rows // linear.row_block
    sample = replace(
        linear, num_rows=len(rows), num_parts=1 if linear.num_parts == 1 else len(rows), row_block=1,
        scale_PJ=np.ascontiguousarray(linear.scale_PJ[blocks_R]),
        zero_PJ=np.ascontiguousarray(linear.zero_PJ[blocks_R]) if linear.zero_PJ.size else linear.zero_PJ,
    )  # fmt: skip
    return SampledRows(rows, sample, weight_RI, codes_RI)


def _float32(pair: Pair, weight_RI: Weight) -> F32:
    """A weight's numbers in new memory."""
    if weight_RI.dtype != np.uint16:
        return weight_RI.astype(np.float32)
    wide: F32 = np.empty(weight_RI.shape, np.float32)
    pair.loops.widen(weight_RI.reshape(-1), wide.view(np.uint32).reshape(-1))
    return wide


class Sample:
    """Some rows of a linear in units of one code: ``x`` is the weight, ``y`` what its codes stand for."""

    def __init__(self, pair: Pair, linear: Linear, blocks: list[tuple[int, int]] | None = None) -> None:
        self.linear = linear
        self._pair = pair
        self.taken = read_sample(pair, linear, blocks)
        self.rows, sample, codes = self.taken.rows, self.taken.linear, self.taken.codes_RI
        self.x_RI: F32 = _float32(pair, self.taken.weight_RI)
        self.x_RI /= grid_rows(sample.scale_PJ, sample, 0, len(codes))
        if linear.is_int:
            self.y_RI: F32 = codes.view(np.int8).astype(np.float32)
            if linear.zero_PJ.size:
                self.y_RI -= grid_rows(sample.zero_PJ, sample, 0, len(codes))
        else:
            self.y_RI = linear.values[codes]
            step = np.maximum(np.exp2(np.floor(np.log2(np.maximum(np.abs(self.y_RI), 2.0**-6)))), 2.0**-6) * 0.125
            self.x_RI /= step
            self.y_RI /= step
        self._squares_R = np.empty(len(codes))
        ones: F32 = np.ones((1, linear.num_columns), np.float32)
        pair.loops.moments(self.y_RI, self.y_RI, ones, self._squares_R, self._squares_R)

    @property
    def is_finite(self) -> bool:
        """Every weight and every code is a number: one that is not shows in the sums, which are looked at first."""
        with np.errstate(all="ignore"):
            if np.isfinite(self.x_RI.sum()) and np.isfinite(self._squares_R).all():
                return True
        return bool(np.isfinite(self.x_RI).all() and np.isfinite(self.y_RI).all())

    def residuals(self, columns: Columns) -> tuple[float, float]:
        """Root mean square of what a factor of the columns leaves, in codes.

        Returns:
            Without any factor of the rows, and with the best one for each row.
        """
        inverse, x, y, squares, count = columns.inv_EI, self.x_RI, self.y_RI, self._squares_R, self.x_RI.size
        if len(inverse) > 1:
            inverse = inverse[self.rows // self.linear.part_rows]
        if columns.dead_EI is not None:
            parts = self.rows // columns.part_rows(self.linear)
            y = np.where(columns.dead_EI[parts], np.float32(0), y)
            inverse = np.where(columns.dead_EI[parts], np.float32(0), inverse if len(inverse) > 1 else inverse[:1])
            squares = np.einsum("ij,ij->i", y, y, dtype=np.float64)
            count -= int(columns.dead_EI[parts].sum())
        above, below = np.empty(len(x)), np.empty(len(x))
        self._pair.loops.moments(x, y, np.ascontiguousarray(inverse, np.float32), above, below)
        with np.errstate(all="ignore"):
            fixed = (squares - 2 * above + below).sum() / max(1, count)
            usable = (below > 0) & (above > 0)  # a factor is positive
            best = (squares - np.where(usable, above * above / below, 0.0)).sum() / max(1, count)
        return float(np.sqrt(max(fixed, 0.0))), float(np.sqrt(max(best, 0.0)))

    def blur(self, error_EI: F32) -> float:
        """Root mean square of what errors of the columns' factor leave, in codes.

        Args:
            error_EI: Standard errors, as shares of the factor; one row for all parts, or one for each.
        """
        error = error_EI if len(error_EI) == 1 else error_EI[self.rows // self.linear.part_rows]
        return float(np.sqrt(np.square(self.y_RI * error, dtype=np.float64).mean()))

    def lost(self, columns: Columns) -> Mask | None:
        """Columns without a code, some of whose weights are too large for that; None where there are none, or many.

        GPTQ sets a column to zero whose input was zero in every token that it saw: behind a neuron that is dead.

        Returns:
            Shape (I,).
        """
        without = ~self.y_RI.any(axis=0)
        if columns.dead_EI is not None:
            without &= ~columns.dead_EI.all(axis=0)
        which = np.flatnonzero(without)
        at = columns.at(self.rows // self.linear.part_rows)
        inverse = at.inv_EI[:, which]
        lost: Mask = np.zeros(without.size, np.bool_)
        lost[which] = (np.abs(self.x_RI[:, which] * inverse) > 2 * NO_CODE).any(axis=0)
        return lost if 0 < lost.sum() <= lost.size * _LOST else None

    def row_factor(self, columns: Columns) -> F64:
        """The best factor of each row for a factor of the columns, float64, shape (R,); 1 where there is none."""
        at = columns.at(self.rows // self.linear.part_rows)
        inverse = at.inv_EI if at.dead_EI is None else np.where(at.dead_EI, np.float32(0), at.inv_EI)
        above, below = np.empty(len(self.rows)), np.empty(len(self.rows))
        self._pair.loops.moments(self.x_RI, self.y_RI, np.ascontiguousarray(inverse, np.float32), above, below)
        found: F64 = np.divide(above, below, out=np.ones_like(above), where=below > 0)
        return found

    def fit(self, rounds: int = 4) -> tuple[NDArray[np.float64], float]:
        """The best factor of the columns there is, whatever its source: ``y ~ rows * x * factor``, rank one.

        Alternating least squares. The factor is known up to a number, and where a column is not zero.

        Returns:
            The factor, shape (I,), and the root mean square of what it leaves.
        """
        x: F64 = self.x_RI.astype(np.float64)
        y: F64 = self.y_RI.astype(np.float64)
        products, squares = x * y, x * x
        rows, columns = np.ones(len(x)), np.ones(x.shape[1])
        for _ in range(rounds):
            columns = _quotient(rows @ products, (rows * rows) @ squares)
            rows = _quotient(products @ columns, squares @ (columns * columns))
        left = y - rows[:, None] * x * columns
        return columns, float(np.sqrt((left * left).mean()))


def _quotient(above: F64, below: F64) -> F64:
    return np.divide(above, below, out=np.ones_like(above), where=(below > 0) & (above > 0))
