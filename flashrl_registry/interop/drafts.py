"""Compiled plans whose files are not written yet, and writing them: all of them or none, and over nobody's."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flashrl_registry.documents import Hybrid, HybridMember, Plan, Profile, Rules, SchemeName, write_document
from flashrl_registry.interop.flashrl_config import FlashRLConfig
from flashrl_registry.registry import write_bundle
from flashrl_registry.registry.plan_folders import refuse_folder, refuse_hybrid_folder, without_replaced_profile
from flashrl_registry.registry.replacing import not_replaced, would_replace

EXTENSION = "x-flashrl"
"""Key under which a document keeps what a FlashRL config said and no plan needs; it comes out again at export."""

HYBRID_YAML, RULES_YAML = "hybrid.yaml", "rules.yaml"


@dataclass(frozen=True)
class ImportedPlan:
    """One plan of an import.

    Attributes:
        name: Its member name in a hybrid; the scheme otherwise.
        folder: Its bundle.
        plan: Sealed.
    """

    name: str
    folder: Path
    plan: Plan


@dataclass
class Draft:
    """A compiled plan whose files are not written yet.

    Attributes:
        scheme: What most of it gets; names it.
        plan: Sealed.
        profile: Its profile, where it has one.
        sidecar: The profile's vectors.
        rules: What it was compiled from, where a reader should see them beside it.
    """

    scheme: SchemeName
    plan: Plan
    profile: Profile | None = None
    sidecar: Path | None = None
    rules: Rules | None = None


def with_extensions(drafts: Sequence[Draft], config: FlashRLConfig) -> list[Draft]:
    """Every plan with the entry that it was made of; it does not count in the plan's digest."""
    for draft, entry in zip(drafts, config.entries, strict=True):
        kept: dict[str, Any] = {"config": dict(entry.values)}
        if len(drafts) == 1 and config.others:
            kept["beside_configs"] = dict(config.others)
        draft.plan = draft.plan.model_copy(update={EXTENSION: kept})
    return list(drafts)


def refuse_replacing(drafts: Sequence[Draft], config: FlashRLConfig | None, output: Path) -> None:
    """Refuse to replace what lies there by something else; arguments as of :func:`write_drafts`.

    Raises:
        RegistryError: It would be; or as :func:`write_drafts`.
    """
    _places(drafts, config, output)
    bare = [replace(draft, sidecar=None) for draft in drafts]  # vectors carry their hash in their name
    changed = would_replace(output, lambda place: write_drafts(bare, config, place))
    if changed:
        raise not_replaced(output, changed, "is another one")


def write_drafts(
    drafts: Sequence[Draft], config: FlashRLConfig | None, output: Path, *, replacing: bool = False
) -> tuple[tuple[ImportedPlan, ...], Path | None]:
    """Write one plan into a folder, several into folders of it beside the hybrid that names them.

    Args:
        drafts: The plans.
        config: The FlashRL config that they are from, where they are.
        output: Created where missing.
        replacing: The profiles of plans that are replaced go with them.

    Returns:
        What was written, and the hybrid's file.

    Raises:
        RegistryError: The folder holds what cannot lie beside it; nothing was written.
    """
    places = _places(drafts, config, output, replacing=replacing)
    plans = tuple(
        _write(draft, name, folder, replacing=replacing) for draft, (name, folder) in zip(drafts, places, strict=True)
    )
    if config is None or len(drafts) == 1:
        return plans, None
    members = [HybridMember(name=plan.name, plan=f"./{plan.name}", digest=plan.plan.digest) for plan in plans]
    hybrid = Hybrid(members=members)
    if config.others:
        hybrid = hybrid.model_copy(update={EXTENSION: {"beside_configs": dict(config.others)}})
    write_document(hybrid, output / HYBRID_YAML)
    return plans, output / HYBRID_YAML


def _places(
    drafts: Sequence[Draft], config: FlashRLConfig | None, output: Path, *, replacing: bool = False
) -> list[tuple[str, Path]]:
    """Name and folder of each plan.

    Raises:
        RegistryError: One of the folders holds what the plan cannot lie beside.
    """
    if config is None or len(drafts) == 1:
        refuse_folder(output, drafts[0].plan, drafts[0].profile, replacing=replacing)
        return [(drafts[0].scheme, output)]
    refuse_hybrid_folder(output)
    places: list[tuple[str, Path]] = []
    for draft in drafts:
        same = sum(name.partition("-")[0] == draft.scheme for name, _ in places)
        name = f"{draft.scheme}-{same + 1}" if same else draft.scheme
        refuse_folder(output / name, draft.plan, draft.profile, replacing=replacing)
        places.append((name, output / name))
    return places


def _write(draft: Draft, name: str, folder: Path, *, replacing: bool) -> ImportedPlan:
    with without_replaced_profile(folder, draft.plan) if replacing else nullcontext():
        write_bundle(folder, draft.plan, profile=draft.profile, sidecar=draft.sidecar)
    if draft.rules is not None:
        write_document(draft.rules, folder / RULES_YAML)
    return ImportedPlan(name, folder, draft.plan)
