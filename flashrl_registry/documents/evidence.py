"""Evidence: what somebody measured of a plan, bound to the plan's digest.

A plan says what is done to weights; evidence says what came of it: how far logprobs moved, how many tokens a second, on
which device and with which releases. It lies beside a version and never inside it, so a plan keeps its identity however
much is measured of it, and numbers of one plan cannot be shown under another.
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from flashrl_registry.documents._base import Digest, Document, Frozen
from flashrl_registry.documents.manifest import Instant

MAX_EVIDENCE_BYTES = 16 << 10
"""Size of a whole document as canonical JSON: it is read with every plan of its name."""

_LINE = r"^[^\s]([^\t\r\n]*[^\s])?$"

Line = Annotated[str, Field(pattern=_LINE, max_length=256)]
Slug = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,63}$")]


class Metric(Frozen):
    """One measured number."""

    value: float
    """The number."""
    unit: Annotated[str, Field(pattern=_LINE, max_length=32)]
    """Its unit, such as ``token/s``, ``nat``, ``GB``; ``1`` for a ratio."""


class Evidence(Document):
    """What somebody measured of a plan."""

    KIND: ClassVar[str] = "evidence"
    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset({"schema_revision"})

    schema_version: Literal["flashrl.evidence/v1"] = "flashrl.evidence/v1"
    """Document kind and schema major."""
    schema_revision: Annotated[int, Field(ge=0)] = 0
    """Additive revision of the schema; not part of the identity."""
    plan_digest: Digest
    """Digest of the plan that was measured."""
    created_at: Instant
    """UTC time of the measurement, ISO 8601."""
    what: Literal["mismatch", "throughput", "profile", "note"]
    """``mismatch``: how far the engine's logprobs are from the trainer's. ``throughput``: how fast it is. ``profile``:
    how well the quantized checkpoint follows its reference. ``note``: something else that its reader should know."""
    device: Line
    """What it ran on, such as ``NVIDIA H100 80GB HBM3``."""
    versions: Annotated[dict[Slug, Line], Field(min_length=1, max_length=32)]
    """Releases that took part: ``flashrl-registry``, ``vllm``, ``torch``, drivers."""
    metrics: Annotated[dict[Slug, Metric], Field(max_length=64)] = {}
    """Numbers by name; only a note may have none."""
    method: Annotated[str, Field(min_length=1, max_length=4096)]
    """How it was measured, for a reader who wants to repeat it or doubts it."""
    command: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """The command that measured it."""

    @model_validator(mode="after")
    def _has_numbers(self) -> Self:
        """A measurement has a number."""
        if not self.metrics and self.what != "note":
            raise ValueError(f"evidence of '{self.what}' has at least one number in metrics")
        return self
