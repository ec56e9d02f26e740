"""Maths of every operation on plain tensors: the single source of the project's numerics.

Plain torch is the reference. On a GPU the quantize operations are kernels that equal it to the bit.
"""

from flashrl_registry.ops.blocks import row_blocks
from flashrl_registry.ops.dispatch import (
    kernels_run,
    quantize_fp8,
    quantize_fp8_block,
    quantize_fp8_channel,
    quantize_fp8_tensor,
    quantize_int8,
)
from flashrl_registry.ops.finite import all_finite
from flashrl_registry.ops.quantize import codes_int8, row_absmax_scale
from flashrl_registry.ops.smooth import rescale_rows, smoothed

__all__ = [
    "all_finite",
    "codes_int8",
    "kernels_run",
    "quantize_fp8",
    "quantize_fp8_block",
    "quantize_fp8_channel",
    "quantize_fp8_tensor",
    "quantize_int8",
    "rescale_rows",
    "row_absmax_scale",
    "row_blocks",
    "smoothed",
]
