"""Quantization vocabulary, in compressed-tensors' words, and the schemes that rules name."""

from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from flashrl_registry.documents._base import Frozen

SchemeName = Literal["bf16", "fp8", "fp8_tensor", "fp8_channel", "fp8_block", "int8", "int8_prune"]
"""``bf16``: the tensor stays as the trainer sends it. ``fp8``: vLLM's own online quantization, per tensor.
``fp8_tensor``, ``fp8_channel``, ``fp8_block``: float8_e4m3fn codes made by this project, with one scale per tensor,
per output channel or per block of 128 x 128; activations dynamic. ``int8``: W8A8, per-channel symmetric weights,
per-token dynamic activations, with the profile's smoothing where there is a profile. ``int8_prune``: int8, and norm
channels that all of their linears ignore are zeroed (FlashRL's dead-neuron pruning)."""

SCHEMES: tuple[SchemeName, ...] = ("bf16", "fp8", "fp8_tensor", "fp8_channel", "fp8_block", "int8", "int8_prune")

SYNONYMS: dict[str, SchemeName] = {
    "fp8_vllm": "fp8",
    "fp8_fast": "fp8",
    "fp8_vllm_fast": "fp8",
    "int8_fast": "int8",
    "int8_wo_prune": "int8",
}
"""FlashRL's other names. Commands, FLASHRL_CONFIG and FlashRL's own files may use them; documents never do."""

Strategy = Literal["tensor", "channel", "group", "block", "token"]
"""Over which elements one scale is shared."""

FP8_BLOCK = 128
"""Rows and columns of a block of ``fp8_block``; vLLM's kernels know no other."""


def canonical_scheme(name: str) -> SchemeName | None:
    """The scheme that a name or FlashRL's synonym stands for; None for any other text."""
    for scheme in SCHEMES:
        if name == scheme:
            return scheme
    return SYNONYMS.get(name)


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
