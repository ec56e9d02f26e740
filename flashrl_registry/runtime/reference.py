"""What FLASHRL_CONFIG may name: our references, a lock, and FlashRL's own config file.

A ``flashrl_config.yaml`` is compiled for the engine's own bf16 model, and the plans are kept beside the local registry
under their digest: every replica, a restart and ``flashrl-registry show`` find the same bytes there.
"""

import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from flashrl_registry.documents import Hybrid, Inventory, Plan, claimed_kind, read_document
from flashrl_registry.documents.io import read_text
from flashrl_registry.errors import FlashRLError, InteropError, InvalidRefError, ResolutionError, StoreUnavailableError
from flashrl_registry.interop.detect import Source, detect
from flashrl_registry.interop.drafts import HYBRID_YAML
from flashrl_registry.interop.locate import locate
from flashrl_registry.registry import PathRef, PlanRef, parse_ref, read_bundle
from flashrl_registry.registry.local import REGISTRY_VARIABLE
from flashrl_registry.registry.locking import LOCK_FILE
from flashrl_registry.registry.plan_folders import PLAN_YAML
from flashrl_registry.resolver import lock_in_place, locked_reference
from flashrl_registry.runtime.log import logger

IMPORTED = ".imported"
"""Folder under the registry's root; no published name starts with a dot."""

_SHOWN = 80

# FlashRL's rule: owner/repo and then a path. Ours have two segments, and a file's ending says that it is one.
_ON_THE_HUB = re.compile(r"[A-Za-z0-9][^/\s]*/[^/\s]+(/[^/\s]+)+\.ya?ml")


def plan_reference(config: str, registry: Path, model: Callable[[], Inventory | None]) -> PlanRef:
    """The plan, or the hybrid, that a value of FLASHRL_CONFIG names.

    Args:
        config: The value.
        registry: Root of the local registry.
        model: Reads the headers of the engine's model; called for a FlashRL config only.

    Returns:
        A reference of ours; it pins a digest where the value leads to one plan.

    Raises:
        FlashRLError: It names nothing, or what it names cannot be read or compiled for the model.
    """
    try:
        return _find(config, registry, model)
    except OSError as exc:
        shown = config if len(config) <= _SHOWN else f"{config[:_SHOWN]}..."
        raise InvalidRefError(
            f"'{shown}' is not a plan reference: {exc.strerror or exc}",
            hint="name a scheme (int8), a path (./plan) or a published plan (namespace/name@version)",
            context={"ref": config},
        ) from exc


def _find(config: str, registry: Path, model: Callable[[], Inventory | None]) -> PlanRef:
    locked = locked_reference(config)
    if locked is not None:
        logger.info("%s pins %s", config, locked)
        return locked
    locked = lock_in_place(config, Path())
    if locked is not None:
        logger.info("%s is %s: %s in the working folder locks it", config, locked, LOCK_FILE)
        return locked
    found = find_flashrl_config(config)
    return parse_ref(config) if found is None else _imported(found, config, registry, model())


def find_flashrl_config(config: str) -> Source | None:
    """FlashRL's config file, by its rule: an existing path, or ``owner/repo/path/in/repo.yaml`` on the Hub.

    Returns:
        The file; None where the value names something else.

    Raises:
        StoreUnavailableError: The Hub cannot be reached, or has no such file.
        InteropError: The file on the Hub is no FlashRL config.
    """
    path = Path(config).expanduser()
    if path.is_file():
        if path.suffix not in {".yaml", ".yml"} or claimed_kind(read_text(path)) is not None:
            return None
        try:
            found = detect(path)
        except InteropError:
            return None  # of no kind that is known; reading it as a plan names its faults
        return found if found.kind == "flashrl" else None
    if path.exists() or not _ON_THE_HUB.fullmatch(config):
        return None
    found_there = locate(config)
    if claimed_kind(read_text(found_there)) is not None:
        return None  # a document of ours, which its reference leads to by commit
    return detect(found_there, "flashrl")


def _imported(found: Source, config: str, registry: Path, inventory: Inventory | None) -> PlanRef:
    if inventory is None:
        raise ResolutionError(
            f"{config} is compiled for the tensor names of the model, and the model has no safetensors headers",
            hint="give a plan instead, or a model folder with its weights",
        )
    from flashrl_registry.interop.importing import import_for  # the compiler, which no plan of ours needs here

    home = registry / IMPORTED
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home) as scratch:
            imported = import_for(found, inventory, Path(scratch) / "made")
            for note in imported.notes:
                logger.info("%s: %s", config, note)
            name = imported.hybrid.name if imported.hybrid is not None else PLAN_YAML
            digest = read_document(Path(scratch) / "made" / name, Hybrid if imported.hybrid else Plan).compute_digest()
            folder = _keep(Path(scratch) / "made", home / digest.removeprefix("sha256:"))
    except OSError as exc:
        raise StoreUnavailableError(
            f"the plans of {config} cannot be kept in {home}: {exc.strerror or exc}",
            hint=f"make the folder writable, or set {REGISTRY_VARIABLE} to another one",
        ) from exc
    logger.info("%s is compiled for %s: %s", config, inventory.name, folder)
    return PathRef(folder / HYBRID_YAML if imported.hybrid is not None else folder, digest)


def _keep(made: Path, folder: Path) -> Path:
    """Put finished plans in their place; other processes may do the same at this moment."""
    if folder.exists() and not _is_whole(folder, made):
        shutil.rmtree(folder)
    try:
        made.rename(folder)
    except OSError:
        if not folder.exists():
            raise
    return folder


def _is_whole(folder: Path, made: Path) -> bool:
    """Whether what an earlier start left is all there and undamaged."""
    try:
        for plan in made.rglob(PLAN_YAML):
            read_bundle(folder / plan.parent.relative_to(made))
        if (made / HYBRID_YAML).exists():
            read_document(folder / HYBRID_YAML, Hybrid)
    except FlashRLError:
        return False
    return True
