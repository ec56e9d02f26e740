"""Tensors that were not quantized: equal in both checkpoints, or vectors that a factor went into."""

import ctypes
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from flashrl_registry.profiling.facts import factor_fault, norm_factor, num_unusable
from flashrl_registry.profiling.faults import Fault
from flashrl_registry.profiling.layout import F32, Bytes, Mask
from flashrl_registry.profiling.linear import Pair
from flashrl_registry.profiling.reader import num_rows
from flashrl_registry.profiling.sample import ROWS_SAMPLED

_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_COMPARED_BYTES = 1 << 19
_REMOTE_BYTES = 8 << 20
"""Tensors of at most this size are compared whole where bytes come over the network."""
_BITS: dict[str, tuple[type[np.signedinteger], type[np.unsignedinteger], int, int]] = {
    "bfloat16": (np.int16, np.uint16, 0x7F80, 0xFF80),
    "float16": (np.int16, np.uint16, 0x7C00, 0xFC00),
    "float32": (np.int32, np.uint32, 0x7F800000, 0xFF800000),
}
"""Integers of a float's width, and the bits of infinity and of minus infinity: what is above either is NaN."""

_MANTISSA_BITS = {"bfloat16": 7, "float16": 10, "float32": 23}
_BIAS_OFF = 0.07
"""How far a bias may be from the factor of its rows, which is fitted to their codes: a row with one weight is off by
half a step of fp8, 0.0625."""


@dataclass(frozen=True)
class ChangedVector:
    """A vector that differs between the checkpoints.

    Attributes:
        reference: In float32.
        quantized: In float32.
        factors: By offset, 0 for ``w`` and 1 for ``1 + w``: the factor and the channels that are dead; only those
            that can be divided out again.
        fault: What is wrong with the quotient, of ``w`` or ``1 + w``, in which less is; None where one is good.
    """

    reference: F32
    quantized: F32
    factors: dict[int, tuple[F32, Mask]]
    fault: str | None

    def follows(self, factor: F32, dead: Mask) -> bool:
        """Whether a bias has the factor of its rows; a row of zeros has a bias all the same, and says of no factor."""
        if factor.size != self.reference.size:
            return False
        wanted = self.reference * factor
        return bool(((np.abs(self.quantized - wanted) <= _BIAS_OFF * np.abs(wanted) + 1e-6) | dead).all())

    def error(self, offset: int, dtype: str) -> F32:
        """Standard error of the factor that the rounding of the quantized vector made.

        Where ``w`` is near minus one, the last bit of it is much of ``1 + w``.

        Args:
            offset: 1 for a norm of ``1 + w``, 0 for others.
            dtype: What the quantized vector is stored in, such as ``bfloat16``.

        Returns:
            As a share of the factor, float32, of the vector's shape.
        """
        bits = _MANTISSA_BITS[dtype]
        size = np.maximum(np.abs(self.quantized), np.finfo(np.float32).tiny)
        step = np.exp2(np.floor(np.log2(size)) - bits)
        with np.errstate(all="ignore"):
            error = step / np.abs(offset + self.quantized) + 2.0**-bits
        return np.where(np.isfinite(error), error * 12**-0.5, 0).astype(np.float32)


def compare_unquantized(
    pair: Pair, names: Sequence[str], tick: Callable[[str], None]
) -> tuple[dict[str, ChangedVector], list[Fault]]:
    """Compare what is a float in both checkpoints.

    Returns:
        The vectors that differ, and a fault for everything else that does, and for what is not a number in both.
    """
    changed: dict[str, ChangedVector] = {}
    faults = []
    for name in names:
        found = _compared(pair, name)
        if found == "not finite":
            faults.append(Fault(name, "holds values that are not finite: NaN or infinity"))
        elif found == "differs":
            if len(pair.reference.index.specs[name].shape) == 1:
                changed[name] = changed_vector(pair, name)
            else:
                reason = "differs between the checkpoints, and only quantized linears can take a factor up"
                faults.append(Fault(name, reason))
        tick(name)
    return changed, faults


def changed_vector(pair: Pair, name: str) -> ChangedVector:
    """Read a vector of both checkpoints, and the factors that may lie between the two."""
    reference = pair.reference.array(name).astype(np.float32)
    quantized = pair.quantized.array(name).astype(np.float32)
    factors = {offset: norm_factor(reference, quantized, offset) for offset in (0, 1)}
    faults = {offset: factor_fault(found[0]) for offset, found in factors.items()}
    usable = {offset: found for offset, found in factors.items() if faults[offset] is None}
    if usable:
        return ChangedVector(reference, quantized, usable, None)
    plain, shifted = (num_unusable(factors[offset][0]) for offset in (0, 1))
    reason = f"{faults[1]} as a norm of 1 + w" if shifted < plain else faults[0]
    return ChangedVector(reference, quantized, usable, reason)


def _compared(pair: Pair, name: str) -> Literal["same", "differs", "not finite"]:
    """Compare a tensor; one that is equal in both, bit for bit, may still be no numbers."""
    ours, theirs = pair.reference.index, pair.quantized.index
    size, dtype = ours.locations[name].num_bytes, ours.specs[name].dtype
    sampled = (pair.reference.is_remote or pair.quantized.is_remote) and size > _REMOTE_BYTES
    if dtype != theirs.specs[name].dtype or sampled:
        return _compared_rows(pair, name, sampled=sampled)
    for start in range(0, size, _COMPARED_BYTES):
        length = min(_COMPARED_BYTES, size - start)
        left = pair.reference.range(name, start, length, purpose="left")
        right = pair.quantized.range(name, start, length, purpose="right")
        if _memcmp(left.ctypes.data, right.ctypes.data, length):
            return "differs"
        if not _all_finite(left, dtype):
            return "not finite"
    return "same"


def _all_finite(data: Bytes, dtype: str) -> bool:
    """Whether no float has all bits of its exponent: the largest positive and the largest negative bits tell."""
    signed, unsigned, positive, negative = _BITS[dtype]
    largest = np.maximum.reduce
    return bool(largest(data.view(signed)) < positive and largest(data.view(unsigned)) < negative)


def _compared_rows(pair: Pair, name: str, *, sampled: bool) -> Literal["same", "differs", "not finite"]:
    """Compare values: one checkpoint's are the other's, rounded to its dtype."""
    dtype = pair.quantized.index.specs[name].dtype
    for left, right in _both_rows(pair, name, sampled=sampled):
        same = is_cast(left, right, dtype)
        if not np.isfinite(right).all() and (same or not np.isfinite(left).all()):
            return "not finite"
        if not same:
            return "differs"
    return "same"


def _both_rows(pair: Pair, name: str, *, sampled: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    shape = pair.reference.index.specs[name].shape
    if len(shape) < 2:
        yield pair.reference.array(name), pair.quantized.array(name)
        return
    rows = num_rows(shape)
    step = max(1, _COMPARED_BYTES // (4 * max(1, shape[-1])))
    for start in range(0, rows, max(1, rows // 4) if sampled else step):
        stop = min(rows, start + (ROWS_SAMPLED // 4 if sampled else step))
        yield (
            pair.reference.floats(name, start, stop, purpose="left"),
            pair.quantized.floats(name, start, stop, purpose="right"),
        )


def is_cast(reference: np.ndarray, quantized: np.ndarray, dtype: str) -> bool:
    """Whether one array is the other, rounded to a dtype."""
    if dtype == "float16":
        with np.errstate(over="ignore"):
            reference = reference.astype(np.float16)
    elif dtype == "bfloat16":
        bits = np.ascontiguousarray(reference, np.float32).view(np.uint32)
        odd = (bits >> 16) & 1
        reference = ((bits + 0x7FFF + odd) & np.uint32(0xFFFF0000)).view(np.float32)
    return bool(np.array_equal(reference.astype(np.float32), quantized.astype(np.float32)))
