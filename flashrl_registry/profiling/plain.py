"""The inner loops for small models, in numpy: slower than ``compiled.py``, and free of a compiler.

Compiling takes seconds on a machine that profiles for the first time, and the code takes 50 MiB (measured). The
functions have the signatures and the results of ``compiled.py``; tests hold the two equal, apart from the last bits of
sums. Which of them a profile is made with depends on the pair alone, so a pair has one profile.

Shape legend: as in ``compiled.py``.
"""

import math
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashrl_registry.profiling.layout import (
    CLIPPED,
    EQUAL,
    EQUAL_LOW,
    F32,
    F64,
    LARGEST,
    NOISE,
    NOT_FINITE,
    PEAK,
    RESIDUAL,
    SIGNAL,
    Bytes,
    Weight,
)

CHUNK_ELEMENTS = 1 << 16
"""Elements that are worked on at a time: with their codes and in float32, they fit into a core's cache."""
_SEGMENT = 128
_BUFFERS = threading.local()


def _scratch(purpose: str, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """Memory of this thread that is used again: the system takes half a second to hand out what a model needs."""
    size = math.prod(shape)
    buffer: NDArray[Any] | None = getattr(_BUFFERS, purpose, None)
    if buffer is None or buffer.size < size:
        buffer = np.empty(size, dtype)
        setattr(_BUFFERS, purpose, buffer)
    return buffer[:size].reshape(shape)


def widen(bfloat16_: NDArray[np.uint16], bits: NDArray[np.uint32]) -> None:
    """bfloat16 to the bits of float32, of which it is the upper half."""
    bits[:] = bfloat16_
    np.left_shift(bits, 16, out=bits)


def _float32(weight_RI: Weight) -> F32:
    """A weight's numbers, valid until the same thread's next call."""
    if weight_RI.dtype != np.uint16:
        return weight_RI.astype(np.float32, copy=False)
    wide: F32 = _scratch("weight", weight_RI.shape, np.float32)
    widen(weight_RI.view(np.uint16), wide.view(np.uint32))
    return wide


def mark_used(codes_RI: Bytes, used_I: Bytes) -> None:
    """Or the bits of every code of a column into ``used``."""
    used_I |= np.bitwise_or.reduce(codes_RI, axis=0)


def moments(x_RI: F32, y_RI: F32, inv_columns_RI: F32, above_R: F64, below_R: F64) -> None:
    """``sum(y * x')`` and ``sum(x' * x')`` of each sampled row for ``x' = x * inv_columns``."""
    scaled = x_RI * inv_columns_RI
    above_R[:] = _dots(scaled, y_RI)
    below_R[:] = _dots(scaled, scaled)


def fit_rows(  # noqa: PLR0917 - as the compiled loop
    weight_RI: Weight, codes_RI: Bytes, first_row: int, scale_PJ: F32, zero_PJ: F32, row_block: int, column_block: int,
    inv_columns_EI: F32, part_rows: int, values: F32, above_R: F64, below_R: F64,
) -> None:  # fmt: skip
    """``sum(q * x)`` and ``sum(x * x)`` of each row for ``x = w * inv_columns / scale``.

    Products and sums are float64, in which every product is exact: the order of the sums does not show in a float32
    quotient, and so neither the processor nor the choice of loops does.
    """
    rows = np.arange(first_row, first_row + len(weight_RI))
    inverse = inv_columns_EI if len(inv_columns_EI) == 1 else inv_columns_EI[rows // part_rows]
    x = np.multiply(_float32(weight_RI), inverse, out=_scratch("x", weight_RI.shape, np.float32))
    np.divide(x, _grid(scale_PJ, rows // row_block, column_block, x.shape[1]), out=x)
    q, wide = _scratch("q", x.shape, np.float64), _scratch("wide", x.shape, np.float64)
    np.copyto(q, codes_RI.view(np.int8) if not values.size else values[codes_RI])
    if zero_PJ.size:
        q -= _grid(zero_PJ, rows // row_block, column_block, x.shape[1])
    np.copyto(wide, x)
    above_R[:] = (q[:, None, :] @ wide[:, :, None])[:, 0, 0]
    below_R[:] = (wide[:, None, :] @ wide[:, :, None])[:, 0, 0]


def compare_int8(  # noqa: PLR0917 - as the compiled loop
    weight_RI: Weight, codes_RI: Bytes, first_row: int, scale_PJ: F32, zero_PJ: F32, row_block: int, column_block: int,
    rows_R: F32, inv_columns_EI: F32, part_rows: int, smallest: np.float32, largest: np.float32, low: int, out_RF: F64,
) -> None:  # fmt: skip
    """Requantize rows to int8 and compare with the checkpoint's codes."""
    rows = np.arange(first_row, first_row + len(weight_RI))
    x = _smoothed(_float32(weight_RI), inv_columns_EI, rows // part_rows, rows_R)
    scale = _grid(scale_PJ, rows // row_block, column_block, x.shape[1])
    zero = _grid(zero_PJ, rows // row_block, column_block, x.shape[1]) if zero_PJ.size else np.float32(0)
    q = codes_RI.view(np.int8).astype(np.float32)
    with np.errstate(all="ignore"):
        u = x / scale
        out_RF[:, PEAK] = np.maximum(u.max(axis=1), -u.min(axis=1))
        out_RF[:, NOT_FINITE] = ~np.isfinite(u).all(axis=1)
        out_RF[:, SIGNAL] = _dots(x, x)
        noise = (u - (q - zero)) * scale
        out_RF[:, NOISE] = _dots(noise, noise)
        u += zero
        code = np.rint(u)
        out_RF[:, CLIPPED] = ((code < smallest) | (code > largest)).sum(axis=1)
        np.clip(code, smallest, largest, out=code)
        residual = np.clip(u, smallest, largest, out=u)
        residual -= q
        out_RF[:, RESIDUAL] = _dots(residual, residual)
        code -= q
        out_RF[:, EQUAL] = (code == 0).sum(axis=1)
        out_RF[:, LARGEST] = np.abs(code, out=code).max(axis=1)
        out_RF[:, EQUAL_LOW] = 0
        if low:
            round_to = bfloat16 if low == 1 else _float16
            code = np.rint(round_to(round_to(round_to(x) / scale) + zero))
            out_RF[:, EQUAL_LOW] = (np.clip(code, smallest, largest, out=code) == q).sum(axis=1)


def bfloat16(values: F32) -> F32:
    """Round to nearest even; the result is float32."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded: F32 = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)).view(
        np.float32
    )
    return rounded


def _float16(values: F32) -> F32:
    return values.astype(np.float16).astype(np.float32)


def _smoothed(weight_RI: F32, inv_columns_EI: F32, parts: NDArray[np.intp], rows_R: F32 | None = None) -> F32:
    """``w * rows * inv_columns`` in new memory."""
    inverse = inv_columns_EI if len(inv_columns_EI) == 1 else inv_columns_EI[parts]
    if rows_R is None:
        return weight_RI * inverse
    x = weight_RI * rows_R[:, None]
    x *= inverse
    return x


def _grid(grid_PJ: F32, blocks: NDArray[np.intp], column_block: int, num_columns: int) -> F32:
    rows = grid_PJ[blocks]
    return rows if rows.shape[1] == 1 else np.repeat(rows, column_block, axis=1)[:, :num_columns]


def _dots(left_RI: F32, right_RI: F32) -> F64:
    """Dot products of rows: float32 within a segment of columns, float64 between segments."""
    rows, columns = left_RI.shape
    whole = columns - columns % _SEGMENT
    pieces = [side[:, :whole].reshape(rows, -1, _SEGMENT) for side in (left_RI, right_RI)]
    total: F64 = np.einsum("rsi,rsi->rs", *pieces).sum(axis=1, dtype=np.float64)
    if whole < columns:
        total += np.einsum("ri,ri->r", left_RI[:, whole:], right_RI[:, whole:])
    return total
