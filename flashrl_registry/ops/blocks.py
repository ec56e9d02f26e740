"""Rows in blocks that stay in a processor's cache; a GPU takes them all at once.

Arithmetic on rows gives the same bits in blocks. On CPU a float32 copy of a whole weight costs more in page faults
than all arithmetic on it.
"""

from collections.abc import Iterator

from torch import Tensor

ELEMENTS = 1 << 20
"""Four megabytes of float32: larger ones fault pages, smaller ones pay for more calls (measured, 4096 x 4096)."""


def row_blocks(tensor: Tensor) -> Iterator[slice]:
    """Slices that cover the first dimension.

    Args:
        tensor: One or more dimensions.
    """
    rows = tensor.shape[0]
    step = rows if tensor.device.type != "cpu" else max(1, ELEMENTS * rows // max(1, tensor.numel()))
    for start in range(0, rows, max(1, step)):
        yield slice(start, min(rows, start + step))
