"""Predicted bytes of weights, from shapes alone."""

import math
from collections.abc import Sequence

from flashrl_registry.documents import Plan
from flashrl_registry.documents.plan import Treatment
from flashrl_registry.documents.quantization import FP8_BLOCK
from flashrl_registry.documents.tensors import ELEMENT_BYTES

_SCALE_BYTES = 4  # float32


def tensor_bytes(shape: Sequence[int], dtype: str, treatment: Treatment = "keep") -> int:
    """Bytes of one tensor in the engine.

    Args:
        shape: Sizes per dimension.
        dtype: Element type in the checkpoint, which kept and rescaled tensors have in the engine too.
        treatment: 8-bit ones take one byte per weight, and a float32 scale per output row, block or tensor.
    """
    if treatment in {"keep", "rescale"}:
        return math.prod(shape) * ELEMENT_BYTES[dtype]
    if treatment in {"int8", "fp8_channel"}:
        scales = shape[0]
    elif treatment == "fp8_block":
        scales = math.prod(-(-size // FP8_BLOCK) for size in shape)
    else:
        scales = 1
    return math.prod(shape) + _SCALE_BYTES * scales


def weight_bytes(plan: Plan) -> int:
    """Bytes of all weights under a plan; without KV cache, activations and the engine's own padding."""
    return sum(
        family.num_members * tensor_bytes(family.shape, family.dtype, family.treatment) for family in plan.tensors
    )


def checkpoint_bytes(plan: Plan) -> int:
    """Bytes of all weights as the checkpoint holds them."""
    return sum(family.num_members * tensor_bytes(family.shape, family.dtype) for family in plan.tensors)
