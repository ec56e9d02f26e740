"""Where documents live: references, bundles, stores."""

from flashrl_registry.registry.bundle import PlanBundle, read_bundle, read_profile, write_bundle
from flashrl_registry.registry.chain import Chain, PlanSource, open_chain
from flashrl_registry.registry.compiling import compile_file
from flashrl_registry.registry.lint import Linted, lint_all, lint_reference
from flashrl_registry.registry.local import LocalStore, default_registry_root
from flashrl_registry.registry.migrate import plan_found, plan_migrations
from flashrl_registry.registry.open import open_bundle
from flashrl_registry.registry.ref import HubFileRef, NamedRef, PathRef, PlanRef, PresetRef, parse_ref
from flashrl_registry.registry.search import Found, find_documents
from flashrl_registry.registry.store import Listed, Published, Store
from flashrl_registry.registry.validate import Verdict, validate_found, validate_paths

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
