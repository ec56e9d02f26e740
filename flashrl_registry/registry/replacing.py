"""Plans that are written into a folder of the user's: nothing that lies there is replaced unasked.

What lies there as it was published may go: the store has it still. That is asked file by file, so a folder is known,
too, whose replacement was stopped in between and which holds some files of each of two versions.
"""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from flashrl_registry.documents.lock import LocalSource, UrlSource
from flashrl_registry.errors import FlashRLError, RegistryError
from flashrl_registry.registry.bundle import PlanBundle
from flashrl_registry.registry.chain import Chain
from flashrl_registry.registry.formerly import published_in
from flashrl_registry.registry.hybrids import Bundle, read_any_bundle, write_any_bundle
from flashrl_registry.registry.plan_folders import (
    PROFILE_YAML,
    refuse_folder,
    refuse_hybrid_folder,
    replaced_profile,
    without_replaced_profile,
)
from flashrl_registry.registry.ref import NamedRef


def copy_bundle(bundle: Bundle, folder: Path, stores: Chain, *, force: bool = False) -> tuple[Path, ...]:
    """Write a plan that was found into a folder, and read it back.

    What was published before and lies there goes: a profile that the plan does not use, members that a hybrid has no
    more.

    Args:
        bundle: The plan or the hybrid.
        folder: Created where missing.
        stores: Where it was found; another version of it that lies in the folder as it was published is replaced.
        force: Replace whatever plan lies there.

    Returns:
        The files written.

    Raises:
        RegistryError: The folder holds a plan that is nobody's published one, or of which the store does not say so,
            and would be lost; or as :func:`write_any_bundle`.
    """
    _refuse(bundle, folder)
    new = _documents(bundle)
    former: list[Bundle] = []
    if changed := [name for name, data in new.items() if _differs(folder / name, data)]:
        former = _former(bundle, folder, changed, stores, force=force)
    old = [_documents(version) for version in former]
    gone = sorted({name for documents in old for name in documents} | _profiles(bundle, folder, changed))
    gone = [name for name in gone if name not in new and (folder / name).is_file()]
    if not force:
        kept = [name for name in sorted([*changed, *gone]) if not any(_is(folder / name, d.get(name)) for d in old)]
        if kept:
            raise not_replaced(folder, kept, "was changed since, or is none that was published under this name")
    with ExitStack() as replaced:
        if changed:
            for place, plan in _plans(bundle).items():
                replaced.enter_context(without_replaced_profile(folder / place, plan.plan))
        files = write_any_bundle(folder, bundle)
        read_any_bundle(folder)
    _remove_members(folder, bundle, former, [name for name in gone if (folder / name).is_file()])
    return files


def would_replace(folder: Path, write: Callable[[Path], object]) -> list[str]:
    """Files in a folder that would hold something else afterwards.

    Args:
        folder: Where to write; need not exist.
        write: Writes the same files into the folder that it is given.
    """
    return [name for name, data in _made_by(write).items() if _differs(folder / name, data)]


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


def _former(bundle: Bundle, folder: Path, changed: list[str], stores: Chain, *, force: bool) -> list[Bundle]:
    """Published versions of which the folder holds files.

    Raises:
        RegistryError: The store does not say, and what is there must not be lost.
    """
    ref = _name_of(bundle)
    try:
        return published_in(folder, stores.store_of(ref), ref, but=bundle.digest) if ref is not None else []
    except FlashRLError as exc:
        if force:
            return []
        what = f"may hold changes that nobody else has: what was published cannot be told ({exc.message})"
        raise not_replaced(folder, changed, what) from exc


def _refuse(bundle: Bundle, folder: Path) -> None:
    """Refuse what writing the bundle would, before anything is removed."""
    if not isinstance(bundle, PlanBundle):
        refuse_hybrid_folder(folder)
    for place, plan in _plans(bundle).items():
        refuse_folder(folder / place, plan.plan, plan.profile, replacing=True)


def _profiles(bundle: Bundle, folder: Path, changed: list[str]) -> set[str]:
    """Documents of profiles that go with the plans that are replaced."""
    plans = _plans(bundle).items() if changed else ()
    files = [file for place, plan in plans for file in replaced_profile(folder / place, plan.plan)]
    return {file.relative_to(folder).as_posix() for file in files if file.name == PROFILE_YAML}


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


def _plans(bundle: Bundle) -> Mapping[str, PlanBundle]:
    """Folder to the plan in it."""
    return {"": bundle} if isinstance(bundle, PlanBundle) else bundle.plans


def _documents(bundle: Bundle) -> dict[str, bytes]:
    """What writing it makes, without vectors, which carry their hash in their name."""
    bare: Bundle
    if isinstance(bundle, PlanBundle):
        bare = replace(bundle, sidecar=None)
    else:
        bare = replace(bundle, plans={name: replace(plan, sidecar=None) for name, plan in bundle.plans.items()})
    return _made_by(lambda place: write_any_bundle(place, bare))


def _made_by(write: Callable[[Path], object]) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory(prefix="flashrl-compare-") as scratch:
        made = Path(scratch) / "made"
        write(made)
        files = sorted(file for file in made.rglob("*") if file.is_file())
        return {file.relative_to(made).as_posix(): file.read_bytes() for file in files}


def _differs(there: Path, new: bytes) -> bool:
    return there.is_file() and not _is(there, new)


def _is(there: Path, data: bytes | None) -> bool:
    return data is not None and there.read_bytes() == data


def _remove_members(folder: Path, bundle: Bundle, former: list[Bundle], gone: list[str]) -> None:
    """Remove what is left of a hybrid's members that it has no more; what else lies there stays, with its folder."""
    for name in gone:
        (folder / name).unlink()
    for version in former:
        for place, plan in _plans(version).items():
            if place in _plans(bundle):
                continue
            vectors = folder / place / plan.sidecar.name if plan.sidecar is not None else None
            if vectors is not None and vectors.is_file():
                vectors.unlink()
            if (folder / place).is_dir() and not any((folder / place).iterdir()):
                (folder / place).rmdir()
