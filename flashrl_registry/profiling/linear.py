"""One quantized linear: its scales, the factor of its columns, and the passes over all of its rows.

``codes - zero ~= W * rows / columns / scale``. A sample (``sample.py``) answers which factor the columns carry; a pass
over all rows measures the factor of the rows, or compares every code.

Shape legend: O output channels of all parts, R some of them, I input columns, P and J blocks of rows and columns, E
parts (experts in one tensor).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashrl_registry.profiling.correspondence import block_size, scale_name, zero_point_name
from flashrl_registry.profiling.faults import Fault
from flashrl_registry.profiling.formats import Format
from flashrl_registry.profiling.layout import F32, Bytes, Mask, Weight
from flashrl_registry.profiling.reader import TensorReader, chunks, num_rows

INT8_RANGE = (np.float32(-128), np.float32(127))
FP8_MAX = 448.0
_LOW = {"bfloat16": 1, "float16": 2}
NO_CODE = 0.5
"""Weight, in codes, that still rounds to zero."""
_ROUNDING = 12**-0.5
"""Root mean square of what rounding leaves, in codes."""


@dataclass(frozen=True)
class Linear:
    """A quantized weight and what is needed to read its codes.

    Attributes:
        name: Weight tensor.
        num_rows: Output channels of all parts, O.
        num_columns: Input columns, I.
        num_parts: Experts in the tensor; 1 for a matrix.
        scale_PJ: Scales, float32.
        zero_PJ: Zero points, float32; of shape (0, 0) for symmetric codes.
        row_block: Rows that share a scale.
        column_block: Columns that share a scale.
        values: Number of each byte of fp8; empty for int8.
        low: Arithmetic of the reference's dtype, as the kernels know it.
    """

    name: str
    num_rows: int
    num_columns: int
    num_parts: int
    scale_PJ: F32
    zero_PJ: F32
    row_block: int
    column_block: int
    values: F32
    low: int

    @property
    def part_rows(self) -> int:
        """Rows of one part."""
        return self.num_rows // self.num_parts

    @property
    def scale_key(self) -> str:
        """What the sidecar calls its scales: those that a plan can keep have a name of their own."""
        plain = self.is_int and self.num_parts == self.row_block == 1 and not self.zero_PJ.size
        return "weight_scale" if plain and self.scale_PJ.shape[1] == 1 else "stored_scale"

    @property
    def is_int(self) -> bool:
        """The codes are int8, not fp8."""
        return len(self.values) == 0


@dataclass(frozen=True)
class Columns:
    """A factor of input columns.

    Attributes:
        inv_EI: Its reciprocal, float32; one row for all parts, or one for each.
        dead_EI: Channels that nothing is known of and no output depends on, or None.
    """

    inv_EI: F32
    dead_EI: Mask | None = None

    @classmethod
    def ones(cls, num_columns: int) -> "Columns":
        """No factor."""
        return cls(np.ones((1, num_columns), np.float32))

    @classmethod
    def of(cls, factor_EI: F32, dead_EI: Mask) -> "Columns":
        """From the factor itself."""
        with np.errstate(all="ignore"):
            inverse = (np.float32(1) / factor_EI).astype(np.float32)
        return cls(np.atleast_2d(inverse), np.atleast_2d(dead_EI) if dead_EI.any() else None)

    def at(self, parts: NDArray[np.intp]) -> "Columns":
        """The factor of sampled rows, given the part of each."""
        if len(self.inv_EI) == 1:
            return self
        return Columns(self.inv_EI[parts], None if self.dead_EI is None else self.dead_EI[parts])

    def without(self, lost_I: Mask) -> "Columns":
        """The same, with more channels that are left out of every fit and comparison."""
        dead = np.zeros(self.inv_EI.shape, np.bool_) if self.dead_EI is None else self.dead_EI
        return Columns(self.inv_EI, dead | lost_I)

    def part_rows(self, linear: Linear) -> int:
        """Rows of the linear that one row of the factor is for."""
        return linear.num_rows if len(self.inv_EI) == 1 else linear.part_rows


def read_linear(
    reference: TensorReader, quantized: TensorReader, name: str, form: Format
) -> tuple[Linear, list[Fault]]:
    """Read a linear's scales.

    Returns:
        The linear, and what is wrong with its scales.
    """
    spec, args = reference.index.specs[name], form.checkpoint.weights
    faults = []
    row_block, column_block = block_size(spec.shape, args)
    rows, columns = num_rows(spec.shape), spec.shape[-1]
    grid = (-(-rows // row_block), -(-columns // column_block))
    scale_PJ = np.ascontiguousarray(quantized.array(scale_name(name, form)), np.float32).reshape(grid)
    with np.errstate(invalid="ignore"):
        bad = int((~(np.isfinite(scale_PJ) & (scale_PJ > 0))).sum())
    if bad:
        where = {"channel": "rows", "tensor": "tensors"}.get(args.strategy, "blocks")
        faults.append(Fault(scale_name(name, form), f"is not positive and finite in {bad} {where}"))
    zero_PJ: F32 = np.zeros((0, 0), np.float32)
    if not args.symmetric:
        zero_PJ = np.ascontiguousarray(quantized.array(zero_point_name(name)).astype(np.float32)).reshape(grid)
    linear = Linear(
        name=name, num_rows=rows, num_columns=columns, num_parts=spec.shape[0] if len(spec.shape) == 3 else 1,
        scale_PJ=scale_PJ, zero_PJ=zero_PJ, row_block=row_block, column_block=column_block,
        values=fp8_values() if form.code_dtype == "float8_e4m3fn" else np.zeros(0, np.float32),
        low=_LOW.get(spec.dtype, 0),
    )  # fmt: skip
    return linear, faults


def fp8_values() -> F32:
    """The number of each byte of float8_e4m3fn."""
    code = np.arange(256)
    exponent, mantissa = (code >> 3) & 15, code & 7
    size = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent.astype(float) - 7))
    size[(code & 127) == 127] = np.nan
    return np.where(code & 128, -size, size).astype(np.float32)


@dataclass(frozen=True)
class Pair:
    """Both checkpoints, open.

    Attributes:
        reference: The bf16 one.
        quantized: The low-bit one.
        form: How it is quantized.
        loops: The inner loops; see ``layout.py``.
    """

    reference: TensorReader
    quantized: TensorReader
    form: Format
    loops: Any

    def rows(self, linear: Linear, start: int, stop: int) -> tuple[Weight, Bytes]:
        """Weights and codes of some rows; valid until the next call of the same thread."""
        return self.reference.weights(linear.name, start, stop), self.quantized.codes(linear.name, start, stop)


def grid_rows(grid_PJ: F32, linear: Linear, first: int, count: int) -> F32:
    """One value per row, or per element, of a grid of blocks."""
    rows = grid_PJ[np.arange(first, first + count) // linear.row_block]
    if rows.shape[1] > 1:
        rows = rows[:, np.arange(linear.num_columns) // linear.column_block]
    return rows


def all_chunks(pair: Pair, linear: Linear) -> Iterator[tuple[int, int]]:
    """Row ranges that cover a linear, as large as suits the inner loops."""
    return chunks(linear.num_rows, linear.num_columns, pair.loops.CHUNK_ELEMENTS)


def row_factor(pair: Pair, linear: Linear, columns: Columns) -> tuple[F32, Mask, F32]:
    """Factor that was folded into a linear's rows, by least squares against the codes.

    ``beta = sum(q * x) / sum(x * x)`` over each row. Rounding to int8 leaves a relative error of about
    ``0.29 / (rms(x) * sqrt(I))``: a linear whose rows were never scaled gets values near 1.

    Returns:
        The factor, float32, shape (O,), 1 where a row has no code and its weights are zero, or so small that they
        round to none; where that is; and the standard error of each, as a share of it.

    Source:
        FlashRL 1.0.3, ``profiling_int8`` and ``least_square``; deviation: float64 sums.
    """
    above, below = np.empty(linear.num_rows), np.empty(linear.num_rows)
    used: Mask = np.empty(linear.num_rows, np.bool_)
    part_rows = columns.part_rows(linear)
    for start, stop in all_chunks(pair, linear):
        weight, codes = pair.rows(linear, start, stop)
        blank_dead(linear, columns, weight, codes, start)
        pair.loops.fit_rows(
            weight, codes, start, linear.scale_PJ, linear.zero_PJ, linear.row_block, linear.column_block,
            columns.inv_EI, part_rows, linear.values, above[start:stop], below[start:stop],
        )  # fmt: skip
        used[start:stop] = above[start:stop] != 0
        if not used[start:stop].all():
            used[start:stop] |= _has_codes(linear, codes, start)
    with np.errstate(all="ignore"):
        factor = (above / below).astype(np.float32)
    dead = (below <= linear.num_columns * NO_CODE**2) & ~used
    factor[dead] = 1
    with np.errstate(all="ignore"):
        error = (_ROUNDING / np.sqrt(factor * above)).astype(np.float32)
    return factor, dead, np.where(dead, np.float32(0), error)


def _has_codes(linear: Linear, codes_RI: Bytes, first: int) -> Mask:
    """Rows with a code that does not stand for zero."""
    if linear.zero_PJ.size:
        zero = grid_rows(linear.zero_PJ, linear, first, len(codes_RI))
        return np.asarray((codes_RI.view(np.int8) != zero).any(axis=1))
    return np.asarray((codes_RI if linear.is_int else codes_RI & 0x7F).any(axis=1))  # fp8 has a minus zero


def blank_dead(linear: Linear, columns: Columns, weight_RI: Weight, codes_RI: Bytes, first: int) -> int:
    """Set dead columns to zero in both, in place; returns how many elements that were."""
    if columns.dead_EI is None:
        return 0
    dead = columns.dead_EI[np.arange(first, first + len(weight_RI)) // columns.part_rows(linear)]
    dead = np.broadcast_to(dead, weight_RI.shape)
    weight_RI[dead] = 0
    if linear.zero_PJ.size:
        zero = np.broadcast_to(grid_rows(linear.zero_PJ, linear, first, len(weight_RI)), weight_RI.shape)
        codes_RI[dead] = zero[dead].astype(np.int8).view(np.uint8)
    else:
        codes_RI[dead] = 0
    return int(dead.sum())
