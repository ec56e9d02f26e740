"""What a push would do, without doing it."""

from dataclasses import dataclass
from typing import Literal

from flashrl_registry.compiler import PlanDiff, diff_plans
from flashrl_registry.errors import NotFoundError
from flashrl_registry.registry.bundle import PlanBundle
from flashrl_registry.registry.folders import check_name
from flashrl_registry.registry.hybrids import Bundle
from flashrl_registry.registry.ref import NamedRef, in_order
from flashrl_registry.registry.standing import highest, standing_of
from flashrl_registry.registry.store import Store
from flashrl_registry.registry.url import UrlStore


@dataclass(frozen=True)
class Preview:
    """What a push would do.

    Attributes:
        state: ``new``: it would be published. ``same``: it is there already, nothing would change. ``taken``: another
            plan has the version, and the push would be refused.
        base: The version that it is compared with; None for the first one.
        changes: From that to this.
        lower: Versions that are higher already, where the push would publish an older one.
    """

    state: Literal["new", "same", "taken"]
    base: str | None
    changes: PlanDiff | None
    lower: tuple[str, ...] = ()


def preview(store: Store, bundle: Bundle, name: str, version: str) -> Preview:
    """Compare a bundle with what a store has.

    Raises:
        InvalidRefError: The name or the version is malformed.
        RegistryError: The store cannot be read.
    """
    check_name(name, version)
    try:
        versions = [] if isinstance(store, UrlStore) and store.is_new() else in_order(store.versions(name))
    except NotFoundError:
        versions = []
    if version in versions:
        there = store.open(NamedRef(name, version))
        state: Literal["same", "taken"] = "same" if there.digest == bundle.digest else "taken"
        return Preview(state, version, _changes(there, bundle))
    base = highest(versions, standing_of(store.history(name))) if versions else None
    changes = _changes(store.open(NamedRef(name, base)), bundle) if base else None
    above = in_order([version, *versions])
    return Preview("new", base, changes, tuple(above[above.index(version) + 1 :]))


def _changes(before: Bundle, after: Bundle) -> PlanDiff | None:
    """Of two plans; hybrids are compared member by member with ``diff``."""
    if isinstance(before, PlanBundle) and isinstance(after, PlanBundle):
        return diff_plans(before.plan, after.plan)
    return None
