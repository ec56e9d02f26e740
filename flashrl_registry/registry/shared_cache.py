"""What of shared stores is kept on this machine: files of versions that were fetched."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from flashrl_registry.documents import Hybrid, Lock, read_document
from flashrl_registry.errors import FlashRLError, RegistryError
from flashrl_registry.registry.plan_folders import HYBRID_YAML, PLAN_JSON

VERSIONS = "versions"
"""Folder in the cache: in it one for each version, named by its manifest's digest."""


def drop_versions(cache: Path, locks: Sequence[Lock], *, dry_run: bool) -> list[tuple[str, int]]:
    """Remove versions of shared stores that no lock pins.

    Args:
        cache: The registry's.
        locks: What they pin stays.
        dry_run: Only say what would go.

    Returns:
        Which, by its manifest's digest, and the bytes that are freed.

    Raises:
        RegistryError: A version's files cannot be read.
    """
    pinned = {entry.plan_digest for lock in locks for entry in lock.entries}
    dropped = []
    folders = (cache / VERSIONS).iterdir() if (cache / VERSIONS).is_dir() else ()
    for folder in sorted(entry for entry in folders if entry.is_dir() and not entry.is_symlink()):
        if _digests_in(folder) & pinned:
            continue
        dropped.append((folder.name, bytes_in(folder)))
        if not dry_run:
            shutil.rmtree(folder)
    return dropped


def bytes_in(place: Path) -> int:
    """Size of a file, or of all files in a folder; links count nothing.

    Raises:
        RegistryError: It cannot be read.
    """
    try:
        files = place.rglob("*") if place.is_dir() else [place]
        return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())
    except OSError as exc:
        raise RegistryError(f"{place} cannot be read: {exc.strerror}") from exc


def _digests_in(folder: Path) -> set[str]:
    """Digests by which a lock may pin what lies there: of plans, and of a hybrid; none of what was damaged."""
    found = set()
    for file in [*folder.rglob(PLAN_JSON), *folder.glob(HYBRID_YAML)]:
        try:
            found.add(_digest_of(file))
        except (FlashRLError, OSError, ValueError, AttributeError):
            continue
    return found


def _digest_of(file: Path) -> str:
    if file.name == HYBRID_YAML:
        return read_document(file, Hybrid).compute_digest()
    return str(json.loads(file.read_bytes()).get("digest"))
