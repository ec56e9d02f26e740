"""Plan: compiled intent for one model, portable across machines.

A plan carries its rules and, in ``tensors``, what they decide for every tensor of the checkpoint, so that a reader
sees the whole decision and a tool can check it without the weights.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from flashrl_registry.documents._base import Digest, Document, Frozen
from flashrl_registry.documents.names import expand
from flashrl_registry.documents.profile import Sidecar
from flashrl_registry.documents.rules import EngineSettings, Rule, RuleName, UpdateSettings
from flashrl_registry.documents.tensors import BaseModelInfo, DType, Family, Shape

Treatment = Literal["keep", "int8", "rescale"]
"""``keep``: as the trainer sends it. ``int8``: codes and a scale per row. ``rescale``: multiplied by the smoothing
factor that the next linears divide out, then kept in its dtype."""


class ProfileRef(Frozen):
    """The profile that a plan was compiled with."""

    digest: Digest
    """Digest of the Profile document."""
    sidecar: Sidecar
    """Its vectors."""


class PlannedFamily(Frozen):
    """What happens to tensors that share a shape, a dtype, a rule and a treatment."""

    names: Family
    """One name or a family of names."""
    shape: Shape
    """Sizes per dimension."""
    dtype: DType
    """Element type in the reference checkpoint."""
    treatment: Treatment
    """What happens on the way into the engine."""
    rule: RuleName
    """The rule that decided it."""


class Smoothing(Frozen):
    """A factor that moves from a source's output channels into its targets' input columns."""

    source: Family
    """Tensor, or family of tensors, that is multiplied by its ``inv_smoothing`` vector."""
    targets: Annotated[list[Family], Field(min_length=1)]
    """Families of the same length; the n-th member belongs to the n-th source."""


class Plan(Document):
    """Compiled intent for one model, portable across machines."""

    KIND: ClassVar[str] = "plan"
    # The fingerprint says which model; the name says where it lay when the plan was compiled.
    NOT_IDENTITY: ClassVar[frozenset[str]] = Document.NOT_IDENTITY | {"base_model.name"}

    schema_version: Literal["flashrl.plan/v1"] = "flashrl.plan/v1"
    """Document kind and schema major."""
    schema_revision: Annotated[int, Field(ge=0)] = 0
    """Additive revision of the schema."""
    digest: Digest | None = None
    """SHA-256 of the identity fields; checked at every read."""
    description: str = ""
    """For people; not part of the identity."""
    base_model: BaseModelInfo
    """The model that the plan is for."""
    engine: EngineSettings
    """What the plan asks of the engine."""
    update: UpdateSettings
    """How weight updates are quantized."""
    rules: Annotated[list[Rule], Field(min_length=1)]
    """The rules it was compiled from."""
    profile: ProfileRef | None = None
    """The profile it was compiled with; None without smoothing."""
    smoothing: list[Smoothing] = []
    """Factors of the profile that the plan applies."""
    tensors: Annotated[list[PlannedFamily], Field(min_length=1)]
    """Every tensor of the checkpoint and its treatment."""

    def count_by_treatment(self) -> dict[str, int]:
        """Number of tensors per treatment."""
        counts: dict[str, int] = {}
        for family in self.tensors:
            counts[family.treatment] = counts.get(family.treatment, 0) + len(expand(family.names))
        return counts
