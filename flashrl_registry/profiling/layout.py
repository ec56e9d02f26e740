"""What the inner loops of ``plain.py`` and ``compiled.py`` share, and which of them a pair is worked on with."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from flashrl_registry.errors import MissingDependencyError

F32: TypeAlias = NDArray[np.float32]
F64: TypeAlias = NDArray[np.float64]
Bytes: TypeAlias = NDArray[np.uint8]
Weight: TypeAlias = NDArray[np.uint16] | NDArray[np.float32]
"""Rows of a weight: the bits of bfloat16, or float32."""
Mask: TypeAlias = NDArray[np.bool_]

EQUAL, CLIPPED, RESIDUAL, SIGNAL, NOISE, EQUAL_LOW, NOT_FINITE, LARGEST, PEAK = range(9)
"""Columns of what ``compare_int8`` and ``compare_fp8`` write for each row; the last two are maxima."""
NUM_FACTS = 9
SEGMENT = 256
"""Columns that the compiled loops work on at a time; a power of two."""

COMPILED_FROM = 1 << 27
"""Codes of a checkpoint from which on compiled loops are worth the memory that they take."""


def loops(*, compiled: bool) -> Any:
    """The module with the inner loops.

    The other module is never taken in place of the compiled one: sums differ in their last bits, and a pair has one
    profile, wherever it is made.

    Raises:
        MissingDependencyError: Compiled loops are asked for, and what makes or loads them is missing or does not load.
    """
    if not compiled:
        from flashrl_registry.profiling import plain

        return plain
    try:
        from flashrl_registry.profiling import compiled as module
    except (ImportError, OSError) as exc:  # llvmlite raises OSError for a library that does not load
        package = (getattr(exc, "name", None) or "llvmlite").partition(".")[0]
        if package not in {"llvmlite", "numba"}:
            raise
        what = "is not installed" if isinstance(exc, ModuleNotFoundError) else f"does not load: {exc}"
        raise MissingDependencyError(
            f"profiling this pair needs {package}, which {what}",
            hint='pip install "flashrl-registry[torch]"',
            context={"package": package, "extra": "torch"},
        ) from exc
    return module
