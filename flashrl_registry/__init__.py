"""flashrl-registry: declarative plans that run RL rollouts in 8 bits inside vLLM.

``checkpoint pair -> Profile -> Plan -> Registry -> ResolvedPlan -> vLLM``. Importing this package imports neither
torch nor vllm; each name is loaded when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flashrl_registry.compiler import compile_plan, preset_rules
    from flashrl_registry.documents import Plan, Profile, ResolvedPlan, Rules
    from flashrl_registry.errors import FlashRLError
    from flashrl_registry.profiling import profile_pair
    from flashrl_registry.registry import LocalStore, parse_ref
    from flashrl_registry.runtime.divergences import mismatch
    from flashrl_registry.runtime.pinning import pin
    from flashrl_registry.runtime.reporting import status, status_async
    from flashrl_registry.runtime.updates import updating, updating_async, verify, verify_async

__version__ = "0.1.0"

_HOME = {
    "FlashRLError": "errors",
    "LocalStore": "registry",
    "Plan": "documents",
    "Profile": "documents",
    "ResolvedPlan": "documents",
    "Rules": "documents",
    "compile_plan": "compiler",
    "mismatch": "runtime.divergences",
    "parse_ref": "registry",
    "pin": "runtime.pinning",
    "preset_rules": "compiler",
    "profile_pair": "profiling",
    "status": "runtime.reporting",
    "status_async": "runtime.reporting",
    "updating": "runtime.updates",
    "updating_async": "runtime.updates",
    "verify": "runtime.updates",
    "verify_async": "runtime.updates",
}

__all__ = [
    "FlashRLError",
    "LocalStore",
    "Plan",
    "Profile",
    "ResolvedPlan",
    "Rules",
    "compile_plan",
    "mismatch",
    "parse_ref",
    "pin",
    "preset_rules",
    "profile_pair",
    "status",
    "status_async",
    "updating",
    "updating_async",
    "verify",
    "verify_async",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
