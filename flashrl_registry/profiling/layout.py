"""What the inner loops of ``plain.py`` and ``kernels.py`` share, and which of them a pair is worked on with."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

F32: TypeAlias = NDArray[np.float32]
F64: TypeAlias = NDArray[np.float64]
Bytes: TypeAlias = NDArray[np.uint8]
Mask: TypeAlias = NDArray[np.bool_]

EQUAL, CLIPPED, RESIDUAL, SIGNAL, NOISE, EQUAL_LOW, NOT_FINITE, LARGEST, PEAK = range(9)
"""Columns of what ``compare_int8`` and ``compare_fp8`` write for each row; the last two are maxima."""
NUM_FACTS = 9

COMPILED_FROM = 1 << 29
"""Codes of a checkpoint from which on compiled loops save more time than they take to load."""


def loops(*, compiled: bool) -> Any:
    """The module with the inner loops."""
    if compiled:
        from flashrl_registry.profiling import kernels

        return kernels
    from flashrl_registry.profiling import plain

    return plain
