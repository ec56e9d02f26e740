"""Workers ask the plan before they use weights or change them, and answer our calls."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from flashrl_registry.errors import RuntimeLoadError
from flashrl_registry.runtime._vllm.overflow import clear_kv_cache

MODEL_FIELDS = ("model", "model_weights", "revision")
"""What a reload from another path changes in the model's configuration."""


class WorkerHooks(Protocol):
    """What a worker asks of the plan that its model runs; each takes the worker's model."""

    def check_servable(self, model: Any) -> None:
        """Before a forward; raises to refuse it."""

    def lock(self, model: Any) -> AbstractContextManager[Any]:
        """Held while weights change and while they are used."""

    def clears_kv_cache(self, model: Any) -> bool:
        """Whether cached keys and values are to be set to zero before the next forward."""

    def weights_discarded(self, model: Any) -> None:
        """Sleep level 2 has thrown the weights away."""

    def update_begins(self, model: Any) -> None:
        """An update begins by vLLM's own weight transfer."""

    def update_ends(self, model: Any) -> None:
        """It ends one; raises where tensors are missing."""

    def whole_update(self, weights: Any) -> Any:
        """Mark an iterator of tensors as one whole update."""

    def takes_in_place(self, model: Any) -> bool:
        """The model's ``load_weights`` needs no reload around it."""

    def runs_plan(self, model: Any) -> bool:
        """The model is one of a plan; an engine beside it in the process may have none."""


def guard_workers(hooks: WorkerHooks, rpc: dict[str, Callable[..., Any]]) -> None:
    """Make every worker of this process ask the plan, and answer our RPCs.

    Replaying a CUDA graph skips Python's forward, so the check sits in ``Worker.execute_model``. ``reload_weights``
    in kernel format copies tensors straight into parameters, past the plan, and is refused. RPC methods are added,
    not replaced; ``worker_extension_cls`` is left to the frameworks, which each bring their own.
    Tested: 0.27.1, 0.32.0. Goes when vLLM lets a model loader veto execution.
    """
    from vllm.v1.worker.gpu_worker import Worker

    for name, method in rpc.items():
        setattr(Worker, name, method)
    if getattr(Worker.execute_model, "flashrl_wrapped", False):
        return
    originals = {
        name: getattr(Worker, name)
        for name in ("execute_model", "sleep", "reload_weights", "start_weight_update", "finish_weight_update")
    }

    def execute_model(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        model = self.model_runner.get_model()
        with hooks.lock(model):
            hooks.check_servable(model)
            if hooks.clears_kv_cache(model):
                clear_kv_cache(self.model_runner)
            return originals["execute_model"](self, *args, **kwargs)

    def sleep(self, level: int = 1, *args, **kwargs):  # type: ignore[no-untyped-def]
        result = originals["sleep"](self, level, *args, **kwargs)
        if level >= 2:
            hooks.weights_discarded(self.model_runner.get_model())
        return result

    def reload_weights(self, weights_iterator=None, *args, **kwargs):  # type: ignore[no-untyped-def]
        runner, model = self.model_runner, self.model_runner.get_model()
        if hooks.runs_plan(model):
            _refuse_kernel_format(args, kwargs)
        with hooks.lock(model):
            if weights_iterator is not None:
                weights_iterator = hooks.whole_update(weights_iterator)
                if hooks.takes_in_place(model):
                    # vLLM would take every layer apart and put it together again for nothing.
                    model.load_weights(weights_iterator)
                    for reset in ("reset_lora_state", "reset_encoder_cache", "reset_mm_cache"):
                        getattr(runner, reset, lambda: None)()
                    return None
            # A path is the model's from then on, as vLLM has it; one that cannot be read is not.
            config = self.vllm_config.model_config
            before = {name: getattr(config, name) for name in MODEL_FIELDS if hasattr(config, name)}
            try:
                return originals["reload_weights"](self, weights_iterator, *args, **kwargs)
            except BaseException:
                for name, value in before.items():
                    setattr(config, name, value)
                raise

    def start_weight_update(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        result = originals["start_weight_update"](self, *args, **kwargs)
        hooks.update_begins(self.model_runner.get_model())
        return result

    def finish_weight_update(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        try:
            hooks.update_ends(self.model_runner.get_model())
        finally:  # vLLM must end its session even where the update is refused
            result = originals["finish_weight_update"](self, *args, **kwargs)
        return result

    execute_model.flashrl_wrapped = True  # type: ignore[attr-defined]
    for method in (execute_model, sleep, reload_weights, start_weight_update, finish_weight_update):
        setattr(Worker, method.__name__, method)
    _guard_runners(hooks)


def _refuse_kernel_format(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse ``reload_weights(iterator, path, False)``.

    Raises:
        RuntimeLoadError: It would copy tensors past the plan.
    """
    if not kwargs.get("is_checkpoint_format", args[1] if len(args) > 1 else True):
        raise RuntimeLoadError(
            "reload_weights(is_checkpoint_format=False) writes past the plan and is refused",
            hint="send the bf16 checkpoint tensors; the plan quantizes them",
        )


def _guard_runners(hooks: WorkerHooks) -> None:
    """The same where a program calls the model runner, past its worker."""
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    original = getattr(GPUModelRunner, "reload_weights", None)
    if original is None or getattr(original, "flashrl_wrapped", False):
        return

    def reload_weights(self, weights_iterator=None, *args, **kwargs):  # type: ignore[no-untyped-def]
        if hooks.runs_plan(self.get_model()):
            _refuse_kernel_format(args, kwargs)
        return original(self, weights_iterator, *args, **kwargs)

    reload_weights.flashrl_wrapped = True  # type: ignore[attr-defined]
    GPUModelRunner.reload_weights = reload_weights
