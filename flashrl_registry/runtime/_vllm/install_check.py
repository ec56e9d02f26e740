"""FLASHRL_TEST_RELOAD: every worker reloads some checkpoints before its engine serves, and tells how it went.

FlashRL's check of an installation: an engine that cannot take weight updates shows it when it starts, not at the first
step of a job. FlashRL left the last checkpoint in the engine; here the engine's own weights come back, and they must
be resident again bit for bit.
"""

import hashlib
import time
from collections.abc import Callable
from typing import Any

from torch import nn

from flashrl_registry.errors import FlashRLError, RuntimeLoadError
from flashrl_registry.runtime._vllm.engine_args import PAYLOAD_KEY
from flashrl_registry.runtime._vllm.layers import resident_digests
from flashrl_registry.runtime._vllm.weights import planned_weights
from flashrl_registry.runtime._vllm.workers import MODEL_FIELDS
from flashrl_registry.runtime.log import logger

VARIABLE = "FLASHRL_TEST_RELOAD"


def reload_in_turn(worker: Any) -> None:
    """Reload the checkpoints that the driver's FLASHRL_TEST_RELOAD names, then the engine's own.

    Args:
        worker: vLLM's, with its model loaded and warmed up; one without a plan is left alone. Its class is every
            engine's of this process, whose plans differ.

    Raises:
        RuntimeLoadError: A reload failed, or the engine's own weights did not come back; the engine does not start.
    """
    extra = worker.vllm_config.load_config.model_loader_extra_config
    payload = extra.get(PAYLOAD_KEY) if isinstance(extra, dict) else None
    if payload is None or not payload["test_reload"]:
        return
    model, config = worker.model_runner.get_model(), worker.model_runner.vllm_config.model_config
    own = {name: getattr(config, name) for name in MODEL_FIELDS if hasattr(config, name)}
    before = _resident(model)
    for path in payload["test_reload"]:
        _reload(worker, path, lambda path=path: worker.reload_weights(weights_path=path))  # type: ignore[misc]
    for name, value in own.items():
        setattr(config, name, value)
    if payload["inner_load_format"] == "dummy":
        logger.warning("%s: the engine began with random weights and keeps %s", VARIABLE, payload["test_reload"][-1])
        return
    start = payload["start_model"] if not payload["start_quantized"] else None
    if start is not None:
        config.model, config.revision = start, payload["start_revision"]
    try:
        _reload(worker, f"{config.model} (its own)", worker.reload_weights)
    finally:
        for name, value in own.items():
            setattr(config, name, value)
    if payload["start_quantized"]:
        logger.info("%s: %s was quantized ready-made; the engine serves the program's model under the plan now",
                    VARIABLE, payload["start_model"])  # fmt: skip
    elif (after := _resident(model)) != before:
        raise RuntimeLoadError(
            f"{VARIABLE}: after the reloads, the engine's own weights are not resident as they were: {after[:16]} "
            f"instead of {before[:16]}",
            hint="this engine cannot take weight updates; please report the vLLM version and the plan",
        )


def _reload(worker: Any, what: str, reload: Callable[[], Any]) -> None:
    """One reload and its report."""
    model, began = worker.model_runner.get_model(), time.perf_counter()
    planned = planned_weights(model)
    assert planned is not None  # the loader made it
    try:
        reload()
        planned.check_whole()
    except (FlashRLError, OSError, ValueError, RuntimeError) as exc:
        logger.error("%s %s: failed: %s", VARIABLE, what, exc)
        raise RuntimeLoadError(
            f"{VARIABLE}: the reload of {what} failed: {exc}", hint=f"drop it from {VARIABLE}, or cure the cause"
        ) from exc
    logger.info(
        "%s %s: %.3f s, %d tensors, %s, resident %s, plan %s",
        VARIABLE, what, time.perf_counter() - began, planned.state.last_update["tensors"], planned.state.kind,
        _resident(model)[:16], planned.resolved.plan_digest,
    )  # fmt: skip


def _resident(model: nn.Module) -> str:
    """One SHA-256 over everything that is resident, read back through the engine's kernels."""
    text = "\n".join(f"{name} {digest}" for name, digest in sorted(resident_digests(model).items()))
    return hashlib.sha256(text.encode()).hexdigest()


# --- vLLM's internals; tested on 0.27.1 and 0.32.0. Goes when a loader is called after an engine's warm-up. --------


def after_warm_up(vllm_config: Any, then: Callable[[Any], None]) -> None:
    """Call ``then(worker)`` in this process when a worker has warmed up, which is the last step before it serves.

    Args:
        vllm_config: Names the class of the workers.
        then: What to do; what it raises stops the engine.
    """
    from vllm.utils.import_utils import resolve_obj_by_qualname

    worker_class = resolve_obj_by_qualname(vllm_config.parallel_config.worker_cls)
    original = worker_class.compile_or_warm_up_model
    if getattr(original, "flashrl_wrapped", False):
        return

    def compile_or_warm_up_model(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        result = original(self, *args, **kwargs)
        then(self)
        return result

    compile_or_warm_up_model.flashrl_wrapped = True  # type: ignore[attr-defined]
    worker_class.compile_or_warm_up_model = compile_or_warm_up_model
