"""The ``vllm.general_plugins`` entry point.

vLLM calls :func:`register` once in every process of an engine. This module imports nothing but the standard library:
vLLM logs and continues when a plugin fails to import, so nothing here may fail before ``register`` runs, and a
program that does not set FLASHRL_CONFIG pays for an environment look-up per engine.
"""

import importlib
import os
import sys
from typing import Any

_ENGINE_ARGS = "vllm.engine.arg_utils"


def register() -> None:
    """Make this process run the plan that FLASHRL_CONFIG names, now or when an engine is made."""
    # First, because vLLM calls a plugin once: a program that tries again after an error here must not get bf16.
    _watch_now_or_later()
    if _config():
        from flashrl_registry.runtime._vllm.install import install

        install()


def _config() -> str:
    return os.environ.get("FLASHRL_CONFIG", "").strip()


def _watch_now_or_later() -> None:
    """Watch EngineArgs, also where it is imported only after the plugins were loaded.

    It is not imported for this: it takes seconds, and a worker makes no engine configuration.
    """
    module: Any = sys.modules.get(_ENGINE_ARGS)
    if module is not None and not hasattr(module, "EngineArgs"):
        module = importlib.import_module(_ENGINE_ARGS)  # another thread imports it: wait for it
    if hasattr(module, "EngineArgs"):
        _watch(module.EngineArgs)
    else:
        from flashrl_registry.runtime.when_imported import when_imported

        when_imported(_ENGINE_ARGS, lambda imported: _watch(imported.EngineArgs))


def _watch(engine_args_class: Any) -> None:
    """Wrap ``EngineArgs.create_engine_config``: the one override of a vLLM method in every driver.

    ``__post_init__`` of the first EngineArgs has begun before vLLM loads plugins, so patching that is too late;
    ``create_engine_config`` runs after it in every front end (LLM, AsyncLLM, serve). AsyncEngineArgs inherits it.
    The variable is read at each call: a program may set it after vLLM has loaded its plugins.
    """
    original = engine_args_class.create_engine_config
    if getattr(original, "flashrl_wrapped", False):
        return

    def create_engine_config(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        if not _config():
            return original(self, *args, **kwargs)
        from flashrl_registry.runtime._vllm.install import create_planned_config

        return create_planned_config(self, original, *args, **kwargs)

    create_engine_config.flashrl_wrapped = True  # type: ignore[attr-defined]
    create_engine_config.__doc__ = original.__doc__
    engine_args_class.create_engine_config = create_engine_config
