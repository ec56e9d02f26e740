"""Where documents live: references, bundles, stores."""

from flashrl_registry.registry.bundle import PlanBundle, read_bundle, write_bundle
from flashrl_registry.registry.local import LocalStore, Published
from flashrl_registry.registry.ref import NamedRef, PathRef, PlanRef, PresetRef, parse_ref

__all__ = [
    "LocalStore",
    "NamedRef",
    "PathRef",
    "PlanBundle",
    "PlanRef",
    "PresetRef",
    "Published",
    "parse_ref",
    "read_bundle",
    "write_bundle",
]
