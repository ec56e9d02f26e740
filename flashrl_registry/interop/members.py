"""What an export starts from: one plan, or the plans of a hybrid."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flashrl_registry.documents import Hybrid, SchemeName, canonical_scheme, claimed_kind, read_document
from flashrl_registry.documents.io import read_text
from flashrl_registry.errors import IntegrityError
from flashrl_registry.interop.drafts import EXTENSION, HYBRID_YAML
from flashrl_registry.registry import PlanBundle, PlanSource, open_bundle, parse_ref, read_bundle


@dataclass(frozen=True)
class Member:
    """A plan and its share of the replicas.

    Attributes:
        name: Its name in a hybrid.
        bundle: The plan; None for a member that is only a scheme name.
        scheme: The scheme name, where there is no bundle.
        weight: Entries that it gets in a FlashRL config.
    """

    name: str
    bundle: PlanBundle | None
    scheme: SchemeName | None = None
    weight: int = 1


@dataclass(frozen=True)
class Members:
    """Plans in the order in which replicas take them.

    Attributes:
        members: At least one.
        beside_configs: Keys that a FlashRL config had beside ``configs``, kept by the hybrid.
    """

    members: tuple[Member, ...]
    beside_configs: dict[str, Any] = field(default_factory=dict)


def members_of(ref: str, store: PlanSource) -> Members:
    """Read the plan that a reference names, or all plans of a hybrid.

    Args:
        ref: A plan reference, or the path of a hybrid document or of the folder that holds ``hybrid.yaml``.
        store: One store, or the chain of them.

    Raises:
        RegistryError: A plan is not there, or is not the one that its digest pins.
        DocumentError: A document is malformed.
    """
    path = Path(ref).expanduser()
    file = path / HYBRID_YAML if (path / HYBRID_YAML).is_file() else path
    if not file.is_file() or claimed_kind(read_text(file)) != Hybrid.KIND:
        return Members((Member("plan", open_bundle(parse_ref(ref), store)),))
    hybrid = read_document(file, Hybrid)
    members = []
    for member in hybrid.members:
        scheme = canonical_scheme(member.plan)
        if scheme is not None:
            members.append(Member(member.name, None, scheme, member.weight))
            continue
        in_folder = file.parent / member.plan
        bundle = read_bundle(in_folder) if member.is_path else open_bundle(parse_ref(member.plan), store)
        actual = bundle.plan.digest
        if member.digest is not None and member.digest != actual:
            raise IntegrityError(
                f"{file}: member '{member.name}' is another plan: expected {member.digest}, actual {actual}",
                hint="the plan was compiled again; write its new digest, or restore it",
                context={"expected": member.digest, "actual": actual},
            )
        members.append(Member(member.name, bundle, None, member.weight))
    kept = (hybrid.model_extra or {}).get(EXTENSION)
    beside = kept.get("beside_configs") if isinstance(kept, dict) else None
    return Members(tuple(members), beside if isinstance(beside, dict) else {})
