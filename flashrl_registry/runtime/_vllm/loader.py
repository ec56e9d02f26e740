"""``load_format="flashrl"``: any other loader, with the plan between it and the model."""

import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn
from vllm.config import ModelConfig, VllmConfig
from vllm.config.load import LoadConfig
from vllm.model_executor.model_loader import get_model_loader
from vllm.model_executor.model_loader.base_loader import BaseModelLoader

from flashrl_registry.documents import ResolvedPlan
from flashrl_registry.errors import PluginNotActiveError, RuntimeLoadError
from flashrl_registry.resolver import open_payload
from flashrl_registry.runtime._vllm import compat, install_check, rpc, workers
from flashrl_registry.runtime._vllm.engine_args import PAYLOAD_KEY
from flashrl_registry.runtime._vllm.files import unchanged_files
from flashrl_registry.runtime._vllm.layers import check_formats
from flashrl_registry.runtime._vllm.members import check_replica
from flashrl_registry.runtime._vllm.update import WholeUpdate
from flashrl_registry.runtime._vllm.weights import PlannedWeights, planned_weights
from flashrl_registry.runtime.gate import open_gate
from flashrl_registry.runtime.log import logger, name_worker
from flashrl_registry.runtime.start_model import ready_made
from flashrl_registry.runtime.transform import load_vectors

# Each tensor that these yield is memory of its own, or a mapped file; streamers reuse theirs.
_READS_FILES = {"auto", "hf", "safetensors", "pt", "mistral"}


class FlashRLModelLoader(BaseModelLoader):  # type: ignore[misc]
    """Delegates to the loader that the program asked for and turns its stream into what the plan says.

    In every worker it proves, before a model is built, that the worker computes the driver's ResolvedPlan.
    """

    def __init__(self, load_config: LoadConfig) -> None:
        super().__init__(load_config)
        extra = load_config.model_loader_extra_config
        payload = extra.get(PAYLOAD_KEY) if isinstance(extra, dict) else None
        if payload is None:
            raise PluginNotActiveError(
                "load_format='flashrl' came without a plan",
                hint="set FLASHRL_CONFIG and leave load_format to the plugin",
            )
        inner = replace(
            load_config,
            load_format=payload["inner_load_format"],
            model_loader_extra_config=payload["inner_extra_config"],
        )
        self.inner = get_model_loader(inner)
        self.payload = payload

    @cached_property
    def opened(self) -> tuple[ResolvedPlan, Path | None]:
        """The plan and its sidecar, proven.

        At start only: vLLM makes a loader for every ``reload_weights``, too, and that needs neither. So files that
        are damaged under a running engine change nothing.
        """
        return open_payload(self.payload, compat.probe_environment())

    def download_model(self, model_config: ModelConfig) -> None:
        """Fetch the checkpoint with the inner loader."""
        self.inner.download_model(model_config)

    def load_weights(self, model: nn.Module, model_config: ModelConfig) -> None:
        """First load: put the plan between the inner loader and the model."""
        planned = planned_weights(model)
        if planned is None:
            resolved, sidecar = self.opened
            planned = PlannedWeights(model, resolved, load_vectors(sidecar, resolved))
            planned.install()
        dummy = self.inner.load_config.load_format == "dummy"
        if self.payload["start_model"] is not None and not dummy:
            model_config = self._start_with(planned, model_config)
        unchanged = unchanged_files(model_config.model)
        self.inner.load_weights(model, model_config)
        unchanged()
        planned.finish_first_load(dummy=dummy)

    def _start_with(self, planned: PlannedWeights, model_config: ModelConfig) -> ModelConfig:
        """The configuration under which the inner loader reads the checkpoint that the plan names."""
        if self.payload["start_quantized"]:
            planned.ready_made = ready_made(self.opened[0])
        logger.info(
            "the engine starts with the weights of %s, %s",
            self.payload["start_model"],
            "its own codes and scales" if self.payload["start_quantized"] else "quantized by the plan",
        )
        other = copy.copy(model_config)
        other.model, other.revision = self.payload["start_model"], self.payload["start_revision"]
        other.model_weights = ""
        return other

    def get_all_weights(self, model_config: ModelConfig, model: nn.Module) -> WholeUpdate:
        """The checkpoint's tensors, marked as one whole update; ``reload_weights(weights_path=...)`` asks for it."""
        path = str(model_config.model)
        if Path(path).is_absolute() and not Path(path).exists():  # before vLLM takes the layers apart for it
            raise RuntimeLoadError(f"reload_weights: there is no folder {path}", hint="the engine serves on unchanged")
        reads_files = self.inner.load_config.load_format in _READS_FILES
        unchanged = unchanged_files(path) if reads_files else None
        return WholeUpdate(self.inner.get_all_weights(model_config, model), unchanged=unchanged)

    def load_model(self, vllm_config: VllmConfig, model_config: ModelConfig, **kwargs: Any) -> nn.Module:
        """Build the model, load it by the plan, and check that every layer has the format that the plan says."""
        name_worker(vllm_config.parallel_config.rank)
        check_replica(self.payload, vllm_config)
        resolved, _ = self.opened
        compat.keep_onednn_scales_alive()
        compat.repack_cpu_experts()
        workers.guard_workers(rpc.Hooks(), rpc.METHODS)
        if self.payload["test_reload"]:
            install_check.after_warm_up(vllm_config, install_check.reload_in_turn)
        model = super().load_model(vllm_config, model_config, **kwargs)
        planned = planned_weights(model)
        if planned is None:
            raise PluginNotActiveError("the model was loaded without the plan")
        planned.attach(vllm_config, open_gate(Path(self.payload["gate"])))
        counts = check_formats(model, resolved)
        logger.info(
            "plan %s runs in this worker: %s",
            resolved.plan_digest,
            ", ".join(f"{count} layers {name}" for name, count in sorted(counts.items())),
        )
        return model
