"""Profile: measured facts about a checkpoint pair.

The document holds text only. Vectors live in a safetensors sidecar named by its SHA-256:

* ``inv_smoothing/<source>``: float32, one value per output channel of the source tensor. The source is multiplied
  by it (a norm elementwise, a linear row by row); the input columns of the targets are divided by it. For a
  SmoothQuant norm it is ``1/s``.
* ``weight_scale/<linear>``: float32, shape (out_features,). The dequantization multiplier of the quantized
  checkpoint, bit for bit; of symmetric int8 matrices with one scale per output channel, which plans can keep.
* ``stored_scale/<linear>``: float32. The same of any other codes: shape (1,) per tensor, (out_features,) per channel,
  the grid's own per group or block. Experts in one tensor follow one another.
* ``stored_zero_point/<linear>``: float32, of that shape; only where codes are asymmetric.
"""

import math
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from flashrl_registry.documents._base import Digest, Document, Frozen
from flashrl_registry.documents.names import MAX_MEMBERS, expand, family_size, first_repeated
from flashrl_registry.documents.quantization import QuantArgs
from flashrl_registry.documents.tensors import BaseModelInfo, DType, Family, Shape

Fraction = Annotated[float, Field(ge=0, le=1)]
ProfileScheme = Literal["int8", "fp8_tensor", "fp8_channel", "fp8_block"]
"""What the quantized checkpoint's codes are."""


class Sidecar(Frozen):
    """The safetensors file that belongs to a profile."""

    digest: Digest
    """SHA-256 of the file; its name is the 64 hexadecimal digits and ``.safetensors``."""
    num_bytes: Annotated[int, Field(ge=8)]
    """Size of the file in bytes."""

    @property
    def file_name(self) -> str:
        """Name of the file beside the document."""
        return self.digest.removeprefix("sha256:") + ".safetensors"


class QuantizedCheckpoint(Frozen):
    """The low-bit half of the pair."""

    name: str
    """Folder name or Hub id."""
    format: str
    """compressed-tensors ``format``, such as ``int-quantized``."""
    weights: QuantArgs
    """How the checkpoint's linears are quantized."""
    input_activations: QuantArgs | None = None
    """How their inputs are quantized; None for weight-only."""


class TensorFamily(Frozen):
    """Tensors of the reference checkpoint that share a shape, a dtype and a role."""

    names: Family
    """One name or a family of names."""
    shape: Shape
    """Sizes per dimension."""
    dtype: DType
    """Element type in the reference checkpoint's header."""
    role: Literal["quantized", "rescaled", "unchanged"]
    """``quantized``: low-bit in the quantized checkpoint. ``rescaled``: smoothing was folded into it.
    ``unchanged``: passed through."""

    @property
    def num_members(self) -> int:
        """Tensors in the family."""
        return family_size(self.names)


class ChannelMap(Frozen):
    """Which channels of a source feed which columns, where they are not one and the same.

    Column ``head * head_size + i`` of the targets is fed by row ``start + (head // repeats) * head_size + i`` of the
    source. With experts in one tensor, rows and columns are counted within each expert.
    """

    start: Annotated[int, Field(ge=0)]
    """First row of the source that feeds the targets: a half of a fused gate and up, or the values of a fused qkv."""
    num_rows: Annotated[int, Field(ge=1)]
    """How many rows feed them."""
    repeats: Annotated[int, Field(ge=1)] = 1
    """Query heads that share one head of keys and values."""
    head_size: Annotated[int, Field(ge=1)] | None = None
    """Rows of a head; only where heads are repeated."""
    num_parts: Annotated[int, Field(ge=1)] = 1
    """Experts in the tensor."""


class SmoothingGroup(Frozen):
    """A factor that was moved from one tensor's output channels into the next linears' input columns."""

    source: str
    """Tensor whose output channels are multiplied by the vector ``inv_smoothing/<source>``."""
    kind: Literal["norm", "linear"]
    """A norm's vector is an exact quotient; a linear's is a least-squares fit."""
    targets: Annotated[list[str], Field(min_length=1)]
    """Linear weights whose input columns are divided by it."""
    smallest: float
    """Smallest value of the vector."""
    largest: float
    """Largest value of the vector."""
    num_zero_channels: Annotated[int, Field(ge=0)] = 0
    """Channels that are zero in both checkpoints or, of a linear's rows, whose weights are so small that they have no
    code; their factor is 1."""
    offset: Literal[1] | None = None
    """Set for norms that multiply by ``1 + w``, as Gemma's do: the factor multiplies that sum, not ``w``."""
    channels: ChannelMap | None = None
    """Set where the targets' columns are not the source's rows, one by one; the vector has a 1 for other rows."""
    num_dead_channels: Annotated[int, Field(ge=0)] | None = None
    """Channels whose columns are zero in the codes of every target, so they can be pruned; None where not every row
    was looked at."""

    @property
    def not_applicable(self) -> str | None:
        """Why a plan of this release cannot apply the factor, or None."""
        if self.offset is not None:
            return "its norm multiplies by 1 + w"
        if self.channels is not None:
            return "its channels feed the targets' columns in another order"
        return None


class LinearFacts(Frozen):
    """How well the profile reproduces the quantized checkpoint, on evenly spaced rows of one linear or on all."""

    name: str
    """Weight tensor."""
    rows_checked: Annotated[int, Field(ge=1)]
    """Rows that were requantized and compared."""
    codes_equal: Fraction
    """Share of codes equal to the checkpoint's."""
    largest_difference: Annotated[int, Field(ge=0)]
    """Largest absolute difference of a code; of fp8, in neighbouring numbers."""
    residual_rms: Annotated[float, Field(ge=0)]
    """Root mean square of the unrounded residual, in codes: about 0.29 for round-to-nearest, above 0.37 for GPTQ. Of
    fp8, in distances of neighbouring numbers."""
    clip_rate: Fraction
    """Share of weights outside the code range under the checkpoint's scales; the baseline of drift warnings."""
    codes_equal_in_dtype: Fraction | None = None
    """The same share where each step of the arithmetic is rounded to the reference checkpoint's dtype; None where
    that is float32."""
    rounding: Literal["nearest", "gptq", "unclear"] | None = None
    """What the residual says: rounded to nearest, or with the errors passed on as GPTQ does."""
    sqnr_db: float | None = None
    """Signal to quantization noise of the smoothed weight, in dB; for drift, never for ranking schemes."""
    headroom: Annotated[float, Field(ge=0)] | None = None
    """Median over rows of the largest code's value over the row's largest weight: how far weights can grow before
    they clip."""
    num_dead_columns: Annotated[int, Field(ge=0)] | None = None
    """Columns whose codes are all zero; None where not every row was looked at."""


class Profile(Document):
    """Measured facts about a checkpoint pair."""

    KIND: ClassVar[str] = "profile"
    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset({"digest", "schema_revision"})

    schema_version: Literal["flashrl.profile/v1"] = "flashrl.profile/v1"
    """Document kind and schema major."""
    schema_revision: Annotated[int, Field(ge=0)] = 0
    """Additive revision of the schema; not part of the identity."""
    digest: Digest | None = None
    """SHA-256 of the identity, and not part of it; checked at every read."""
    scheme: ProfileScheme
    """What the quantized checkpoint's codes are."""
    reference: BaseModelInfo
    """The bf16 checkpoint."""
    quantized: QuantizedCheckpoint
    """The low-bit checkpoint."""
    sidecar: Sidecar
    """Vectors of this profile."""
    tensors: list[TensorFamily]
    """Every tensor of the reference checkpoint, in natural order of the names."""
    smoothing: list[SmoothingGroup]
    """Every factor that was folded, in natural order of the sources."""
    linears: list[LinearFacts]
    """One entry per quantized linear, in natural order of the names."""

    @property
    def no_frozen_scales(self) -> str | None:
        """Why a plan cannot use the checkpoint's own scales, or None: engines take symmetric int8, one per row."""
        weights = self.quantized.weights
        if weights.type != "int":
            return "its codes are fp8"
        if not weights.symmetric:
            return "its codes are asymmetric"
        return None if weights.strategy == "channel" else f"it has one scale per {weights.strategy}"

    @property
    def rows_checked(self) -> tuple[int, int]:
        """Rows of quantized linears that were requantized and compared, and how many rows there are."""
        rows = sum(
            family.num_members * math.prod(family.shape[:-1]) for family in self.tensors if family.role == "quantized"
        )
        return sum(linear.rows_checked for linear in self.linears), rows

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """Every name that is measured is a tensor of the reference checkpoint, listed once."""
        size = sum(family.num_members for family in self.tensors)
        if size != self.reference.num_tensors or size > MAX_MEMBERS:
            raise ValueError(f"tensors lists {size} names; reference has {self.reference.num_tensors}")
        listed = [name for family in self.tensors for name in expand(family.names)]
        if (twice := first_repeated(listed)) is not None:
            raise ValueError(f"{twice} is in two families of tensors")
        names = set(listed)
        measured = [name for group in self.smoothing for name in (group.source, *group.targets)]
        measured += [linear.name for linear in self.linears]
        unknown = [name for name in measured if name not in names]
        if unknown:
            raise ValueError(f"{unknown[0]} is measured, but tensors does not list it")
        return self
