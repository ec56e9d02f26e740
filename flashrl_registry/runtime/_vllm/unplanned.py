"""The last look before a model is loaded: with FLASHRL_CONFIG set, an engine without the plan does not start.

The plan enters an engine where its configuration is made from EngineArgs. A configuration that was made in another way,
or in a process in which vLLM had not loaded its plugins, would give bf16 without a word.
"""

import os
from typing import Any

from flashrl_registry.errors import PluginNotActiveError
from flashrl_registry.runtime._vllm.engine_args import PAYLOAD_KEY
from flashrl_registry.runtime.settings import CONFIG


def refuse_unplanned() -> None:
    """Make every loader of this process refuse such an engine.

    Tested: 0.27.1 and 0.32.0. Goes when vLLM loads plugins before every ``create_engine_config``.
    """
    from vllm.model_executor import model_loader
    from vllm.model_executor.model_loader.base_loader import BaseModelLoader

    registered = getattr(model_loader, "_LOAD_FORMAT_TO_MODEL_LOADER", {}).values()
    for loader in {BaseModelLoader, *registered}:
        original = vars(loader).get("load_model")
        if original is not None and not getattr(original, "flashrl_wrapped", False):
            loader.load_model = _guarded(original)


def _guarded(original: Any) -> Any:
    def load_model(self, vllm_config, model_config, *args, **kwargs):  # type: ignore[no-untyped-def]
        _check(vllm_config, model_config)
        return original(self, vllm_config=vllm_config, model_config=model_config, *args, **kwargs)  # noqa: B026

    load_model.flashrl_wrapped = True  # type: ignore[attr-defined]
    load_model.__doc__ = original.__doc__
    return load_model


def _check(vllm_config: Any, model_config: Any) -> None:
    """The engine has a plan, or needs none.

    Raises:
        PluginNotActiveError: It has none, and FLASHRL_CONFIG names one.
    """
    config = os.environ.get(CONFIG, "").strip()
    extra = vllm_config.load_config.model_loader_extra_config
    if (
        not config
        or (isinstance(extra, dict) and PAYLOAD_KEY in extra)
        or getattr(model_config, "runner_type", "") == "draft"
    ):
        return
    if config.partition("#")[0] == "bf16" and vllm_config.model_config.logprobs_mode == "processed_logprobs":
        return  # a checkpoint whose tensors have no names that can be read: nothing is quantized, nothing watched
    raise PluginNotActiveError(
        f"{CONFIG}={config} is set, and this engine's configuration was made without the plan",
        hint="make it from EngineArgs, as LLM, AsyncLLM.from_engine_args and vllm serve do, in a process in which "
        "vllm.plugins.load_general_plugins() was called before; or unset FLASHRL_CONFIG",
    )
