"""The vLLM edge: how a resolved plan enters an engine, how weights arrive, what is reported.

Importing this package imports neither torch nor vllm, and nothing else before a name is used: vLLM imports the
plugin from here in programs that run no plan.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flashrl_registry.runtime.divergences import Mismatch, mismatch
    from flashrl_registry.runtime.pinning import pin
    from flashrl_registry.runtime.reporting import status, status_async
    from flashrl_registry.runtime.settings import Settings, settings_from_env
    from flashrl_registry.runtime.updates import updating, updating_async, verify, verify_async

_HOME = {
    "Mismatch": "divergences",
    "Settings": "settings",
    "mismatch": "divergences",
    "pin": "pinning",
    "settings_from_env": "settings",
    "status": "reporting",
    "status_async": "reporting",
    "updating": "updates",
    "updating_async": "updates",
    "verify": "updates",
    "verify_async": "updates",
}

__all__ = [
    "Mismatch",
    "Settings",
    "mismatch",
    "pin",
    "settings_from_env",
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
    # No module here has the name of a function: importing a module binds its name, whoever imports it.
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
