"""Where documents live: references, bundles, stores. Each name is loaded when it is first used.

``list`` on an empty registry needs neither the compiler nor a store that it does not ask.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flashrl_registry.registry.bundle import PlanBundle, read_bundle, read_profile, write_bundle
    from flashrl_registry.registry.chain import Chain, PlanSource, open_chain
    from flashrl_registry.registry.compiling import compile_file
    from flashrl_registry.registry.lint import Linted, lint_all, lint_reference
    from flashrl_registry.registry.local import LocalStore
    from flashrl_registry.registry.migrate import plan_found, plan_migrations
    from flashrl_registry.registry.open import open_bundle
    from flashrl_registry.registry.ref import HubFileRef, NamedRef, PathRef, PlanRef, PresetRef, parse_ref
    from flashrl_registry.registry.root import default_registry_root
    from flashrl_registry.registry.search import Found, find_documents
    from flashrl_registry.registry.store import Listed, Published, Store
    from flashrl_registry.registry.validate import Verdict, validate_found, validate_paths

_HOME = {
    "Chain": "chain",
    "Found": "search",
    "HubFileRef": "ref",
    "Linted": "lint",
    "Listed": "store",
    "LocalStore": "local",
    "NamedRef": "ref",
    "PathRef": "ref",
    "PlanBundle": "bundle",
    "PlanRef": "ref",
    "PlanSource": "chain",
    "PresetRef": "ref",
    "Published": "store",
    "Store": "store",
    "Verdict": "validate",
    "compile_file": "compiling",
    "default_registry_root": "root",
    "find_documents": "search",
    "lint_all": "lint",
    "lint_reference": "lint",
    "open_bundle": "open",
    "open_chain": "chain",
    "parse_ref": "ref",
    "plan_found": "migrate",
    "plan_migrations": "migrate",
    "read_bundle": "bundle",
    "read_profile": "bundle",
    "validate_found": "validate",
    "validate_paths": "validate",
    "write_bundle": "bundle",
}

__all__ = [
    "Chain",
    "Found",
    "HubFileRef",
    "Linted",
    "Listed",
    "LocalStore",
    "NamedRef",
    "PathRef",
    "PlanBundle",
    "PlanRef",
    "PlanSource",
    "PresetRef",
    "Published",
    "Store",
    "Verdict",
    "compile_file",
    "default_registry_root",
    "find_documents",
    "lint_all",
    "lint_reference",
    "open_bundle",
    "open_chain",
    "parse_ref",
    "plan_found",
    "plan_migrations",
    "read_bundle",
    "read_profile",
    "validate_found",
    "validate_paths",
    "write_bundle",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
