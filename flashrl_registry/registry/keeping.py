"""Keeping a store sound: hash everything again, and give back what no one refers to."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flashrl_registry.documents import Lock
from flashrl_registry.errors import FlashRLError, RegistryError
from flashrl_registry.registry.chain import CACHE
from flashrl_registry.registry.hybrids import Bundle
from flashrl_registry.registry.locking import commits_of
from flashrl_registry.registry.ref import NamedRef
from flashrl_registry.registry.store import Listed, Store
from flashrl_registry.registry.trust import Trust


@dataclass(frozen=True)
class Verified:
    """One version and whether its bytes are those that were published.

    Attributes:
        ref: ``namespace/name@version``.
        digest: Of its plan; None where it is not sound.
        error: What is wrong.
        signed_by: Fingerprints of the trusted keys that signed it, where signatures were asked for.
    """

    ref: str
    digest: str | None
    error: FlashRLError | None = None
    signed_by: tuple[str, ...] = ()


def verify(store: Store, trust: Trust | None = None) -> Iterator[Verified]:
    """Read every version of a store and hash all of its files; and every history.

    Args:
        store: The store.
        trust: Whose signatures every version needs too; None asks for none.
    """
    seen: set[str] = set()
    for line in store.listing():
        if not isinstance(line, Listed):
            yield Verified(str(line.context.get("ref", store.place)), None, line)
            continue
        name, _, member = line.name.partition(":")
        try:
            if name not in seen:
                seen.add(name)
                store.history(name)
            # A Hub lists a repository by one version; every other one is used, too.
            versions = store.versions(name) if store.kind == "hub" else [line.version]
        except FlashRLError as exc:
            yield Verified(line.ref, None, exc)
            continue
        for version in versions or [line.version]:
            yield _verified(store, NamedRef(name, version or None, member=member or None), trust)


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

    Published plans are never touched: only what can be fetched again.

    Args:
        root: The registry's folder.
        locks: Their commits stay.
        everything: Remove the whole cache.
        dry_run: Only say what would go.

    Returns:
        What was, or would be, removed.
    """
    cache = root / CACHE
    if not cache.is_dir():
        return []
    if everything:
        found = [Freed(str(cache), _size(cache))]
        if not dry_run:
            shutil.rmtree(cache)
        return found
    kept = commits_of(locks)
    freed: list[Freed] = []
    for hub in sorted(entry for entry in cache.iterdir() if entry.is_dir() and (entry / "refs").is_dir()):
        freed += _collect(hub, kept, dry_run=dry_run)
    return freed


def _collect(hub: Path, kept: set[str], *, dry_run: bool) -> list[Freed]:
    from flashrl_registry.registry.hub_client import drop_commits

    return [Freed(f"{repo} at {commit[:12]}", size) for repo, commit, size in drop_commits(hub, kept, dry_run=dry_run)]


def _size(folder: Path) -> int:
    try:
        return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_symlink())
    except OSError as exc:
        raise RegistryError(f"{folder} cannot be read: {exc.strerror}") from exc
