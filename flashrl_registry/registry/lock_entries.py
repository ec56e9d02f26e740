"""An entry of a lock and the reference that it answers: the plan that it pins, or an error where it contradicts it.

Paths in a lock, those that were asked for too, are relative to the folder that the lock's file really lies in: a link
to it from elsewhere changes nothing.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from flashrl_registry.documents import LockedPlan
from flashrl_registry.documents.bundled import bundled
from flashrl_registry.documents.lock import BundledSource, HubSource, LocalSource, PathSource, UrlSource
from flashrl_registry.errors import IntegrityError, InvalidRefError
from flashrl_registry.registry.answering import Found, other_than_asked
from flashrl_registry.registry.ref import HubFileRef, NamedRef, PathRef, PlanRef, parse_ref

R = TypeVar("R", bound=PlanRef)


def folder_of(file: Path) -> Path:
    """The folder that paths in a lock are relative to."""
    return Path(os.path.realpath(file)).parent


def reference_of(entry: LockedPlan, folder: Path, *, portable: bool = False) -> Found:
    """The reference that leads to a locked plan and to no other.

    Args:
        entry: Of a lock.
        folder: The lock's folder.
        portable: For another machine: a plan that comes with flashrl-registry is named, and not where it lies here.
    """
    source = entry.source
    if isinstance(source, LocalSource):
        return NamedRef(source.name, source.version, entry.plan_digest, source.member)
    if isinstance(source, UrlSource):
        return NamedRef(source.name, source.version, entry.plan_digest, source.member, "url", source.url)
    if isinstance(source, PathSource):
        return PathRef(folder / Path(source.path).expanduser(), entry.plan_digest)
    if isinstance(source, BundledSource):
        if not portable:
            return PathRef(bundled("profiles") / source.name, entry.plan_digest)
        name, _, member = source.name.rpartition("/")
        return NamedRef(name, None, entry.plan_digest, member)
    return _on_a_hub(source, entry.plan_digest)


def _on_a_hub(source: HubSource, digest: str) -> Found:
    if source.path is not None:
        return HubFileRef(source.repository, source.path, source.commit, digest, source.endpoint)
    return NamedRef(source.repository, source.commit, digest, source.member, "hub", source.endpoint)


def asked_by(entry: LockedPlan, folder: Path) -> PlanRef:
    """The reference of an entry, read in the lock's folder.

    Args:
        entry: Of a lock.
        folder: The lock's folder.

    Raises:
        InvalidRefError: It is none.
    """
    # Only an entry that leads to a path can have asked for one: a folder that lies here by the name of a published
    # plan is not what such a lock means.
    return parse_ref(entry.requested, folder if isinstance(entry.source, PathSource) else None)


def located(ref: R, folder: Path) -> R:
    """A reference whose path is the place itself, so that two spellings of one are equal."""
    return replace(ref, path=Path(os.path.realpath(folder / ref.path))) if isinstance(ref, PathRef) else ref


def check_entry(entry: LockedPlan, folder: Path, file: Path) -> None:
    """Refuse an entry that leads to what its reference cannot mean.

    Args:
        entry: Of a lock.
        folder: The lock's folder.
        file: The lock, for messages.

    Raises:
        IntegrityError: It does, so a plan could come past the signature or the version that was asked for.
    """
    found = reference_of(entry, folder, portable=True)
    version = entry.source.version if isinstance(entry.source, HubSource) else None
    try:
        asked = asked_by(entry, folder)
        other = other_than_asked(located(asked, folder), located(found, folder), version)
    except InvalidRefError as exc:
        other = f"a plan, and that is no reference ({exc.message})"
    if other is not None:
        raise IntegrityError(
            f"{file} locks {entry.requested} to {other}: {found}",
            hint=f"somebody changed it; lock it again: flashrl-registry lock {entry.requested}",
            context={"lock": str(file), "ref": entry.requested},
        )
