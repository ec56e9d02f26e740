"""The vLLM edge: how a resolved plan enters an engine, how weights arrive, what is reported.

Importing this package imports neither torch nor vllm.
"""

from flashrl_registry.runtime.mismatch import Mismatch, mismatch
from flashrl_registry.runtime.settings import Settings, settings_from_env
from flashrl_registry.runtime.status import status

__all__ = ["Mismatch", "Settings", "mismatch", "settings_from_env", "status"]
