"""Locks: what references mean now, written down; and whether they still mean it."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from flashrl_registry.documents import Lock, LockedPlan, read_document, write_atomically, yaml_text
from flashrl_registry.documents.lock import PathSource, Source
from flashrl_registry.errors import FlashRLError, InvalidRefError, StoreUnavailableError
from flashrl_registry.registry.alone import alone_with
from flashrl_registry.registry.chain import PlanSource
from flashrl_registry.registry.hybrids import Bundle, HybridBundle
from flashrl_registry.registry.lock_entries import asked_by
from flashrl_registry.registry.open import open_any
from flashrl_registry.registry.ref import PathRef, PlanRef, PresetRef, parse_ref

LOCK_FILE = "flashrl.lock"
LOCK_SUFFIXES = (".lock", ".json", ".yaml", ".yml")
"""Endings of files that are looked into for a lock."""


@dataclass(frozen=True)
class Checked:
    """One entry of a lock, and what its reference means now.

    Attributes:
        locked: The entry.
        now: What it would be today; None where that cannot be told.
        error: Why it cannot.
    """

    locked: LockedPlan
    now: LockedPlan | None
    error: FlashRLError | None = None

    @property
    def same(self) -> bool:
        """The reference leads to the same plan, at the same place."""
        return self.now == self.locked

    @property
    def moved(self) -> str:
        """What changed, for people."""
        if self.now is None:
            return f"cannot be resolved: {self.error.message if self.error else ''}"
        if self.now.plan_digest == self.locked.plan_digest:
            return f"the same plan, now {_place(self.now.source)} (locked {_place(self.locked.source)})"
        return (
            f"{_place(self.locked.source)} -> {_place(self.now.source)} "
            f"({self.locked.plan_digest[:19]} -> {self.now.plan_digest[:19]})"
        )


def lock_references(references: Iterable[str], store: PlanSource, folder: Path) -> tuple[Lock, list[Bundle]]:
    """Resolve references and write down where they lead.

    Args:
        references: As programs write them here.
        store: The chain of stores.
        folder: The lock's folder; relative paths in the lock are relative to it, also those that are asked for.

    Returns:
        The lock, and the plans in its order; all of their files are here now.

    Raises:
        InvalidRefError: A scheme name, which means another plan for every model.
        FlashRLError: A reference leads nowhere.
    """
    return _in_order(_resolved(text, parse_ref(text), store, Path(), folder) for text in references)


def check_lock(lock: Lock, store: PlanSource, folder: Path) -> list[Checked]:
    """Resolve a lock's references again, and compare."""
    checked = []
    for entry in lock.entries:
        try:
            checked.append(Checked(entry, _again(entry, store, folder)[0]))
        except FlashRLError as exc:
            checked.append(Checked(entry, None, exc))
    return checked


def relock(lock: Lock, store: PlanSource, folder: Path) -> tuple[Lock, list[Bundle]]:
    """Resolve a lock's references anew, as :func:`lock_references` does; its paths are relative to its folder."""
    return _in_order(_again(entry, store, folder) for entry in lock.entries)


def _in_order(found: Iterable[tuple[LockedPlan, Bundle]]) -> tuple[Lock, list[Bundle]]:
    by_request = {entry.requested: (entry, bundle) for entry, bundle in found}
    entries = [by_request[requested] for requested in sorted(by_request)]
    return Lock(entries=[entry for entry, _ in entries]), [bundle for _, bundle in entries]


def merged(old: Lock | None, new: Lock) -> Lock:
    """A lock with entries replaced and added; what was not locked again stays."""
    entries = {_request(entry): entry for entry in [*(old.entries if old else []), *new.entries]}
    return Lock(entries=sorted(entries.values(), key=lambda entry: entry.requested))


def _request(entry: LockedPlan) -> str:
    """What an entry was asked for, in one spelling."""
    place, mark, digest = entry.requested.partition("#")
    return os.path.normpath(place) + mark + digest if isinstance(entry.source, PathSource) else entry.requested


def update_lock(file: Path, new: Lock) -> Lock:
    """Put entries into a lock's file; what other processes lock at the same time stays.

    Args:
        file: Created where missing; YAML by its ending, else JSON. A link stays one: the file that it leads to is
            written.
        new: The entries.

    Returns:
        What is in the file now.

    Raises:
        InvalidRefError: By its name nobody would take it for a lock.
        DocumentError: The file is damaged.
        StoreUnavailableError: It cannot be written, or another process kept it.
    """
    check_lock_name(file)
    place = Path(os.path.realpath(file))
    try:
        with alone_with(place):
            locked = merged(read_document(place, Lock) if place.exists() else None, new)
            as_yaml = file.suffix in {".yaml", ".yml"}
            write_atomically(place, yaml_text(locked).encode() if as_yaml else locked.json_file())
    except OSError as exc:
        where = "" if exc.filename in {None, str(place)} else f" ({exc.filename})"
        raise StoreUnavailableError(
            f"{file} cannot be written: {exc.strerror or exc}{where}",
            hint="make its folder writable, or write another lock with: flashrl-registry lock -o",
            context={"lock": str(file)},
        ) from exc
    return locked


def check_lock_name(file: Path) -> None:
    """Refuse a name by which nobody would take the file for a lock.

    Raises:
        InvalidRefError: It has none of :data:`LOCK_SUFFIXES`.
    """
    if file.suffix not in LOCK_SUFFIXES:
        raise InvalidRefError(
            f"{file} would not be taken for a lock: its name ends in none of {', '.join(LOCK_SUFFIXES)}",
            hint=f"write {file}.lock",
            context={"lock": str(file)},
        )


def commits_of(locks: Sequence[Lock]) -> set[str]:
    """Hub commits that locks need."""
    return {entry.source.commit for lock in locks for entry in lock.entries if entry.source.kind == "hub"}


def _again(entry: LockedPlan, store: PlanSource, folder: Path) -> tuple[LockedPlan, Bundle]:
    return _resolved(entry.requested, asked_by(entry, folder), store, folder, folder)


def _resolved(text: str, ref: PlanRef, store: PlanSource, here: Path, folder: Path) -> tuple[LockedPlan, Bundle]:
    """A reference that was written in one folder, for a lock in another."""
    if isinstance(ref, PresetRef):
        raise InvalidRefError(
            f"'{text}' is a scheme name: it means another plan for every model, so there is nothing to lock",
            hint=f"compile it for the model and lock that: flashrl-registry compile -m MODEL --scheme {text} -o DIR",
        )
    if not isinstance(ref, PathRef):
        return lock_bundle(text, bundle := open_any(ref, store)), bundle
    if ref.path.is_absolute():
        return lock_bundle(text, bundle := open_any(ref, store), str(ref.path)), bundle
    # What a program asks for where the lock lies: the same text means another place in every folder.
    place = os.path.normpath(Path(os.path.realpath(here), ref.path))
    path = os.path.relpath(place, os.path.realpath(folder))
    bundle = open_any(replace(ref, path=Path(place)), store)
    plainly_a_path = path if path.startswith(".") else f"./{path}"
    return lock_bundle(plainly_a_path + text[len(text.partition("#")[0]) :], bundle, path), bundle


def lock_bundle(requested: str, bundle: Bundle, path: str = "") -> LockedPlan:
    """What a lock says of a plan that was found.

    Args:
        requested: The reference.
        bundle: Where it led.
        path: Of a plan that no store holds.
    """
    source: Source = bundle.source or PathSource(path=path)
    profile = None if isinstance(bundle, HybridBundle) else bundle.plan.profile
    sidecar = profile.sidecar if profile else None
    return LockedPlan(requested=requested, source=source, plan_digest=bundle.digest, sidecar=sidecar)


def _place(source: Source) -> str:
    if source.kind == "hub":
        return f"{source.repository}@{source.version or source.commit[:12]} ({source.commit[:12]})"
    if source.kind == "path":
        return source.path
    if source.kind == "bundled":
        return f"{source.name} of flashrl-registry"
    return f"{source.name}@{source.version}"
