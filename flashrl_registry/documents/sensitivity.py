"""Sensitivity: how much of a model's output each group of linears would cost in 8 bits, measured on text.

The score of a group under a scheme is the sum, over tokens and output channels, of ``(dL/dy * dy)^2``: ``dy`` is how
far a linear's output moves when its weight and its inputs are quantized, ``L`` the likelihood of tokens that the model
itself draws, so the score follows the KL to the bf16 model to second order. Scores of one scheme compare groups; the
whole model's KL under that scheme, measured beside them, brings the schemes to one unit.
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from flashrl_registry.documents._base import Digest, Document, Frozen
from flashrl_registry.documents.evidence import Line, Slug
from flashrl_registry.documents.names import first_repeated
from flashrl_registry.documents.tensors import BaseModelInfo, Family

ScoredScheme = Literal["int8", "int8_plain", "fp8_tensor", "fp8_channel", "fp8_block"]
"""Schemes of rules; ``int8`` has the profile's smoothing, ``int8_plain`` has none."""

SCORED_SCHEMES: tuple[ScoredScheme, ...] = ("int8", "int8_plain", "fp8_tensor", "fp8_channel", "fp8_block")

NotNegative = Annotated[float, Field(ge=0)]


class MeasuredText(Frozen):
    """The tokens that everything was measured on."""

    digest: Digest
    """SHA-256 of the token ids, as decimal numbers with spaces, one line per sequence."""
    num_tokens: Annotated[int, Field(ge=1)]
    """Tokens in all sequences."""
    sequence_tokens: Annotated[int, Field(ge=2)]
    """Tokens of the longest sequence."""


class MeasuredScheme(Frozen):
    """The whole model under one scheme, against bf16."""

    scheme: ScoredScheme
    """All groups that have a score for it were quantized."""
    kl: NotNegative
    """Mean over tokens of KL(bf16 || quantized), in nats."""
    kl_standard_error: NotNegative
    """Its standard error, tokens taken as independent."""
    mean_abs_dlogprob: NotNegative
    """Mean absolute change of the log-probability of the text's own tokens, in nats."""


class SchemeScore(Frozen):
    """One group under one scheme."""

    scheme: ScoredScheme
    """The scheme."""
    score: NotNegative
    """Sum of ``(dL/dy * dy)^2``."""
    output_error: NotNegative
    """Norm of ``dy`` over the norm of ``y``."""


class ScoredGroup(Frozen):
    """Linears that the engine fuses into one weight, or all experts of a layer: they have one format."""

    module: Annotated[str, Field(min_length=1, max_length=512)]
    """Name of the engine's module."""
    tensors: Annotated[list[Family], Field(min_length=1)]
    """Its weights."""
    num_weights: Annotated[int, Field(ge=1)]
    """Elements in them."""
    peak_over_rms: NotNegative
    """Mean over tokens of the largest input over the inputs' root mean square: outliers cost 8-bit inputs their
    precision."""
    scores: Annotated[list[SchemeScore], Field(min_length=1)]
    """One per scheme that the group can take."""


class NotScored(Frozen):
    """Linears without a score, which ``compile --auto`` keeps in bf16."""

    names: Family
    """Their weights."""
    reason: str
    """Why."""


class Sensitivity(Document):
    """How much of a model's output each group of linears would cost in 8 bits."""

    KIND: ClassVar[str] = "sensitivity"
    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset({"digest", "schema_revision"})

    schema_version: Literal["flashrl.sensitivity/v1"] = "flashrl.sensitivity/v1"
    """Document kind and schema major."""
    schema_revision: Annotated[int, Field(ge=0)] = 0
    """Additive revision of the schema; not part of the identity."""
    digest: Digest | None = None
    """SHA-256 of the identity, and not part of it; checked at every read."""
    reference: BaseModelInfo
    """The bf16 model."""
    profile: Digest | None = None
    """The profile whose smoothing ``int8`` has; None where ``int8`` was not scored."""
    text: MeasuredText
    """What the model read."""
    device: Line
    """Where it ran."""
    versions: Annotated[dict[Slug, Line], Field(min_length=1, max_length=32)]
    """Releases that took part."""
    schemes: Annotated[list[MeasuredScheme], Field(min_length=1)]
    """The whole model under each scheme."""
    groups: Annotated[list[ScoredGroup], Field(min_length=1)]
    """Every group with a score, in natural order of the modules."""
    not_scored: list[NotScored] = []
    """Every other linear."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """Groups and schemes are listed once, and every score is of a scheme that was measured on the whole model."""
        schemes: list[str] = [entry.scheme for entry in self.schemes]
        for what, names in (("scheme", schemes), ("group", [group.module for group in self.groups])):
            if (twice := first_repeated(names)) is not None:
                raise ValueError(f"{what} {twice} is listed twice")
        if ("int8" in schemes) != (self.profile is not None):
            raise ValueError("int8 is measured with a profile's smoothing, and profile names it; one needs the other")
        for group in self.groups:
            scored: list[str] = [entry.scheme for entry in group.scores]
            if wrong := next((name for name in scored if name not in schemes), first_repeated(scored)):
                raise ValueError(f"{group.module} has a score for {wrong} that schemes does not have, or has it twice")
        return self
