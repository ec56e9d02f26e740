"""Where documents live: references, bundles, stores."""

from flashrl_registry.registry.bundle import PlanBundle, read_bundle, read_profile, write_bundle
from flashrl_registry.registry.compiling import compile_file
from flashrl_registry.registry.lint import Linted, lint_reference
from flashrl_registry.registry.local import LocalStore, default_registry_root
from flashrl_registry.registry.migrate import plan_migrations
from flashrl_registry.registry.open import open_bundle
from flashrl_registry.registry.ref import HubFileRef, NamedRef, PathRef, PlanRef, PresetRef, parse_ref
from flashrl_registry.registry.store import Listed, Published, Store
from flashrl_registry.registry.validate import Verdict, validate_paths

__all__ = [
    "HubFileRef",
    "Linted",
    "Listed",
    "LocalStore",
    "NamedRef",
    "PathRef",
    "PlanBundle",
    "PlanRef",
    "PresetRef",
    "Published",
    "Store",
    "Verdict",
    "compile_file",
    "default_registry_root",
    "lint_reference",
    "open_bundle",
    "parse_ref",
    "plan_migrations",
    "read_bundle",
    "read_profile",
    "validate_paths",
    "write_bundle",
]
