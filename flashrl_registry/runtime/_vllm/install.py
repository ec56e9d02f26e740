"""What the plugin does in a process: register the loader, and in the driver put the plan into the engine's config.

Called several times per process; each step is done once.
"""

import copy
import os
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

from flashrl_registry.errors import FlashRLError
from flashrl_registry.runtime import log
from flashrl_registry.runtime._vllm import compat, engine_args, front_ends, members, replies, schedulers, unplanned
from flashrl_registry.runtime.settings import read_by_nothing, settings_from_env

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
    unplanned.refuse_unplanned()
    replies.keep_in_step()
    if "vllm.v1.engine.core" in sys.modules:  # a process with an engine's scheduler, which workers do not load
        schedulers.guard_schedulers(engine_args.updates_of)
    log.logger.debug("plugin installed, %s=%s", "FLASHRL_CONFIG", settings.config)


@cache
def _warn_of_unknown_variables(sentences: frozenset[str]) -> None:
    """Once for all engines of a program."""
    for sentence in sorted(sentences):
        log.logger.warning("%s", sentence)


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
    front_ends.guard_front_ends(engine_args.check_front_end, engine_args.prefixes_dropped)
    schedulers.guard_schedulers(engine_args.updates_of)
    members.answer_for_every_replica()
    _warn_of_unknown_variables(frozenset(read_by_nothing(os.environ)))
    settings = settings_from_env(os.environ)
    assert settings.config is not None  # the plugin asked
    found = members.find_members(settings.config, args, os.environ)
    gate = engine_args.gate_for(args, os.environ)
    untouched = copy.copy(args)

    def planned(some_args: Any, member: members.Member) -> Any:
        before = {name: getattr(some_args, name) for name in engine_args.FIELDS}
        try:
            applied = engine_args.apply_plan(some_args, settings, os.environ, member, gate)
            config = original(some_args, *rest, **kwargs)
            engine_args.confirm(config, applied)
        finally:
            for name, value in before.items():
                setattr(some_args, name, value)
        return config

    config = planned(args, found[0])
    members.check_independent(config, found)
    replies.keep_in_step()  # an executor in this process: its module was imported just now
    if others := found[1:]:
        configs = [(member, planned(copy.copy(untouched), member)) for member in others]
        members.hand_out(config, {rank: other for member, other in configs for rank in member.replicas})
    return config
