"""What a worker answers, and when it refuses to run."""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn
from vllm.distributed import get_tensor_model_parallel_rank

from flashrl_registry.runtime._vllm.engine_args import PAYLOAD_KEY
from flashrl_registry.runtime._vllm.layers import count_formats, resident_digests
from flashrl_registry.runtime._vllm.members import replica_of
from flashrl_registry.runtime._vllm.update import WholeUpdate
from flashrl_registry.runtime._vllm.verify import verify_resident
from flashrl_registry.runtime._vllm.weights import PlannedWeights, planned_weights


class Hooks:
    """:class:`~flashrl_registry.runtime._vllm.workers.WorkerHooks` for models that may or may not run a plan."""

    def check_servable(self, model: nn.Module) -> None:
        """Raises unless the weights are one whole update."""
        if (planned := planned_weights(model)) is not None:
            planned.check_servable()

    def lock(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Held while weights change and while they are used."""
        planned = planned_weights(model)
        return nullcontext() if planned is None else planned.lock

    def clears_kv_cache(self, model: nn.Module) -> bool:
        """Whether cached keys and values are to be set to zero before the next forward; says so once."""
        planned = planned_weights(model)
        return planned is not None and planned.take_clears_kv_cache()

    def weights_discarded(self, model: nn.Module) -> None:
        """Nothing is served before a whole update has arrived."""
        if (planned := planned_weights(model)) is not None:
            planned.discard()

    def update_begins(self, model: nn.Module) -> None:
        """The end will be told, by vLLM."""
        if (planned := planned_weights(model)) is not None:
            planned.begin_update()

    def update_ends(self, model: nn.Module) -> None:
        """Refuses an update that lacks tensors."""
        if (planned := planned_weights(model)) is not None:
            planned.finish_update()

    def whole_update(self, weights: Any) -> Any:
        """One call is one update."""
        return WholeUpdate(weights)

    def takes_in_place(self, model: nn.Module) -> bool:
        """The next update is written to where the engine reads."""
        planned = planned_weights(model)
        return planned is not None and planned.update is None and planned.takes_in_place()

    def runs_plan(self, model: nn.Module) -> bool:
        """It does."""
        return planned_weights(model) is not None


def _planned(worker: Any, method: str) -> PlannedWeights:
    planned = planned_weights(worker.model_runner.get_model())
    if planned is None:
        raise NotImplementedError(f"{method}: this worker runs no plan")
    return planned


def _place(worker: Any) -> dict[str, Any]:
    """Which worker answers: rank within its replica, replica, and the replica's member of a hybrid."""
    payload = worker.vllm_config.load_config.model_loader_extra_config[PAYLOAD_KEY]
    replica = replica_of(payload, worker.vllm_config)
    return {"rank": int(worker.rank), "replica": replica, "member": payload["member"]}


def flashrl_status(worker: Any, *, resident: bool = False) -> dict[str, Any]:
    """RPC: what this worker runs; see :func:`flashrl_registry.runtime.reporting.status`."""
    planned = _planned(worker, "flashrl_status")
    model = worker.model_runner.get_model()
    report: dict[str, Any] = {
        **_place(worker),
        "pid": os.getpid(),
        "source": planned.resolved.source,
        "plan_digest": planned.resolved.plan_digest,
        "resolved_digest": planned.resolved.digest,
        "state": planned.state.kind,
        "reason": planned.state.reason,
        "weight_version": planned.state.weight_version,
        "last_update": dict(planned.state.last_update),
        "last_failure": planned.state.last_failure,
        "layers": count_formats(model),
        "tensors": planned.count_treatments(),
    }
    if resident:
        planned.check_whole()
        report["resident"] = resident_digests(model)
    return report


def flashrl_begin_update(worker: Any, *, partial: bool = False) -> None:
    """RPC: the sender will say when its update ends; see :func:`flashrl_registry.runtime.updates.updating`."""
    _planned(worker, "flashrl_begin_update").begin_update(partial=partial)


def flashrl_finish_update(worker: Any) -> dict[str, float]:
    """RPC: the sender has sent everything; returns what ``last_update`` reports."""
    return _planned(worker, "flashrl_finish_update").finish_update()


def flashrl_abort_update(worker: Any) -> None:
    """RPC: drop an update that is half done."""
    _planned(worker, "flashrl_abort_update").abort_update()


def flashrl_verify(worker: Any, *, layers: int | None = None) -> dict[str, Any]:
    """RPC: compare what is resident with what the plan made of what was sent."""
    planned = _planned(worker, "flashrl_verify")
    planned.check_whole()
    shard = get_tensor_model_parallel_rank()  # not the worker's rank: pipelines and launchers number across
    report = verify_resident(worker.model_runner.get_model(), planned.resolved, planned.sent, shard, layers)
    return {**_place(worker), "weight_version": planned.state.weight_version, **report}


METHODS = {
    method.__name__: method
    for method in (flashrl_status, flashrl_begin_update, flashrl_finish_update, flashrl_abort_update, flashrl_verify)
}
