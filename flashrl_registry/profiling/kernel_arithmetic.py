"""Rounding to numbers of fewer bits, for what numba compiles; see ``kernels.py``. Everything is float32."""

import numpy as np
from numba import njit

FP8_MAX, INFINITY = np.float32(448), np.uint32(0x7F800000)
_FP8_NORMAL, _FP8_SUBNORMALS, _EIGHTH = np.float32(2.0**-6), np.float32(512), np.float32(0.125)
_SIGN, _MAGNITUDE = np.uint32(0x80000000), np.uint32(0x7FFFFFFF)
_HALF_NORMAL, _HALF_STEPS = np.float32(2.0**-14), np.float32(2.0**24)


@njit(inline="always")
def from_bfloat16(half):
    """bfloat16 bits to float32."""
    return np.uint32(np.uint32(half) << np.uint32(16)).view(np.float32)


@njit(inline="always")
def magnitude(x):
    """Bits of the absolute value: in the order of the numbers, what is not finite above all of them."""
    return np.uint32(np.float32(x).view(np.uint32) & _MAGNITUDE)


@njit(inline="always")
def from_bits(bits):
    """The number that bits stand for."""
    return np.uint32(bits).view(np.float32)


@njit(inline="always")
def between(x, smallest, largest):
    """The nearest number within a range; the smallest one for what is none."""
    x = x if x > smallest else smallest
    return x if x < largest else largest


@njit(inline="always")
def keep_bits(x, dropped):
    """Round to nearest even, leaving out that many low bits of the mantissa."""
    bits = np.float32(x).view(np.uint32)
    half = np.uint32((np.uint32(1) << np.uint32(dropped - 1)) - np.uint32(1))
    odd = np.uint32(np.uint32(bits >> np.uint32(dropped)) & np.uint32(1))
    bits = np.uint32(np.uint32(bits + half) + odd)
    return np.uint32(np.uint32(bits >> np.uint32(dropped)) << np.uint32(dropped)).view(np.float32)


@njit(inline="always")
def to_half(x):
    """Round to float16, subnormal ones included; no value here is too large for it."""
    return np.rint(x * _HALF_STEPS) / _HALF_STEPS if abs(x) < _HALF_NORMAL else keep_bits(x, 13)


@njit(inline="always")
def to_fp8(x):
    """Round to float8_e4m3fn; the value, which is at most 448."""
    return np.rint(x * _FP8_SUBNORMALS) / _FP8_SUBNORMALS if abs(x) < _FP8_NORMAL else keep_bits(x, 20)


@njit(inline="always")
def fp8_order(value):
    """Number of an e4m3fn value in ascending order, 0 for 0: neighbours differ by one."""
    bits = np.float32(value).view(np.uint32)
    magnitude = np.uint32(bits & _MAGNITUDE)
    size = np.uint32(magnitude).view(np.float32)
    normal = np.float32(np.int32(magnitude >> np.uint32(20)) - np.int32(960))
    order = size * _FP8_SUBNORMALS if size < _FP8_NORMAL else normal
    return -order if np.uint32(bits & _SIGN) else order


@njit(inline="always")
def fp8_step(value):
    """Distance of neighbouring e4m3fn numbers where a value lies."""
    power = np.uint32(np.uint32(np.float32(value).view(np.uint32) & INFINITY)).view(np.float32)
    return max(power, _FP8_NORMAL) * _EIGHTH
