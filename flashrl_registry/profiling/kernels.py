"""The inner loops, compiled: every byte of a checkpoint pair that is looked at goes through one of these.

They take float32 weights and the checkpoint's codes, a few rows at a time, and release the GIL. Sums are kept in
lanes, one per position of a segment, and joined by a tree in a fixed order: the compiler turns lanes into vector
instructions without being allowed to reorder anything, so a result depends neither on the machine's vector width
nor on how rows were divided among chunks and threads.

The factors are applied in the order of :func:`flashrl_registry.ops.smooth.smoothed`: ``w * rows * inv_columns``, then
``/ scale``; a test holds the two equal.

Two rules keep the loops in vector instructions (measured, 3x): no index arithmetic inside a subscript, since numba
would check its sign, and few arrays in one loop, since LLVM gives up on proving that many do not overlap.

Shape legend: R rows, I input columns, P blocks of rows, J blocks of columns, E parts (experts of a fused weight), S
positions of a segment, F facts.
"""

import numpy as np
from numba import njit

from flashrl_registry.profiling.layout import LARGEST, NUM_FACTS

SEGMENT = 256
"""Columns that are worked on at a time; a power of two."""
_ONE, _ZERO = np.float32(1), np.float32(0)
_FP8_MAX, _FP8_NORMAL, _FP8_SUBNORMALS = np.float32(448), np.float32(2.0**-6), np.float32(512)
_FP8_CLIP = np.float32(464)  # half a step above the largest number still rounds to it
_EIGHTH = np.float32(0.125)
_SIGN, _MAGNITUDE, _EXPONENT = np.uint32(0x80000000), np.uint32(0x7FFFFFFF), np.uint32(0x7F800000)
_HALF_NORMAL, _HALF_STEPS = np.float32(2.0**-14), np.float32(2.0**24)


@njit(nogil=True, cache=True)
def widen(bfloat16, bits):
    """bfloat16 to the bits of float32."""
    for i in range(bfloat16.size):
        bits[i] = np.uint32(bfloat16[i]) << np.uint32(16)


@njit(nogil=True, cache=True)
def mark_used(codes_RI, used_I):
    """Or the bits of every code of a column into ``used``; codes and result are uint8."""
    for row in range(codes_RI.shape[0]):
        codes_I = codes_RI[row]
        for j in range(codes_I.size):
            used_I[j] |= codes_I[j]


@njit(inline="always")
def _keep_bits(x, dropped):
    """Round to nearest even, leaving out that many low bits of the mantissa."""
    bits = np.float32(x).view(np.uint32)
    half = np.uint32((np.uint32(1) << np.uint32(dropped - 1)) - np.uint32(1))
    odd = np.uint32(np.uint32(bits >> np.uint32(dropped)) & np.uint32(1))
    bits = np.uint32(np.uint32(bits + half) + odd)
    return np.uint32(np.uint32(bits >> np.uint32(dropped)) << np.uint32(dropped)).view(np.float32)


@njit(inline="always")
def _half(x):
    """Round to float16, subnormal ones included; no value here is too large for it."""
    return np.rint(x * _HALF_STEPS) / _HALF_STEPS if abs(x) < _HALF_NORMAL else _keep_bits(x, 13)


@njit(inline="always")
def _fp8(x):
    """Round to float8_e4m3fn; the value, which is at most 448."""
    return np.rint(x * _FP8_SUBNORMALS) / _FP8_SUBNORMALS if abs(x) < _FP8_NORMAL else _keep_bits(x, 20)


@njit(inline="always")
def _fp8_order(value):
    """Number of an e4m3fn value in ascending order, 0 for 0: neighbours differ by one."""
    bits = np.float32(value).view(np.uint32)
    magnitude = np.uint32(bits & _MAGNITUDE)
    size = np.uint32(magnitude).view(np.float32)
    normal = np.float32(np.int32(magnitude >> np.uint32(20)) - np.int32(960))
    order = size * _FP8_SUBNORMALS if size < _FP8_NORMAL else normal
    return -order if np.uint32(bits & _SIGN) else order


@njit(inline="always")
def _fp8_step(value):
    """Distance of neighbouring e4m3fn numbers where a value lies."""
    power = np.uint32(np.uint32(np.float32(value).view(np.uint32) & _EXPONENT)).view(np.float32)
    return max(power, _FP8_NORMAL) * _EIGHTH


@njit(inline="always")
def _total(lanes_S):
    """Join lanes, and clear them."""
    width = SEGMENT // 2
    while width:
        for j in range(width):
            lanes_S[j] += lanes_S[j + width]
        width //= 2
    result = lanes_S[0]
    lanes_S[:] = _ZERO
    return result


@njit(inline="always")
def _maximum(lanes_S):
    """Join lanes by their maximum, and clear them."""
    width = SEGMENT // 2
    while width:
        for j in range(width):
            lanes_S[j] = max(lanes_S[j], lanes_S[j + width])
        width //= 2
    result = lanes_S[0]
    lanes_S[:] = _ZERO
    return result


@njit(inline="always")
def _fill(segment_S, grid_J, start, count, column_block):
    """One row's scales for a segment of columns."""
    if grid_J.size == 1:
        value = grid_J[0]
        for j in range(count):
            segment_S[j] = value
    else:
        for j in range(count):
            segment_S[j] = grid_J[(start + j) // column_block]


@njit(inline="always")
def _smooth(x_S, weight_S, inv_columns_S, factor, count):
    for j in range(count):
        x_S[j] = weight_S[j] * factor * inv_columns_S[j]


@njit(inline="always")
def _tally(x_S, u_S, q_S, scale_S, count, sums):
    """What does not depend on the kind of code; ``u`` has no zero point."""
    signal, noise, infinite, peak = sums
    for j in range(count):
        signal[j] += x_S[j] * x_S[j]
    for j in range(count):
        error = (u_S[j] - q_S[j]) * scale_S[j]
        noise[j] += error * error
    for j in range(count):
        # Only what is not finite differs from itself here.
        infinite[j] += _ZERO if u_S[j] - u_S[j] == _ZERO else _ONE
    for j in range(count):
        peak[j] = max(peak[j], abs(u_S[j]))


@njit(inline="always")
def _lower(x_S, scale_S, zero_S, out_S, low, count):
    """The unrounded code in the checkpoint's own arithmetic: every step is rounded to its dtype."""
    if low == 1:
        for j in range(count):
            out_S[j] = _keep_bits(_keep_bits(x_S[j], 16) / scale_S[j], 16)
        for j in range(count):
            out_S[j] = _keep_bits(out_S[j] + zero_S[j], 16)
    else:
        for j in range(count):
            out_S[j] = _half(_half(_half(x_S[j]) / scale_S[j]) + zero_S[j])


@njit(inline="always")
def _count_equal(left_S, right_S, equal_S, count):
    for j in range(count):
        equal_S[j] += _ONE if left_S[j] == right_S[j] else _ZERO


@njit(nogil=True, cache=True, error_model="numpy")
def compare_int8(
    weight_RI, codes_RI, first_row, scale_PJ, zero_PJ, row_block, column_block, rows_R, inv_columns_EI, part_rows,
    smallest, largest, low, out_RF,
):  # fmt: skip
    """Requantize rows to int8 and compare with the checkpoint's codes.

    ``low`` is the arithmetic that is tried beside float32: 1 bfloat16, 2 float16, 0 none. ``codes`` are uint8 bytes.
    """
    lanes = np.zeros((NUM_FACTS, SEGMENT), np.float32)
    equal, clipped, residuals, signal, noise = lanes[0], lanes[1], lanes[2], lanes[3], lanes[4]
    equal_low, infinite, away, peak = lanes[5], lanes[6], lanes[7], lanes[8]
    work = np.zeros((6, SEGMENT), np.float32)
    x, u, q, scale, zero, code = work[0], work[1], work[2], work[3], work[4], work[5]
    for row in range(weight_RI.shape[0]):
        block, part = (first_row + row) // row_block, (first_row + row) // part_rows
        for start in range(0, weight_RI.shape[1], SEGMENT):
            stop = min(start + SEGMENT, weight_RI.shape[1])
            count = stop - start
            _fill(scale, scale_PJ[block], start, count, column_block)
            if zero_PJ.size:
                _fill(zero, zero_PJ[block], start, count, column_block)
            _smooth(x, weight_RI[row, start:stop], inv_columns_EI[part, start:stop], rows_R[row], count)
            for j in range(count):
                u[j] = x[j] / scale[j]
            codes = codes_RI[row, start:stop]
            for j in range(count):
                q[j] = np.float32(np.int8(codes[j])) - zero[j]
            _tally(x, u, q, scale, count, (signal, noise, infinite, peak))
            for j in range(count):
                u[j] = u[j] + zero[j]
            for j in range(count):
                q[j] = np.float32(np.int8(codes[j]))
            for j in range(count):
                residual = min(max(u[j], smallest), largest) - q[j]
                residuals[j] += residual * residual
            for j in range(count):
                code[j] = np.rint(u[j])
            for j in range(count):
                clipped[j] += _ONE if code[j] < smallest or code[j] > largest else _ZERO
            for j in range(count):
                code[j] = min(max(code[j], smallest), largest)
            _count_equal(code, q, equal, count)
            for j in range(count):
                away[j] = max(away[j], abs(code[j] - q[j]))
            if low:
                _lower(x, scale, zero, code, low, count)
                for j in range(count):
                    code[j] = min(max(np.rint(code[j]), smallest), largest)
                _count_equal(code, q, equal_low, count)
        for fact in range(LARGEST):
            out_RF[row, fact] = _total(lanes[fact])
        for fact in range(LARGEST, NUM_FACTS):
            out_RF[row, fact] = _maximum(lanes[fact])


@njit(nogil=True, cache=True, error_model="numpy")
def compare_fp8(
    weight_RI, codes_RI, first_row, scale_PJ, row_block, column_block, rows_R, inv_columns_EI, part_rows, values,
    low, out_RF,
):  # fmt: skip
    """Requantize rows to float8_e4m3fn and compare; distances are counted in neighbouring numbers.

    ``values`` is the number of each byte.
    """
    lanes = np.zeros((NUM_FACTS, SEGMENT), np.float32)
    equal, clipped, residuals, signal, noise = lanes[0], lanes[1], lanes[2], lanes[3], lanes[4]
    equal_low, infinite, away, peak = lanes[5], lanes[6], lanes[7], lanes[8]
    work = np.zeros((6, SEGMENT), np.float32)
    x, u, q, scale, zero, code = work[0], work[1], work[2], work[3], work[4], work[5]
    for row in range(weight_RI.shape[0]):
        block, part = (first_row + row) // row_block, (first_row + row) // part_rows
        for start in range(0, weight_RI.shape[1], SEGMENT):
            stop = min(start + SEGMENT, weight_RI.shape[1])
            count = stop - start
            _fill(scale, scale_PJ[block], start, count, column_block)
            _smooth(x, weight_RI[row, start:stop], inv_columns_EI[part, start:stop], rows_R[row], count)
            for j in range(count):
                u[j] = x[j] / scale[j]
            codes = codes_RI[row, start:stop]
            for j in range(count):
                q[j] = values[codes[j]]
            _tally(x, u, q, scale, count, (signal, noise, infinite, peak))
            for j in range(count):
                clipped[j] += _ONE if abs(u[j]) > _FP8_CLIP else _ZERO
            for j in range(count):
                u[j] = min(max(u[j], -_FP8_MAX), _FP8_MAX)
            for j in range(count):
                residual = (u[j] - q[j]) / _fp8_step(u[j])
                residuals[j] += residual * residual
            for j in range(count):
                code[j] = _fp8(u[j])
            _count_equal(code, q, equal, count)
            for j in range(count):
                away[j] = max(away[j], abs(_fp8_order(code[j]) - _fp8_order(q[j])))
            if low:
                _lower(x, scale, zero, code, low, count)
                for j in range(count):
                    code[j] = _fp8(min(max(code[j], -_FP8_MAX), _FP8_MAX))
                _count_equal(code, q, equal_low, count)
        for fact in range(LARGEST):
            out_RF[row, fact] = _total(lanes[fact])
        for fact in range(LARGEST, NUM_FACTS):
            out_RF[row, fact] = _maximum(lanes[fact])


@njit(nogil=True, cache=True, error_model="numpy")
def fit_rows(
    weight_RI, codes_RI, first_row, scale_PJ, zero_PJ, row_block, column_block, inv_columns_EI, part_rows, values,
    above_R, below_R,
):  # fmt: skip
    """``sum(q * x)`` and ``sum(x * x)`` of each row for ``x = w * inv_columns / scale``, in float64.

    ``values`` is the number of each byte, or empty for int8; what the zero point adds is taken off.
    """
    upper, lower = np.zeros(SEGMENT), np.zeros(SEGMENT)
    work = np.zeros((4, SEGMENT), np.float32)
    x, q, scale, zero = work[0], work[1], work[2], work[3]
    for row in range(weight_RI.shape[0]):
        block, part = (first_row + row) // row_block, (first_row + row) // part_rows
        upper[:] = 0.0
        lower[:] = 0.0
        for start in range(0, weight_RI.shape[1], SEGMENT):
            stop = min(start + SEGMENT, weight_RI.shape[1])
            count = stop - start
            _fill(scale, scale_PJ[block], start, count, column_block)
            if zero_PJ.size:
                _fill(zero, zero_PJ[block], start, count, column_block)
            _smooth(x, weight_RI[row, start:stop], inv_columns_EI[part, start:stop], _ONE, count)
            for j in range(count):
                x[j] = x[j] / scale[j]
            codes = codes_RI[row, start:stop]
            if values.size:
                for j in range(count):
                    q[j] = values[codes[j]]
            else:
                for j in range(count):
                    q[j] = np.float32(np.int8(codes[j])) - zero[j]
            for j in range(count):
                upper[j] += np.float64(q[j]) * np.float64(x[j])
            for j in range(count):
                lower[j] += np.float64(x[j]) * np.float64(x[j])
        width = SEGMENT // 2
        while width:
            for j in range(width):
                upper[j] += upper[j + width]
                lower[j] += lower[j + width]
            width //= 2
        above_R[row], below_R[row] = upper[0], lower[0]


@njit(nogil=True, cache=True, error_model="numpy")
def moments(x_RI, y_RI, inv_columns_RI, above_R, below_R):
    """``sum(y * x')`` and ``sum(x' * x')`` of each sampled row for ``x' = x * inv_columns``, in float64.

    ``inv_columns`` has one row for all, or one for each.
    """
    upper, lower = np.zeros(SEGMENT), np.zeros(SEGMENT)
    scaled = np.zeros(SEGMENT, np.float32)
    for row in range(x_RI.shape[0]):
        source = row if inv_columns_RI.shape[0] > 1 else 0
        upper[:] = 0.0
        lower[:] = 0.0
        for start in range(0, x_RI.shape[1], SEGMENT):
            stop = min(start + SEGMENT, x_RI.shape[1])
            count = stop - start
            _smooth(scaled, x_RI[row, start:stop], inv_columns_RI[source, start:stop], _ONE, count)
            y = y_RI[row, start:stop]
            for j in range(count):
                upper[j] += np.float64(scaled[j]) * np.float64(y[j])
            for j in range(count):
                lower[j] += np.float64(scaled[j]) * np.float64(scaled[j])
        above_R[row], below_R[row] = upper.sum(), lower.sum()
