"""A lock to the plan that one of its entries pins: that one, byte for byte, or an error."""

from pathlib import Path

from flashrl_registry.documents import Lock, LockedPlan, canonical_scheme, claimed_kind, read_document
from flashrl_registry.documents.bundled import bundled
from flashrl_registry.documents.findings import did_you_mean
from flashrl_registry.documents.io import read_text
from flashrl_registry.documents.lock import BundledSource, HubSource, LocalSource, PathSource, UrlSource
from flashrl_registry.errors import IntegrityError, NotFoundError
from flashrl_registry.registry import HubFileRef, NamedRef, PathRef, PlanRef, parse_ref
from flashrl_registry.registry.locking import LOCK_FILE


def locked_reference(text: str) -> PlanRef | None:
    """Find out whether a reference names a lock, and which plan that is.

    Args:
        text: ``path/of/the.lock`` where it has one entry, or ``path/of/the.lock#<requested>``, with the reference as
            the lock has it under ``requested``.

    Returns:
        A reference that pins the entry's digest; None where the text names no lock.

    Raises:
        DocumentError: The lock is malformed.
        NotFoundError: No such entry, or several and none is named.
    """
    path_text, _, requested = text.partition("#")
    file = Path(path_text).expanduser()
    if not path_text or not _is_lock(file):
        return None
    return reference_of(_entry(read_document(file, Lock), requested, file), file.parent)


def lock_in_place(text: str, folder: Path) -> PlanRef | None:
    """What the lock of a working folder pins for a reference; a job that was locked runs that.

    Args:
        text: The reference as a program writes it.
        folder: The working folder; its ``flashrl.lock`` is read.

    Returns:
        A reference that pins the entry's digest; None without a lock, and where it has no entry for exactly this text.

    Raises:
        DocumentError: The lock is damaged.
        IntegrityError: Its entry leads to a plan of another name, whose signature nobody would ask for.
    """
    file = folder / LOCK_FILE
    if not file.is_file() or canonical_scheme(text) is not None:
        return None
    for entry in read_document(file, Lock).entries:
        if entry.requested == text:
            found = reference_of(entry, file.parent)
            _check_same_name(text, found, file)
            return found
    return None


def _check_same_name(text: str, found: PathRef | NamedRef | HubFileRef, file: Path) -> None:
    asked = parse_ref(text)
    if isinstance(asked, NamedRef) and isinstance(found, NamedRef) and asked.name != found.name:
        raise IntegrityError(
            f"{file} locks {text} to a plan of another name: {found}",
            hint=f"lock it again: flashrl-registry lock {text}",
            context={"lock": str(file), "ref": text},
        )


def lock_references_in(text: str) -> list[str] | None:
    """What a lock has under ``requested``; None where the text names no lock, or one entry of it.

    Raises:
        DocumentError: The lock is malformed.
    """
    file = Path(text).expanduser()
    if not text or not _is_lock(file):
        return None
    return [entry.requested for entry in read_document(file, Lock).entries]


def _is_lock(file: Path) -> bool:
    is_text = file.suffix in {".json", ".lock", ".yaml", ".yml"} and file.is_file()
    return is_text and claimed_kind(read_text(file)) == Lock.KIND


def _entry(lock: Lock, requested: str, file: Path) -> LockedPlan:
    known = [entry.requested for entry in lock.entries]
    if not requested and len(known) == 1:
        return lock.entries[0]
    for entry in lock.entries:
        if entry.requested == requested:
            return entry
    if not known:
        raise NotFoundError(f"{file} locks nothing", hint="lock a plan first")
    what = f"has no entry '{requested}'" if requested else f"locks {len(known)} plans, and none of them is named"
    raise NotFoundError(
        f"{file} {what}" + (did_you_mean(requested, known) if requested else ""),
        hint=f"write {file}#REF with REF as it was locked: {', '.join(known[:8])}",
        context={"lock": str(file), "requested": known},
    )


def reference_of(entry: LockedPlan, folder: Path) -> PathRef | NamedRef | HubFileRef:
    """The reference that leads to a locked plan and to no other.

    Args:
        entry: Of a lock.
        folder: The lock's folder.
    """
    source = entry.source
    if isinstance(source, LocalSource):
        return NamedRef(source.name, source.version, entry.plan_digest, source.member)
    if isinstance(source, UrlSource):
        return NamedRef(source.name, source.version, entry.plan_digest, source.member, "url", source.url)
    if isinstance(source, PathSource):
        return PathRef(folder / Path(source.path).expanduser(), entry.plan_digest)
    if isinstance(source, BundledSource):
        return PathRef(bundled("profiles") / source.name, entry.plan_digest)
    assert isinstance(source, HubSource)
    if source.path is not None:
        return HubFileRef(source.repository, source.path, source.commit, entry.plan_digest, source.endpoint)
    return NamedRef(source.repository, source.commit, entry.plan_digest, source.member, "hub", source.endpoint)
