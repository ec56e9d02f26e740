"""Lock: what references meant when they were locked, to the byte.

A program names plans by references that can move: a name without a version, a branch of a Hub repository, a path.
A lock writes down beside each one where it led and which bytes were there, so that a later run gets the same plan or
an error. Commands write it; people read it in reviews, so its JSON has one value to a line.
"""

import itertools
import json
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from flashrl_registry.documents._base import Digest, Document, Frozen
from flashrl_registry.documents.manifest import PlanName, SemVer
from flashrl_registry.documents.profile import Sidecar

Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
"""A git commit, in full: branches and tags move."""
_SEGMENT = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
MemberName = Annotated[str, Field(pattern=rf"^{_SEGMENT}$")]
"""One plan of several under one name."""


class HubSource(Frozen):
    """A repository on a Hub."""

    kind: Literal["hub"] = "hub"
    """Discriminator."""
    endpoint: Annotated[str, Field(pattern=r"^https?://[^\s?#@]+$", max_length=512)] | None = None
    """Address of the Hub without credentials; None for the client's default."""
    repository: PlanName
    """``namespace/name`` of the repository."""
    commit: Commit
    """Commit that was read."""
    version: SemVer | None = None
    """Version whose tag led to the commit, where one did."""
    path: Annotated[str, Field(pattern=rf"^({_SEGMENT}/)*{_SEGMENT}$", max_length=1024)] | None = None
    """The plan's file, where it was named by its path in the repository."""
    member: MemberName | None = None
    """Which of several plans it is, where the name has several."""


class LocalSource(Frozen):
    """A version in the local registry."""

    kind: Literal["local"] = "local"
    """Discriminator."""
    name: PlanName
    """``namespace/name``."""
    version: SemVer
    """Published version, which never changes."""
    member: MemberName | None = None
    """Which of several plans it is, where the name has several."""


class BundledSource(Frozen):
    """A plan that comes with flashrl-registry."""

    kind: Literal["bundled"] = "bundled"
    """Discriminator."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95}){0,3}$")]
    """Its name among the curated plans."""


class UrlSource(Frozen):
    """A version in a shared store: an object store or a mounted folder."""

    kind: Literal["url"] = "url"
    """Discriminator."""
    url: Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]*://[^\s?#@]+$", max_length=1024)]
    """Address of the store without credentials."""
    name: PlanName
    """``namespace/name``."""
    version: SemVer
    """Published version, which never changes."""
    member: MemberName | None = None
    """Which of several plans it is, where the name has several."""


class PathSource(Frozen):
    """A plan folder or file outside any registry."""

    kind: Literal["path"] = "path"
    """Discriminator."""
    path: Annotated[str, Field(min_length=1, max_length=4096)]
    """As written in the reference; relative ones are relative to the lock's folder."""


Source = Annotated[HubSource | LocalSource | BundledSource | UrlSource | PathSource, Field(discriminator="kind")]


class LockedPlan(Frozen):
    """One reference and the plan that it led to."""

    requested: Annotated[str, Field(min_length=1, max_length=4096)]
    """The reference as the program writes it."""
    source: Source
    """Where the plan was found."""
    plan_digest: Digest
    """Digest of the plan."""
    sidecar: Sidecar | None = None
    """Digest and size of the profile's vectors; None for a plan without smoothing."""


def _ascending(entries: list[LockedPlan]) -> list[LockedPlan]:
    for before, entry in itertools.pairwise(entries):
        if before.requested == entry.requested:
            raise ValueError(f"'{entry.requested}' is locked twice")
        if before.requested > entry.requested:
            raise ValueError(f"entries stand in the order of 'requested': '{entry.requested}' comes too late")
    return entries


class Lock(Document):
    """What references meant when they were locked."""

    KIND: ClassVar[str] = "lock"
    # Every field of every entry counts. There is no digest inside: each entry has the plan's, and one over all of
    # them would make every merge of two branches a conflict.
    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset({"schema_revision"})

    schema_version: Literal["flashrl.lock/v1"] = "flashrl.lock/v1"
    """Document kind and schema major."""
    schema_revision: Annotated[int, Field(ge=0)] = 0
    """Additive revision of the schema; not part of the identity."""
    entries: Annotated[list[LockedPlan], AfterValidator(_ascending)]
    """One per reference, in the order of ``requested``, so that branches merge and equal locks are equal files."""

    def json_file(self) -> bytes:
        """One value to a line, so that a review shows what moved."""
        data = self.model_dump(mode="json", exclude_none=True)
        return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()
