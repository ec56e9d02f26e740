"""Locks: what references mean now, written down; and whether they still mean it."""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from flashrl_registry.documents import Lock, LockedPlan, read_document, write_atomically, yaml_text
from flashrl_registry.documents.lock import PathSource, Source
from flashrl_registry.errors import FlashRLError, InvalidRefError, StoreUnavailableError
from flashrl_registry.registry.chain import PlanSource
from flashrl_registry.registry.hybrids import Bundle, HybridBundle
from flashrl_registry.registry.open import open_any
from flashrl_registry.registry.ref import PathRef, PresetRef, parse_ref

LOCK_FILE = "flashrl.lock"
_WAIT_SECONDS = 60.0


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
        references: As programs write them.
        store: The chain of stores.
        folder: The lock's folder; relative paths are relative to it.

    Returns:
        The lock, and the plans in its order; all of their files are here now.

    Raises:
        InvalidRefError: A scheme name, which means another plan for every model.
        FlashRLError: A reference leads nowhere.
    """
    found = {text: _resolved(text, store, folder) for text in sorted(set(references))}
    return Lock(entries=[entry for entry, _ in found.values()]), [bundle for _, bundle in found.values()]


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
    found = [_again(entry, store, folder) for entry in lock.entries]
    return Lock(entries=[entry for entry, _ in found]), [bundle for _, bundle in found]


def merged(old: Lock | None, new: Lock) -> Lock:
    """A lock with entries replaced and added; what was not locked again stays."""
    entries = {entry.requested: entry for entry in [*(old.entries if old else []), *new.entries]}
    return Lock(entries=[entries[requested] for requested in sorted(entries)])


def update_lock(file: Path, new: Lock) -> Lock:
    """Put entries into a lock's file; what other processes lock at the same time stays.

    Args:
        file: Created where missing; YAML by its ending, else JSON.
        new: The entries.

    Returns:
        What is in the file now.

    Raises:
        DocumentError: The file is damaged.
        StoreUnavailableError: Another process kept it.
    """
    key = hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16]
    # Not beside the lock: a file that nobody removes would lie in every repository.
    guard = FileLock(Path(tempfile.gettempdir()) / f"flashrl-lock-{key}", timeout=_WAIT_SECONDS, mode=0o666)
    try:
        with guard:
            locked = merged(read_document(file, Lock) if file.exists() else None, new)
            as_yaml = file.suffix in {".yaml", ".yml"}
            write_atomically(file, yaml_text(locked).encode() if as_yaml else locked.json_file())
    except Timeout as exc:
        raise StoreUnavailableError(
            f"another process has been writing {file} for {_WAIT_SECONDS:.0f} seconds", hint="try again"
        ) from exc
    return locked


def commits_of(locks: Sequence[Lock]) -> set[str]:
    """Hub commits that locks need."""
    return {entry.source.commit for lock in locks for entry in lock.entries if entry.source.kind == "hub"}


def _again(entry: LockedPlan, store: PlanSource, folder: Path) -> tuple[LockedPlan, Bundle]:
    if not isinstance(entry.source, PathSource):
        return _resolved(entry.requested, store, folder)
    bundle = open_any(PathRef(folder / Path(entry.source.path).expanduser()), store)
    return lock_bundle(entry.requested, bundle, entry.source.path), bundle


def _resolved(text: str, store: PlanSource, folder: Path) -> tuple[LockedPlan, Bundle]:
    ref = parse_ref(text)
    if isinstance(ref, PresetRef):
        raise InvalidRefError(
            f"'{text}' is a scheme name: it means another plan for every model, so there is nothing to lock",
            hint=f"compile it for the model and lock that: flashrl-registry compile -m MODEL --scheme {text} -o DIR",
        )
    bundle = open_any(ref, store)
    path = str(ref.path) if isinstance(ref, PathRef) else ""
    if path and not Path(path).is_absolute():
        path = os.path.relpath(path, folder)
    return lock_bundle(text, bundle, path), bundle


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
