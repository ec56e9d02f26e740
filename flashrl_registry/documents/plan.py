"""Plan: compiled intent for one model, portable across machines.

A plan carries its rules and, in ``tensors``, what they decide for every tensor of the checkpoint, so that a reader
sees the whole decision and a tool can check it without the weights.
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from flashrl_registry.documents._base import Digest, Document, Frozen
from flashrl_registry.documents.names import MAX_MEMBERS, expand, family_size
from flashrl_registry.documents.profile import Sidecar
from flashrl_registry.documents.rules import EngineSettings, RuleList, RuleName, UpdateSettings
from flashrl_registry.documents.tensors import BaseModelInfo, DType, Family, Shape

Treatment = Literal["keep", "rescale", "int8", "fp8", "fp8_tensor", "fp8_channel", "fp8_block"]
"""``keep``: as the trainer sends it. ``rescale``: multiplied by the smoothing factor that the next linears divide
out, then kept in its dtype. ``int8``: codes and a scale per row. ``fp8_tensor``, ``fp8_channel``, ``fp8_block``:
float8_e4m3fn codes and a scale per tensor, row or block. ``fp8``: sent as it is; vLLM quantizes it as it loads."""


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

    @property
    def num_members(self) -> int:
        """Tensors in the family."""
        return family_size(self.names)


class Smoothing(Frozen):
    """A factor that moves from a source's output channels into its targets' input columns."""

    source: Family
    """Tensor, or family of tensors, that is multiplied by its ``inv_smoothing`` vector."""
    targets: Annotated[list[Family], Field(min_length=1)]
    """Families of the same length; the n-th member belongs to the n-th source."""
    prune_dead_inputs: bool | None = None
    """Zero the channels of a norm whose columns are zero in every target; None means no."""


class Plan(Document):
    """Compiled intent for one model, portable across machines."""

    KIND: ClassVar[str] = "plan"
    # The fingerprint says which model; the name says where it lay when the plan was compiled.
    NOT_IDENTITY: ClassVar[frozenset[str]] = Document.NOT_IDENTITY | {"base_model.name"}

    schema_version: Literal["flashrl.plan/v1"] = "flashrl.plan/v1"
    """Document kind and schema major."""
    schema_revision: Annotated[int, Field(ge=0)] = 0
    """Additive revision of the schema; not part of the identity."""
    digest: Digest | None = None
    """SHA-256 of the identity, and not part of it; checked at every read."""
    description: str = ""
    """For people; not part of the identity."""
    base_model: BaseModelInfo
    """The model that the plan is for."""
    engine: EngineSettings
    """Releases, logprobs, KV cache, head and start model of the engine that the plan runs in."""
    update: UpdateSettings
    """Scales of an update, and what a failed one leaves."""
    rules: RuleList
    """The rules it was compiled from."""
    profile: ProfileRef | None = None
    """The profile it was compiled with; None without smoothing."""
    smoothing: list[Smoothing] = []
    """Factors of the profile that the plan applies."""
    tensors: Annotated[list[PlannedFamily], Field(min_length=1)]
    """Every tensor of the checkpoint and its treatment."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """One decision per tensor, by a rule of this plan; factors only between tensors of this plan."""
        size = sum(family.num_members for family in self.tensors)
        if size != self.base_model.num_tensors or size > MAX_MEMBERS:
            raise ValueError(f"tensors decides {size} names; base_model has {self.base_model.num_tensors}")
        treatments: dict[str, str] = {}
        rules = {rule.name for rule in self.rules}
        for family in self.tensors:
            if family.rule not in rules:
                raise ValueError(f"{family.names} was decided by rule '{family.rule}', which is not in rules")
            for name in expand(family.names):
                if name in treatments:
                    raise ValueError(f"{name} is in two families of tensors")
                treatments[name] = family.treatment
        rescaled = self._check_smoothing(treatments)
        lost = [name for name, how in treatments.items() if how == "rescale" and name not in rescaled]
        if lost:
            raise ValueError(f"{lost[0]} is rescaled, but no smoothing entry has it as its source")
        return self

    def _check_smoothing(self, treatments: dict[str, str]) -> set[str]:
        """Names that a factor may rescale: the sources and their biases."""
        if self.smoothing and self.profile is None:
            raise ValueError("smoothing takes its factors from a profile, and none is named")
        if sum(family_size(family) for entry in self.smoothing for family in entry.targets) > len(treatments):
            raise ValueError("smoothing names more targets than there are tensors")
        sources: set[str] = set()
        targets: set[str] = set()
        for entry in self.smoothing:
            where = f"smoothing of {entry.source}"
            size = family_size(entry.source)
            if wrong := [family for family in entry.targets if family_size(family) != size]:
                raise ValueError(f"{where}: {wrong[0]} has {family_size(wrong[0])} members, not {size}")
            own = expand(entry.source)
            # A factor that its source does not take, or that two entries apply, would scale the model's outputs.
            if wrong := [name for name in own if name in sources or treatments.get(name) not in {"int8", "rescale"}]:
                raise ValueError(f"{where}: {wrong[0]} is not rescaled exactly once by this plan")
            sources.update(own)
            for family in entry.targets:
                names = expand(family)
                if wrong := [name for name in names if name in targets or treatments.get(name) != "int8"]:
                    raise ValueError(f"{where}: {wrong[0]} is not an int8 tensor that takes one factor")
                targets.update(names)
        return sources | {name.rpartition(".")[0] + ".bias" for name in sources}

    def count_by_treatment(self) -> dict[str, int]:
        """Number of tensors per treatment."""
        counts: dict[str, int] = {}
        for family in self.tensors:
            counts[family.treatment] = counts.get(family.treatment, 0) + family.num_members
        return counts
