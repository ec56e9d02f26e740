"""Manifest: what a published version consists of."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from flashrl_registry.documents._base import Digest, Document, Frozen
from flashrl_registry.documents.patterns import NAME_PATTERN, VERSION_PATTERN

PlanName = Annotated[str, Field(pattern=NAME_PATTERN)]
SemVer = Annotated[str, Field(pattern=VERSION_PATTERN)]
Instant = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,15}(\+00:00|Z)$")]


class ManifestFile(Frozen):
    """One file of a published version."""

    path: Annotated[str, Field(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,95}/)?[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
    """File name; of a hybrid's member, in a folder of its name."""
    digest: Digest
    """SHA-256 of its bytes."""
    num_bytes: Annotated[int, Field(ge=0)]
    """Size in bytes."""


class Manifest(Document):
    """What a published version consists of."""

    KIND: ClassVar[str] = "manifest"
    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset({"digest", "schema_revision", "published_at"})

    schema_version: Literal["flashrl.manifest/v1"] = "flashrl.manifest/v1"
    """Document kind and schema major."""
    schema_revision: Annotated[int, Field(ge=0)] = 0
    """Additive revision of the schema; not part of the identity."""
    digest: Digest | None = None
    """SHA-256 of the identity, and not part of it; checked at every read."""
    name: PlanName
    """``namespace/name``."""
    version: SemVer
    """Semantic version; a published version never changes."""
    published_at: str
    """UTC time, ISO 8601; not part of the identity."""
    plan_digest: Digest
    """Digest of the plan, or of the hybrid, which pins its members'."""
    base_model: str
    """Name of the model, for listings."""
    schemes: list[str]
    """Schemes that the plan's rules name, for listings."""
    files: Annotated[list[ManifestFile], Field(min_length=1)]
    """All files of the version except this one."""
