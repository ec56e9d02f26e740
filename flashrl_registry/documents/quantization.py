"""Quantization vocabulary, in compressed-tensors' words, and what the schemes mean in it."""

from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from flashrl_registry.documents._base import Frozen
from flashrl_registry.documents.schemes import SchemeName

Strategy = Literal["tensor", "channel", "group", "block", "token"]
"""Over which elements one scale is shared."""

FP8_BLOCK = 128
"""Rows and columns of a block of ``fp8_block``; vLLM's kernels know no other."""


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
    group_size: Annotated[int, Field(ge=1)] | None = None
    """Columns that share a scale; only with strategy ``group``."""
    block_structure: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2)] | None = None
    """Rows and columns that share a scale; only with strategy ``block``."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """Each size belongs to one strategy."""
        if (self.group_size is not None) != (self.strategy == "group"):
            raise ValueError("group_size belongs to strategy 'group', and to no other")
        if (self.block_structure is not None) != (self.strategy == "block"):
            raise ValueError("block_structure belongs to strategy 'block', and to no other")
        return self


@dataclass(frozen=True)
class SchemeArgs:
    """What a scheme does to a linear's weight and to its input.

    Attributes:
        weights: The weight.
        input_activations: The input.
    """

    weights: QuantArgs
    input_activations: QuantArgs


INT8_WEIGHTS = QuantArgs(num_bits=8, type="int", symmetric=True, strategy="channel", dynamic=False)
INT8_ACTIVATIONS = QuantArgs(num_bits=8, type="int", symmetric=True, strategy="token", dynamic=True)


def _fp8(strategy: Strategy, *, dynamic: bool, group: int | None = None, block: int | None = None) -> QuantArgs:
    structure = None if block is None else [block, block]
    return QuantArgs(
        num_bits=8, type="float", symmetric=True, strategy=strategy, dynamic=dynamic, group_size=group,
        block_structure=structure,
    )  # fmt: skip


SCHEME_ARGS: dict[SchemeName, SchemeArgs] = {
    "int8": SchemeArgs(INT8_WEIGHTS, INT8_ACTIVATIONS),
    "fp8_tensor": SchemeArgs(_fp8("tensor", dynamic=False), _fp8("token", dynamic=True)),
    "fp8_channel": SchemeArgs(_fp8("channel", dynamic=False), _fp8("token", dynamic=True)),
    "fp8_block": SchemeArgs(
        _fp8("block", dynamic=False, block=FP8_BLOCK), _fp8("group", dynamic=True, group=FP8_BLOCK)
    ),
}
"""The schemes that compressed-tensors' arguments can say; ``int8_prune`` has those of ``int8``."""


def scheme_of(weights: QuantArgs, input_activations: QuantArgs | None) -> SchemeName | None:
    """The scheme that has these arguments; None where no scheme does."""
    for name, args in SCHEME_ARGS.items():
        if args.weights == weights and args.input_activations == input_activations:
            return name
    return None
