"""The inner loops, compiled: every byte of a checkpoint pair that is looked at goes through one of these.

Written as C would be, on pointers, because what numba makes of that can be kept as object code and loaded without
numba; see ``object_code.py``. ``compiled.py`` calls them with arrays. Nothing else imports this module, and importing
it takes numba half a second.

A weight is bfloat16 (its bits) or float32; codes are bytes. The float sums are kept in lanes, one per position of a
segment of columns, and joined by a tree in a fixed order: the compiler turns lanes into vector instructions without
being allowed to reorder anything, so a result depends neither on the machine's vector width nor on how rows were
divided among chunks and threads. Counts and maxima are integers, where no order shows.

The factors are applied in the order of :func:`flashrl_registry.ops.smooth.smoothed`: ``w * rows * inv_columns``, then
``/ scale``; a test holds the two equal.

What a loop works on between its input and its output is one block of memory, ``work``, divided into segments: where
arrays many times apart share a loop, LLVM gives up on proving that they do not overlap, and the loop stays scalar.

Shape legend: R rows, I input columns, P blocks of rows, J blocks of columns, E parts (experts of a fused weight).
"""

import numpy as np
from numba import cfunc, njit, types

from flashrl_registry.profiling.kernel_arithmetic import (
    FP8_MAX,
    INFINITY,
    between,
    fp8_order,
    fp8_step,
    from_bfloat16,
    from_bits,
    keep_bits,
    magnitude,
    to_fp8,
    to_half,
)
from flashrl_registry.profiling.layout import NUM_FACTS, SEGMENT

_SIGNAL, _NOISE, _RESIDUAL, _AWAY, _SCALE, _ZERO_POINT, _X, _U, _Q = (SEGMENT * number for number in range(9))
"""Where in ``work`` what is kept, in floats; the first three are sums."""
_ONE, _ZERO = np.float32(1), np.float32(0)
_FP8_CLIP = np.float32(464)  # half a step above the largest number still rounds to it


@njit(inline="always")
def _join(work):
    """Join the lanes of the three sums: the first of each is the result."""
    width = SEGMENT // 2
    while width:
        for j in range(width):
            work[_SIGNAL + j] += work[_SIGNAL + j + width]
            work[_NOISE + j] += work[_NOISE + j + width]
            work[_RESIDUAL + j] += work[_RESIDUAL + j + width]
        width //= 2


@njit(inline="always")
def _join_doubles(lanes):
    width = SEGMENT // 2
    while width:
        for j in range(width):
            lanes[j] += lanes[j + width]
            lanes[SEGMENT + j] += lanes[SEGMENT + j + width]
        width //= 2


@njit(inline="always")
def _fill(work, place, grid, first, blocks, column_block, start, count):
    """One row's scales, or zero points, for a segment of columns."""
    if blocks == 1:
        value = grid[first]
        for j in range(count):
            work[place + j] = value
    else:
        for j in range(count):
            work[place + j] = grid[first + (start + j) // column_block]


@njit(inline="always")
def _smooth(work, half, wide, is_half, at, factor, inverse, inverse_at, count):
    """``x`` of a segment: the weight, whichever it is, times its factors."""
    if is_half:
        for j in range(count):
            work[_X + j] = from_bfloat16(half[at + j]) * factor * inverse[inverse_at + j]
    else:
        for j in range(count):
            work[_X + j] = wide[at + j] * factor * inverse[inverse_at + j]


@njit(inline="always")
def _write(out, at, work, equal, clipped, equal_low, away, peak):
    """A row's facts, in the order of ``layout.py``."""
    out[at] = equal
    out[at + 1] = clipped
    out[at + 2] = work[_RESIDUAL]
    out[at + 3] = work[_SIGNAL]
    out[at + 4] = work[_NOISE]
    out[at + 5] = equal_low
    out[at + 6] = np.float64(1) if peak >= INFINITY else np.float64(0)
    out[at + 7] = away
    out[at + 8] = from_bits(peak)


@njit(inline="always")
def _compare_segment(work, codes, at, count, smallest, largest, has_zero, low):
    """Compare one segment; sums go to ``work``.

    Returns:
        Equal codes, clipped ones, equal ones in lower arithmetic; and the bits of the largest distance and of the
        largest unrounded code, without its zero point.
    """
    equal, clipped, equal_low = np.int32(0), np.int32(0), np.int32(0)
    away, peak = np.uint32(0), np.uint32(0)
    for j in range(count):
        x, scale = work[_X + j], work[_SCALE + j]
        zero = work[_ZERO_POINT + j] if has_zero else _ZERO
        code = np.float32(np.int8(codes[at + j]))
        u = x / scale
        work[_SIGNAL + j] += x * x
        error = (u - (code - zero if has_zero else code)) * scale
        work[_NOISE + j] += error * error
        peak = max(peak, magnitude(u))
        if has_zero:
            u += zero
        inside = between(u, smallest, largest)
        residual = inside - code
        work[_RESIDUAL + j] += residual * residual
        rounded = np.rint(inside)
        clipped += np.int32(rounded != np.rint(u))
        equal += np.int32(rounded == code)
        away = max(away, magnitude(rounded - code))
        if low == 1:
            x = keep_bits(keep_bits(x, 16) / scale, 16)
            x = keep_bits(x + zero, 16) if has_zero else x
            equal_low += np.int32(np.rint(between(x, smallest, largest)) == code)
        elif low == 2:
            x = to_half(to_half(x) / scale)
            x = to_half(x + zero) if has_zero else x
            equal_low += np.int32(np.rint(between(x, smallest, largest)) == code)
    return equal, clipped, equal_low, away, peak


def compare_int8(
    half, wide, is_half, codes, num_rows, num_columns, first_row, scale, zero, has_zero, num_blocks, row_block,
    column_block, rows, inverse, part_rows, smallest, largest, low, work, out,
):  # fmt: skip
    """Requantize rows to int8 and compare with the checkpoint's codes.

    ``low`` is the arithmetic that is tried beside float32: 1 bfloat16, 2 float16, 0 none.
    """
    for row in range(num_rows):
        first, part = (first_row + row) // row_block * num_blocks, (first_row + row) // part_rows * num_columns
        for j in range(3 * SEGMENT):
            work[j] = _ZERO
        equal, clipped, equal_low, away, peak = 0, 0, 0, np.uint32(0), np.uint32(0)
        for start in range(0, num_columns, SEGMENT):
            count, at = min(SEGMENT, num_columns - start), row * num_columns + start
            if start == 0 or num_blocks > 1:
                filled = SEGMENT if num_blocks == 1 else count
                _fill(work, _SCALE, scale, first, num_blocks, column_block, start, filled)
                if has_zero:
                    _fill(work, _ZERO_POINT, zero, first, num_blocks, column_block, start, filled)
            _smooth(work, half, wide, is_half, at, rows[row], inverse, part + start, count)
            if low == 1 and not has_zero:
                found = _compare_segment(work, codes, at, count, smallest, largest, False, 1)
            else:
                found = _compare_segment(work, codes, at, count, smallest, largest, has_zero, low)
            equal, clipped, equal_low = equal + found[0], clipped + found[1], equal_low + found[2]
            away, peak = max(away, found[3]), max(peak, found[4])
        _join(work)
        _write(out, row * NUM_FACTS, work, equal, clipped, equal_low, from_bits(away), peak)


def compare_fp8(
    half, wide, is_half, codes, num_rows, num_columns, first_row, scale, num_blocks, row_block, column_block, rows,
    inverse, part_rows, values, low, work, out,
):  # fmt: skip
    """Requantize rows to float8_e4m3fn and compare; distances are counted in neighbouring numbers.

    ``values`` is the number of each byte.
    """
    for row in range(num_rows):
        first, part = (first_row + row) // row_block * num_blocks, (first_row + row) // part_rows * num_columns
        for j in range(4 * SEGMENT):
            work[j] = _ZERO
        equal, clipped, equal_low, peak = 0, 0, 0, np.uint32(0)
        for start in range(0, num_columns, SEGMENT):
            count, at = min(SEGMENT, num_columns - start), row * num_columns + start
            _fill(work, _SCALE, scale, first, num_blocks, column_block, start, count)
            _smooth(work, half, wide, is_half, at, rows[row], inverse, part + start, count)
            for j in range(count):
                work[_Q + j] = values[codes[at + j]]
            for j in range(count):
                x, scale_, q = work[_X + j], work[_SCALE + j], work[_Q + j]
                u = x / scale_
                work[_U + j] = u
                work[_SIGNAL + j] += x * x
                error = (u - q) * scale_
                work[_NOISE + j] += error * error
                peak = max(peak, magnitude(u))
                clipped += np.int64(abs(u) > _FP8_CLIP)
            for j in range(count):
                u, q = between(work[_U + j], -FP8_MAX, FP8_MAX), work[_Q + j]
                residual = (u - q) / fp8_step(u)
                work[_RESIDUAL + j] += residual * residual
                work[_U + j] = to_fp8(u)
            for j in range(count):
                code, q = work[_U + j], work[_Q + j]
                equal += np.int64(code == q)
                work[_AWAY + j] = max(work[_AWAY + j], abs(fp8_order(code) - fp8_order(q)))
            if low:
                for j in range(count):
                    x, scale_ = work[_X + j], work[_SCALE + j]
                    u = keep_bits(keep_bits(x, 16) / scale_, 16) if low == 1 else to_half(to_half(x) / scale_)
                    equal_low += np.int64(to_fp8(between(u, -FP8_MAX, FP8_MAX)) == work[_Q + j])
        _join(work)
        away = _ZERO
        for j in range(SEGMENT):
            away = max(away, work[_AWAY + j])
        _write(out, row * NUM_FACTS, work, equal, clipped, equal_low, away, peak)


@njit(inline="always")
def _fit_plain_rows(
    half, codes, num_rows, num_columns, first_row, scale, row_block, inverse, part_rows, lanes, above, below
):
    """What most checkpoints are: bfloat16 and symmetric int8 with one scale for a row, in one loop."""
    for row in range(num_rows):
        divisor, part = scale[(first_row + row) // row_block], (first_row + row) // part_rows * num_columns
        for j in range(2 * SEGMENT):
            lanes[j] = 0.0
        for start in range(0, num_columns, SEGMENT):
            count, at, inverse_at = min(SEGMENT, num_columns - start), row * num_columns + start, part + start
            for j in range(count):
                x = np.float64(from_bfloat16(half[at + j]) * inverse[inverse_at + j] / divisor)
                lanes[j] += np.float64(np.int8(codes[at + j])) * x
                lanes[SEGMENT + j] += x * x
        _join_doubles(lanes)
        above[row], below[row] = lanes[0], lanes[SEGMENT]


def fit_rows(
    half, wide, is_half, codes, num_rows, num_columns, first_row, scale, zero, has_zero, num_blocks, row_block,
    column_block, inverse, part_rows, values, is_fp8, work, lanes, above, below,
):  # fmt: skip
    """``sum(q * x)`` and ``sum(x * x)`` of each row for ``x = w * inv_columns / scale``, in float64.

    ``values`` is the number of each byte of fp8; what the zero point adds is taken off.
    """
    if is_half and num_blocks == 1 and not has_zero and not is_fp8:
        _fit_plain_rows(half, codes, num_rows, num_columns, first_row, scale, row_block, inverse, part_rows, lanes,
                        above, below)  # fmt: skip
        return
    for row in range(num_rows):
        first, part = (first_row + row) // row_block * num_blocks, (first_row + row) // part_rows * num_columns
        for j in range(2 * SEGMENT):
            lanes[j] = 0.0
        for start in range(0, num_columns, SEGMENT):
            count, at = min(SEGMENT, num_columns - start), row * num_columns + start
            if start == 0 or num_blocks > 1:
                filled = SEGMENT if num_blocks == 1 else count
                _fill(work, _SCALE, scale, first, num_blocks, column_block, start, filled)
                if has_zero:
                    _fill(work, _ZERO_POINT, zero, first, num_blocks, column_block, start, filled)
            _smooth(work, half, wide, is_half, at, _ONE, inverse, part + start, count)
            if is_fp8:
                for j in range(count):
                    work[_Q + j] = values[codes[at + j]]
            elif has_zero:
                for j in range(count):
                    work[_Q + j] = np.float32(np.int8(codes[at + j])) - work[_ZERO_POINT + j]
            else:
                for j in range(count):
                    work[_Q + j] = np.float32(np.int8(codes[at + j]))
            for j in range(count):
                x, q = np.float64(work[_X + j] / work[_SCALE + j]), np.float64(work[_Q + j])
                lanes[j] += q * x
                lanes[SEGMENT + j] += x * x
        _join_doubles(lanes)
        above[row], below[row] = lanes[0], lanes[SEGMENT]


def moments(x, y, inverse, inverse_step, num_rows, num_columns, lanes, above, below):
    """``sum(y * x')`` and ``sum(x' * x')`` of each sampled row for ``x' = x * inv_columns``, in float64.

    ``inverse_step`` is 0 where all rows have one factor.
    """
    for row in range(num_rows):
        for j in range(2 * SEGMENT):
            lanes[j] = 0.0
        for start in range(0, num_columns, SEGMENT):
            at, inverse_at = row * num_columns + start, row * inverse_step + start
            for j in range(min(SEGMENT, num_columns - start)):
                scaled = np.float64(x[at + j] * inverse[inverse_at + j])
                lanes[j] += scaled * np.float64(y[at + j])
                lanes[SEGMENT + j] += scaled * scaled
        _join_doubles(lanes)
        above[row], below[row] = lanes[0], lanes[SEGMENT]


def widen(half, wide, count):
    """bfloat16 to float32."""
    for i in range(count):
        wide[i] = from_bfloat16(half[i])


def mark_used(codes, num_rows, num_columns, used):
    """Or the bits of every code of a column into ``used``."""
    for row in range(num_rows):
        at = row * num_columns
        for j in range(num_columns):
            used[j] |= codes[at + j]


_H, _F, _D, _B = (types.CPointer(kind) for kind in (types.uint16, types.float32, types.float64, types.uint8))
_I, _N = types.int64, types.float32
_SIGNATURES = {
    compare_int8: (_H, _F, _I, _B, _I, _I, _I, _F, _F, _I, _I, _I, _I, _F, _F, _I, _N, _N, _I, _F, _D),
    compare_fp8: (_H, _F, _I, _B, _I, _I, _I, _F, _I, _I, _I, _F, _F, _I, _F, _I, _F, _D),
    fit_rows: (_H, _F, _I, _B, _I, _I, _I, _F, _F, _I, _I, _I, _I, _F, _I, _F, _I, _F, _D, _D, _D),
    moments: (_F, _F, _F, _I, _I, _I, _D, _D, _D),
    widen: (_H, _F, _I),
    mark_used: (_B, _I, _I, _B),
}


def compile_loops():
    """Compile all of them: by name, numba's C functions."""
    return {
        loop.__name__: cfunc(types.void(*arguments), error_model="numpy", nogil=True)(loop)
        for loop, arguments in _SIGNATURES.items()
    }
