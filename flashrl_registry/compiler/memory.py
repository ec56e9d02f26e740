"""Predicted bytes of weights, from shapes alone."""

import math
from collections.abc import Sequence

from flashrl_registry.documents import Plan
from flashrl_registry.documents.plan import Treatment
from flashrl_registry.documents.tensors import ELEMENT_BYTES

_SCALE_BYTES = 4  # one float32 per output row


def tensor_bytes(shape: Sequence[int], dtype: str, treatment: Treatment = "keep") -> int:
    """Bytes of one tensor in the engine.

    Args:
        shape: Sizes per dimension.
        dtype: Element type in the checkpoint, which kept and rescaled tensors have in the engine too.
        treatment: ``int8`` takes one byte per weight and a float32 scale per output row.
    """
    if treatment == "int8":
        return math.prod(shape) + _SCALE_BYTES * shape[0]
    return math.prod(shape) * ELEMENT_BYTES[dtype]


def weight_bytes(plan: Plan) -> int:
    """Bytes of all weights under a plan; without KV cache, activations and the engine's own padding."""
    return sum(
        family.num_members * tensor_bytes(family.shape, family.dtype, family.treatment) for family in plan.tensors
    )


def checkpoint_bytes(plan: Plan) -> int:
    """Bytes of all weights as the checkpoint holds them."""
    return sum(family.num_members * tensor_bytes(family.shape, family.dtype) for family in plan.tensors)
