"""Plans that are written into a folder of the user's: nothing that lies there is replaced unasked."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from flashrl_registry.documents.lock import LocalSource, UrlSource
from flashrl_registry.errors import FlashRLError, RegistryError
from flashrl_registry.registry.bundle import PlanBundle
from flashrl_registry.registry.chain import Chain
from flashrl_registry.registry.hybrids import Bundle, read_any_bundle, write_any_bundle
from flashrl_registry.registry.ref import NamedRef
from flashrl_registry.registry.standing import standing_of


def copy_bundle(bundle: Bundle, folder: Path, stores: Chain, *, force: bool = False) -> tuple[Path, ...]:
    """Write a plan that was found into a folder, and read it back.

    Args:
        bundle: The plan or the hybrid.
        folder: Created where missing.
        stores: Where it was found; another version of it that lies in the folder as it was published is replaced.
        force: Replace whatever plan lies there.

    Returns:
        The files written.

    Raises:
        RegistryError: The folder holds a plan that is nobody's published one, and would be lost; or as
            :func:`write_any_bundle`.
    """
    if not force:
        changed = _replaced_by(bundle, folder)
        if changed and not _lies_as_published(folder, bundle, stores):
            what = "was changed since, or is none that was published under this name"
            raise not_replaced(folder, changed, what)
    files = write_any_bundle(folder, bundle)
    read_any_bundle(folder)
    return files


def would_replace(folder: Path, write: Callable[[Path], object]) -> list[str]:
    """Files in a folder that would hold something else afterwards.

    Args:
        folder: Where to write; need not exist.
        write: Writes the same files into the folder that it is given.
    """
    if not folder.is_dir():
        return []
    with tempfile.TemporaryDirectory(prefix="flashrl-compare-") as scratch:
        made = Path(scratch) / "made"
        write(made)
        names = sorted(file.relative_to(made).as_posix() for file in made.rglob("*") if file.is_file())
        return [name for name in names if _differs(folder / name, made / name)]


def not_replaced(folder: Path, names: list[str], what: str) -> RegistryError:
    """The error for files that nobody asked to replace.

    Args:
        folder: Where they lie.
        names: Which.
        what: Of the plan there: why it may be the only copy.
    """
    return RegistryError(
        f"the plan in {folder} {what}, so it is not replaced: {', '.join(names)}",
        hint="give another folder with -o, or replace it with --force; nothing was changed",
        context={"folder": str(folder), "files": names},
    )


def _differs(there: Path, new: Path) -> bool:
    try:
        return there.read_bytes() != new.read_bytes()
    except FileNotFoundError:
        return False


def _lies_as_published(folder: Path, bundle: Bundle, stores: Chain) -> bool:
    """Whether the folder holds a version of the same name, byte for byte; False where the store cannot tell."""
    try:
        there = read_any_bundle(folder)
        ref = _name_of(bundle)
        if ref is None:
            return False
        store = stores.store_of(ref)
        digests = standing_of(store.history(ref.name)).digests
        for version in reversed(store.versions(ref.name)):
            if digests.get(version, there.digest) != there.digest and ref.member is None:
                continue
            published = store.open(replace(ref, version=version))
            if published.digest == there.digest:
                return not _replaced_by(published, folder)
    except FlashRLError:
        return False
    return False


def _name_of(bundle: Bundle) -> NamedRef | None:
    """Under which name, and where, it is published; None for what has no versions."""
    source = bundle.source
    if isinstance(source, LocalSource):
        return NamedRef(source.name, member=source.member)
    if isinstance(source, UrlSource):
        return NamedRef(source.name, member=source.member, store="url", endpoint=source.url)
    if source is not None and source.kind == "hub" and source.path is None:
        return NamedRef(source.repository, member=source.member, store="hub", endpoint=source.endpoint)
    return None


def _replaced_by(bundle: Bundle, folder: Path) -> list[str]:
    """Documents that writing the bundle would replace; vectors carry their hash in their name."""
    bare = _without_vectors(bundle)
    return would_replace(folder, lambda place: write_any_bundle(place, bare))


def _without_vectors(bundle: Bundle) -> Bundle:
    if isinstance(bundle, PlanBundle):
        return replace(bundle, sidecar=None)
    return replace(bundle, plans={name: replace(plan, sidecar=None) for name, plan in bundle.plans.items()})
