"""What the plugin does in a process: register the loader, and in the driver wrap one method.

Called several times per process; each step is done once.
"""

import os

from flashrl_registry.errors import FlashRLError
from flashrl_registry.runtime import log
from flashrl_registry.runtime._vllm import compat
from flashrl_registry.runtime.settings import settings_from_env

LOAD_FORMAT = "flashrl"


def install() -> None:
    """Make this process able to run a plan.

    Raises:
        FlashRLError: The environment or the installed vLLM cannot run a plan; vLLM does not guard a plugin's call,
            so the program stops.
    """
    settings = settings_from_env(os.environ)
    log.configure(settings)
    compat.check_version()
    _register_loader()
    _wrap_engine_args()
    log.logger.debug("plugin installed, %s=%s", "FLASHRL_CONFIG", settings.config)


def _register_loader() -> None:
    from vllm.model_executor import model_loader

    from flashrl_registry.runtime._vllm.loader import FlashRLModelLoader

    registered = getattr(model_loader, "_LOAD_FORMAT_TO_MODEL_LOADER", {}).get(LOAD_FORMAT)
    if registered is FlashRLModelLoader:
        return
    if registered is not None:
        raise FlashRLError(
            f"another plugin has registered load_format='{LOAD_FORMAT}': {registered}",
            hint="name only one of them in VLLM_PLUGINS",
        )
    model_loader.register_model_loader(LOAD_FORMAT)(FlashRLModelLoader)


def _wrap_engine_args() -> None:
    """Wrap ``EngineArgs.create_engine_config``: the one override of a vLLM method in the driver.

    ``__post_init__`` of the first EngineArgs has begun before vLLM loads plugins, so patching that is too late;
    ``create_engine_config`` runs after it in every front end (LLM, AsyncLLM, serve). AsyncEngineArgs inherits it.
    """
    from vllm.engine.arg_utils import EngineArgs

    original = EngineArgs.create_engine_config
    if getattr(original, "flashrl_wrapped", False):
        return

    def create_engine_config(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        from flashrl_registry.runtime._vllm.engine_args import (
            apply_plan,
            check_front_end,
            confirm,
            prefixes_dropped,
        )

        compat.guard_front_ends(check_front_end, prefixes_dropped)
        applied = apply_plan(self, settings_from_env(os.environ), os.environ)
        config = original(self, *args, **kwargs)
        confirm(config, applied)
        return config

    create_engine_config.flashrl_wrapped = True  # type: ignore[attr-defined]
    create_engine_config.__doc__ = original.__doc__
    EngineArgs.create_engine_config = create_engine_config
