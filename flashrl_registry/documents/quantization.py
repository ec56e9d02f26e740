"""Quantization vocabulary, in compressed-tensors' words, and the schemes that rules name."""

from typing import Annotated, Literal

from pydantic import Field

from flashrl_registry.documents._base import Frozen

SchemeName = Literal["bf16", "int8"]
"""``bf16``: the tensor stays as the trainer sends it. ``int8``: W8A8, per-channel symmetric weights, per-token
dynamic activations, with the profile's smoothing where there is a profile."""

Strategy = Literal["tensor", "channel", "group", "block", "token"]
"""Over which elements one scale is shared."""


class QuantArgs(Frozen):
    """How one kind of tensor is quantized; the words are those of compressed-tensors 0.17."""

    num_bits: Annotated[int, Field(ge=2, le=16)]
    """Width of a code in bits."""
    type: Literal["int", "float"]
    """Integer or floating-point codes."""
    symmetric: bool
    """No zero point."""
    strategy: Strategy
    """Over which elements one scale is shared."""
    dynamic: bool
    """Scales are computed at run time."""


INT8_WEIGHTS = QuantArgs(num_bits=8, type="int", symmetric=True, strategy="channel", dynamic=False)
INT8_ACTIVATIONS = QuantArgs(num_bits=8, type="int", symmetric=True, strategy="token", dynamic=True)
