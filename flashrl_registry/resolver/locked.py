"""A lock to the plan that one of its entries pins: that one, byte for byte, or an error."""

import os
from pathlib import Path

from flashrl_registry.documents import Lock, LockedPlan, canonical_scheme, claimed_kind, read_document
from flashrl_registry.documents.findings import did_you_mean
from flashrl_registry.documents.io import read_text
from flashrl_registry.errors import InvalidRefError, NotFoundError
from flashrl_registry.registry import PathRef, PlanRef, parse_ref
from flashrl_registry.registry.answering import Found
from flashrl_registry.registry.lock_entries import asked_by, check_entry, folder_of, located, reference_of
from flashrl_registry.registry.locking import LOCK_FILE, LOCK_SUFFIXES


def locked_reference(text: str, *, portable: bool = False) -> PlanRef | None:
    """Find out whether a reference names a lock, and which plan that is.

    Args:
        text: ``path/of/the.lock`` where it has one entry, or ``path/of/the.lock#<requested>``, with the reference as
            the lock has it under ``requested``.
        portable: As in :func:`reference_of`.

    Returns:
        A reference that pins the entry's digest; None where the text names no lock.

    Raises:
        DocumentError: The lock is malformed.
        NotFoundError: No such entry, or several and none is named.
        IntegrityError: The entry leads to what its reference cannot mean.
    """
    path_text, _, requested = text.partition("#")
    file = Path(path_text).expanduser()
    if not path_text or not _is_lock(file):
        return None
    return _checked(_entry(read_document(file, Lock), requested, file), file, portable=portable)


def lock_in_place(text: str, folder: Path, *, portable: bool = False) -> PlanRef | None:
    """What the lock of a working folder pins for a reference; a job that was locked runs that.

    Args:
        text: The reference as a program writes it.
        folder: The working folder; its ``flashrl.lock`` is read.
        portable: As in :func:`reference_of`.

    Returns:
        A reference that pins the entry's digest; None without a lock, and where it has no entry for this reference.

    Raises:
        DocumentError: The lock is damaged, or a link that leads nowhere.
        InvalidRefError: What is locked by name could be a path here, too.
        IntegrityError: Its entry leads to what the reference cannot mean, such as a plan of another name, whose
            signature nobody would ask for.
    """
    file = folder / LOCK_FILE
    entry = _entry_in_place(text, folder)
    if entry is None:
        return None
    parse_ref(text, folder)  # what could be a path here, too, is refused with a lock as without
    return _checked(entry, file, portable=portable)


def lock_behind(text: str, folder: Path) -> Path | None:
    """The lock that decides what a reference means in a working folder; None where none does.

    Raises:
        DocumentError: It is damaged.
    """
    if lock_references_in(path_text := text.partition("#")[0]) is not None:
        return Path(path_text).expanduser()
    return folder / LOCK_FILE if _entry_in_place(text, folder) is not None else None


def _entry_in_place(text: str, folder: Path) -> LockedPlan | None:
    file = folder / LOCK_FILE
    # A link that leads nowhere is there: reading it says so.
    if not os.path.lexists(file) or canonical_scheme(text) is not None:
        return None
    lock, wanted, home = read_document(file, Lock), _asked(text, folder), folder_of(file)
    return next((entry for entry in lock.entries if _means(entry, home) == wanted), None)


def _asked(text: str, folder: Path) -> PathRef | str:
    """What entries are looked up by: the place of a path, however it is written; else the text itself."""
    try:
        ref = parse_ref(text, folder)
    except InvalidRefError:  # another program's way of writing a place; who reads it says what is wrong
        return text
    return located(ref, folder) if isinstance(ref, PathRef) else text


def _means(entry: LockedPlan, folder: Path) -> PathRef | str:
    try:
        ref = asked_by(entry, folder)
    except InvalidRefError:
        return entry.requested
    return located(ref, folder) if isinstance(ref, PathRef) else entry.requested


def _checked(entry: LockedPlan, file: Path, *, portable: bool) -> Found:
    check_entry(entry, folder_of(file), file)
    return reference_of(entry, folder_of(file), portable=portable)


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
    is_text = file.suffix in LOCK_SUFFIXES and file.is_file()
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
