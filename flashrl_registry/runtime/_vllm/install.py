"""What the plugin does in a process: register the loader, and in the driver put the plan into the engine's config.

Called several times per process; each step is done once.
"""

import os
from collections.abc import Callable
from typing import Any

from flashrl_registry.errors import FlashRLError
from flashrl_registry.runtime import log
from flashrl_registry.runtime._vllm import compat, engine_args, replies
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
    replies.keep_in_step()
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


def create_planned_config(args: Any, original: Callable[..., Any], *rest: Any, **kwargs: Any) -> Any:
    """``EngineArgs.create_engine_config`` under a plan.

    Args:
        args: The program's EngineArgs; what the plan sets on it is taken back, so that a second engine made from it
            gets the plan of its own time.
        original: vLLM's method.
        rest: Its arguments.
        kwargs: Its keyword arguments.

    Returns:
        The VllmConfig, proven to carry the plan.

    Raises:
        FlashRLError: The plan cannot run; the engine does not start.
    """
    install()
    compat.guard_front_ends(engine_args.check_front_end, engine_args.prefixes_dropped)
    before = {name: getattr(args, name) for name in engine_args.FIELDS}
    try:
        applied = engine_args.apply_plan(args, settings_from_env(os.environ), os.environ)
        config = original(args, *rest, **kwargs)
        engine_args.confirm(config, applied)
        replies.keep_in_step()  # an executor in this process: its module was imported just now
    finally:
        for name, value in before.items():
            setattr(args, name, value)
    return config
