"""The compiled loops, called with arrays: the functions of ``plain.py``, several times as fast.

What they are made of is ``kernels.py``. A call checks what the loop relies on, since a loop checks nothing, and lets
other threads run.

Shape legend: as in ``kernels.py``.
"""

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashrl_registry.profiling.layout import F32, F64, NUM_FACTS, SEGMENT, Bytes, Weight
from flashrl_registry.profiling.object_code import addresses

CHUNK_ELEMENTS = 1 << 19
"""Elements that are worked on at a time: few enough for the processor's outer cache, and enough that what Python does
between two chunks, while no other thread can, is little (measured: a tenth of 1 << 16's time)."""
_POINTER, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_WEIGHT = (_POINTER, _POINTER, _INT, _POINTER, _INT, _INT, _INT)
"""bfloat16 bits, float32, which of the two, codes, rows, columns, first row."""
_GRID = (_POINTER, _POINTER, _INT, _INT, _INT, _INT)
"""Scales, zero points, whether there are any, blocks of columns, rows and columns of a block."""
_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "compare_int8": (*_WEIGHT, *_GRID, _POINTER, _POINTER, _INT, _FLOAT, _FLOAT, _INT, _POINTER, _POINTER),
    "compare_fp8": (
        *_WEIGHT, _POINTER, _INT, _INT, _INT, _POINTER, _POINTER, _INT, _POINTER, _INT, _POINTER, _POINTER,
    ),
    "fit_rows": (*_WEIGHT, *_GRID, _POINTER, _INT, _POINTER, _INT, _POINTER, _POINTER, _POINTER, _POINTER),
    "moments": (_POINTER, _POINTER, _POINTER, _INT, _INT, _INT, _POINTER, _POINTER, _POINTER),
    "widen": (_POINTER, _POINTER, _INT),
    "mark_used": (_POINTER, _INT, _INT, _POINTER),
}  # fmt: skip
_SIZE_WORK, _SIZE_LANES = 9 * SEGMENT, 2 * SEGMENT
_LINE = 64
"""Bytes of a line of the processor's cache: vectors that cross from one to the next take twice as long."""


def _loop(name: str) -> Callable[..., None]:
    # The C signature has two more arguments and a result in front: how numba reports errors, of which there are none.
    loop = ctypes.CFUNCTYPE(ctypes.c_int32, _POINTER, _POINTER, *_ARGUMENTS[name])(addresses()[name])
    unused = (ctypes.c_void_p * 2)()
    first, second = ctypes.addressof(unused), ctypes.addressof(unused) + ctypes.sizeof(ctypes.c_void_p)

    def call(*arguments: Any, _keep: Any = unused) -> None:
        if loop(first, second, *arguments):
            raise RuntimeError(f"the compiled loop {name} failed")

    return call


_compare_int8, _compare_fp8, _fit_rows = _loop("compare_int8"), _loop("compare_fp8"), _loop("fit_rows")
_moments, _widen, _mark_used = _loop("moments"), _loop("widen"), _loop("mark_used")


class _Scratch(threading.local):
    """What a loop works on; one for each thread."""

    def __init__(self) -> None:
        self._memory: Bytes = np.zeros(4 * _SIZE_WORK + 8 * _SIZE_LANES + _LINE, np.uint8)
        self.work_at = -(-self._memory.ctypes.data // _LINE) * _LINE
        self.lanes_at = self.work_at + 4 * _SIZE_WORK


_SCRATCH = _Scratch()


def _at(array: NDArray[Any], dtype: type[np.generic], size: int) -> int:
    """Address of an array's first element.

    Raises:
        ValueError: It is not what a loop takes for granted.
    """
    if array.dtype != dtype or not array.flags.c_contiguous or array.size < size:
        raise ValueError(f"a loop takes {size} contiguous {dtype.__name__}, not {array.dtype} of shape {array.shape}")
    address: int = array.__array_interface__["data"][0]
    return address


def _weight(weight_RI: Weight, codes_RI: Bytes, first_row: int) -> tuple[int, int, int, int, int, int, int]:
    rows, columns = weight_RI.shape
    half = weight_RI.dtype == np.uint16
    at = _at(weight_RI, np.uint16 if half else np.float32, rows * columns)
    return at, at, half, _at(codes_RI, np.uint8, rows * columns), rows, columns, first_row


def _grid(scale_PJ: F32, zero_PJ: F32, last_row: int, row_block: int, column_block: int) -> tuple[int, ...]:
    blocks = scale_PJ.shape[1]
    size = (last_row // row_block + 1) * blocks
    scale = _at(scale_PJ, np.float32, size)
    zero = _at(zero_PJ, np.float32, size) if zero_PJ.size else scale
    return scale, zero, bool(zero_PJ.size), blocks, row_block, column_block


def _inverse(inv_columns_EI: F32, weight_RI: Weight, last_row: int, part_rows: int) -> tuple[int, int]:
    return _at(inv_columns_EI, np.float32, (last_row // part_rows + 1) * weight_RI.shape[1]), part_rows


def compare_int8(  # noqa: PLR0917 - as in plain.py
    weight_RI: Weight, codes_RI: Bytes, first_row: int, scale_PJ: F32, zero_PJ: F32, row_block: int,
    column_block: int, rows_R: F32, inv_columns_EI: F32, part_rows: int, smallest: np.float32, largest: np.float32,
    low: int, out_RF: F64,
) -> None:  # fmt: skip
    """Requantize rows to int8 and compare with the checkpoint's codes."""
    count = len(weight_RI)
    last = first_row + count - 1
    _compare_int8(
        *_weight(weight_RI, codes_RI, first_row), *_grid(scale_PJ, zero_PJ, last, row_block, column_block),
        _at(rows_R, np.float32, count), *_inverse(inv_columns_EI, weight_RI, last, part_rows),
        smallest, largest, low, _SCRATCH.work_at, _at(out_RF, np.float64, count * NUM_FACTS),
    )  # fmt: skip


def compare_fp8(  # noqa: PLR0917 - as in plain.py
    weight_RI: Weight, codes_RI: Bytes, first_row: int, scale_PJ: F32, row_block: int, column_block: int, rows_R: F32,
    inv_columns_EI: F32, part_rows: int, values: F32, low: int, out_RF: F64,
) -> None:  # fmt: skip
    """Requantize rows to float8_e4m3fn and compare; ``values`` is the number of each byte."""
    count = len(weight_RI)
    last = first_row + count - 1
    scale, _, _, *blocks = _grid(scale_PJ, scale_PJ, last, row_block, column_block)
    _compare_fp8(
        *_weight(weight_RI, codes_RI, first_row), scale, *blocks, _at(rows_R, np.float32, count),
        *_inverse(inv_columns_EI, weight_RI, last, part_rows), _at(values, np.float32, 256), low, _SCRATCH.work_at,
        _at(out_RF, np.float64, count * NUM_FACTS),
    )  # fmt: skip


def fit_rows(  # noqa: PLR0917 - as in plain.py
    weight_RI: Weight, codes_RI: Bytes, first_row: int, scale_PJ: F32, zero_PJ: F32, row_block: int,
    column_block: int, inv_columns_EI: F32, part_rows: int, values: F32, above_R: F64, below_R: F64,
) -> None:  # fmt: skip
    """``sum(q * x)`` and ``sum(x * x)`` of each row for ``x = w * inv_columns / scale``, in float64."""
    count = len(weight_RI)
    last = first_row + count - 1
    is_fp8 = bool(values.size)
    _fit_rows(
        *_weight(weight_RI, codes_RI, first_row), *_grid(scale_PJ, zero_PJ, last, row_block, column_block),
        *_inverse(inv_columns_EI, weight_RI, last, part_rows), _at(values, np.float32, 256 * is_fp8), is_fp8,
        _SCRATCH.work_at, _SCRATCH.lanes_at, _at(above_R, np.float64, count), _at(below_R, np.float64, count),
    )  # fmt: skip


def moments(x_RI: F32, y_RI: F32, inv_columns_RI: F32, above_R: F64, below_R: F64) -> None:
    """``sum(y * x')`` and ``sum(x' * x')`` of each sampled row for ``x' = x * inv_columns``, in float64."""
    rows, columns = x_RI.shape
    step = columns if len(inv_columns_RI) > 1 else 0
    _moments(
        _at(x_RI, np.float32, rows * columns), _at(y_RI, np.float32, rows * columns),
        _at(inv_columns_RI, np.float32, max(columns, rows * step)), step, rows, columns, _SCRATCH.lanes_at,
        _at(above_R, np.float64, rows), _at(below_R, np.float64, rows),
    )  # fmt: skip


def widen(bfloat16: NDArray[np.uint16], bits: NDArray[np.uint32]) -> None:
    """bfloat16 to the bits of float32."""
    _widen(_at(bfloat16, np.uint16, 0), _at(bits, np.uint32, bfloat16.size), bfloat16.size)


def mark_used(codes_RI: Bytes, used_I: Bytes) -> None:
    """Or the bits of every code of a column into ``used``."""
    rows, columns = codes_RI.shape
    _mark_used(_at(codes_RI, np.uint8, rows * columns), rows, columns, _at(used_I, np.uint8, columns))
