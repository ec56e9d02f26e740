"""Keeping a store sound: hash everything again, and give back what no one refers to."""

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flashrl_registry.documents import Lock, read_document
from flashrl_registry.documents.io import write_atomically
from flashrl_registry.errors import FlashRLError, NotFoundError, RegistryError
from flashrl_registry.registry.chain import CACHE
from flashrl_registry.registry.hybrids import Bundle
from flashrl_registry.registry.local import LocalStore
from flashrl_registry.registry.locking import LOCK_FILE, commits_of
from flashrl_registry.registry.ref import NamedRef
from flashrl_registry.registry.shared_cache import bytes_in, drop_versions
from flashrl_registry.registry.standing import select, standing_of
from flashrl_registry.registry.store import Listed, Store
from flashrl_registry.registry.trust import Trust
from flashrl_registry.registry.url import UrlStore

_LOCKS = "locks"
"""Folder in the cache with the places of locks that were written on this machine."""


@dataclass(frozen=True)
class Verified:
    """One version and whether its bytes are those that were published; or a channel that leads nowhere.

    Attributes:
        ref: ``namespace/name@version``, or ``@channel``.
        digest: Of its plan; None where it is not sound.
        error: What is wrong.
        signed_by: Fingerprints of the trusted keys that signed it, where signatures were asked for.
        is_channel: It is a channel, which points at a version that is not there or was withdrawn.
    """

    ref: str
    digest: str | None
    error: FlashRLError | None = None
    signed_by: tuple[str, ...] = ()
    is_channel: bool = False


def verify(store: Store, trust: Trust | None = None) -> Iterator[Verified]:
    """Read every version of a store and hash all of its files; and every history, with the channels in it.

    Args:
        store: The store.
        trust: Whose signatures every version needs too; None asks for none.
    """
    seen: set[str] = set()
    for line in _lines(store):
        if not isinstance(line, Listed):
            seen.add(ref := str(line.context.get("ref", store.place)))
            yield Verified(ref, None, line)
            continue
        name, _, member = line.name.partition(":")
        channels: list[Verified] = []
        try:
            # A Hub lists a repository by one version; every other one is used, too.
            versions = store.versions(name) if store.kind == "hub" else [line.version]
            if name not in seen:
                seen.add(name)
                channels = list(_lost_channels(store, name))
        except FlashRLError as exc:
            yield Verified(line.ref, None, exc)
            continue
        yield from channels
        for version in versions or [line.version]:
            yield _verified(store, NamedRef(name, version or None, member=member or None), trust)
    yield from _leftovers(store, seen)


def _lines(store: Store) -> Iterator[Listed | FlashRLError]:
    """The listing; what ends it early is its last line, so that what was verified before is still told."""
    first = True
    try:
        for line in store.listing():
            first = False
            yield line
    except FlashRLError as exc:
        if first:
            raise
        yield exc


def _leftovers(store: Store, seen: set[str]) -> Iterator[Verified]:
    """What is wrong with names whose versions were all removed: no line is listed of them."""
    if not isinstance(store, LocalStore | UrlStore):
        return
    try:
        names = [name for name in store.names() if name not in seen]
    except FlashRLError:  # the listing came to the same folder, and said so
        return
    for name in names:
        try:
            lost = [] if store.versions(name) else list(_lost_channels(store, name))
        except FlashRLError as exc:
            lost = [Verified(name, None, exc)]
        yield from lost


def _lost_channels(store: Store, name: str) -> Iterator[Verified]:
    """Channels whose followers would get an error."""
    standing = standing_of(store.history(name))
    versions = store.versions(name) if standing.channels else []
    for channel in sorted(standing.channels):
        try:
            select(NamedRef(name, channel), versions, standing, store.place)
        except NotFoundError as exc:
            yield Verified(f"{name}@{channel}", None, exc, is_channel=True)


def _verified(store: Store, ref: NamedRef, trust: Trust | None) -> Verified:
    try:
        bundle = store.open(ref)
        if trust is not None:
            bundle = _checked(trust, store, ref.name, bundle)
    except FlashRLError as exc:
        return Verified(str(ref), None, exc)
    return Verified(str(ref), bundle.digest, None, bundle.signed_by)


def _checked(trust: Trust, store: Store, name: str, bundle: Bundle) -> Bundle:
    from flashrl_registry.registry.signing import check_trust

    return check_trust(trust, store, name, bundle)


@dataclass(frozen=True)
class Freed:
    """Something in the cache that nothing refers to.

    Attributes:
        what: For people.
        num_bytes: Its size.
    """

    what: str
    num_bytes: int


def collect_garbage(
    root: Path, locks: Sequence[Lock], *, everything: bool = False, dry_run: bool = False
) -> list[Freed]:
    """Remove from the cache what neither a lock nor the last answer of a Hub refers to.

    Of shared stores, which give a version again, that is what no lock pins. Published plans are never touched: only
    what can be fetched again.

    Args:
        root: The registry's folder.
        locks: What they need stays; so does what is needed by ``flashrl.lock`` in this folder and by
            locks that :func:`keep_for` was told of.
        everything: Remove the whole cache, also what locks need.
        dry_run: Only say what would go.

    Returns:
        What was, or would be, removed.

    Raises:
        RegistryError: A lock is damaged, so what it needs is not known; nothing was removed.
    """
    cache = root / CACHE
    if not cache.is_dir():
        return []
    if everything:
        return _drop_all(cache, dry_run=dry_run)
    known = [*locks, *_known_locks(cache, dry_run=dry_run)]
    commits, freed = commits_of(known), list[Freed]()
    for hub in _hubs(cache):
        freed += _collect(hub, commits, dry_run=dry_run)
    versions = drop_versions(cache, known, dry_run=dry_run)
    return [*freed, *(Freed(f"a version of a shared store, {digest[:12]}", size) for digest, size in versions)]


def never_asked(root: Path) -> list[str]:
    """Repositories of which gc removes nothing, because their branches and tags were never asked for."""
    from flashrl_registry.registry.hub_cache import unasked

    return [repo for hub in _hubs(root / CACHE) for repo in unasked(hub)]


def _hubs(cache: Path) -> list[Path]:
    """Folders of Hubs: what was fetched lies there, or what they said."""
    folders = sorted(entry for entry in cache.iterdir() if entry.is_dir()) if cache.is_dir() else []
    return [folder for folder in folders if (folder / "refs").is_dir() or any(folder.glob("models--*"))]


def keep_for(root: Path, file: Path, lock: Lock) -> tuple[str, ...]:
    """Remember where a lock is: what it needs stays in the cache for as long as the file is there.

    Args:
        root: The registry's folder.
        file: The lock's file.
        lock: What is in it.

    Returns:
        What whoever locks should read: empty where it is remembered.
    """
    place = os.fsencode(file.resolve())
    note = root / CACHE / _LOCKS / f"{hashlib.sha256(place).hexdigest()[:16]}.txt"
    if all(entry.source.kind not in {"hub", "url"} for entry in lock.entries) or note.is_file():
        return ()
    try:
        write_atomically(note, place)
    except OSError as exc:
        return (f"{note} cannot be written ({exc.strerror}): give gc --lock {file}, or it removes what the lock needs",)
    return ()


def _known_locks(cache: Path, *, dry_run: bool) -> list[Lock]:
    """The lock of this folder, and those that were noted; a lock that was deleted needs nothing, and its note goes."""
    files = [] if _is_gone(file := Path(LOCK_FILE)) else [file]
    for note in sorted((cache / _LOCKS).glob("*.txt")):
        file = Path(os.fsdecode(note.read_bytes()))
        if not _is_gone(file):
            files.append(file)
        elif not dry_run:
            note.unlink(missing_ok=True)
    return [_read_lock(file) for file in files]


def _is_gone(file: Path) -> bool:
    try:
        file.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last: no path at all
        return True
    except OSError:  # it may be there: reading it says what is wrong
        return False
    return False


def _read_lock(file: Path) -> Lock:
    try:
        return read_document(file, Lock)
    except FlashRLError as exc:
        raise RegistryError(
            f"nothing was removed: what a lock needs is not known, because it cannot be read: {exc.message}",
            hint=f"mend {file} or delete it; gc --all removes everything, whatever locks need",
            context={**exc.context, "lock": str(file)},
        ) from exc


def _drop_all(cache: Path, *, dry_run: bool) -> list[Freed]:
    """The whole cache but for where locks are: once a lock is pulled again, it is safe from the next collection."""
    inside = [entry for entry in sorted(cache.iterdir()) if entry.name != _LOCKS]
    freed = [Freed(str(cache), sum(bytes_in(entry) for entry in inside))] if inside else []
    if not dry_run:
        for entry in inside:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    return freed


def _collect(hub: Path, kept: set[str], *, dry_run: bool) -> list[Freed]:
    from flashrl_registry.registry.hub_cache import drop_commits

    return [Freed(f"{repo} at {commit[:12]}", size) for repo, commit, size in drop_commits(hub, kept, dry_run=dry_run)]
