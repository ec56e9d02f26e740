"""What a worker answers, and when it refuses to run."""

import os
from typing import Any

from torch import nn

from flashrl_registry.runtime._vllm.layers import count_formats, resident_digests
from flashrl_registry.runtime._vllm.weights import planned_weights


def check_servable(model: nn.Module) -> None:
    """Before each forward of a worker; raises unless its weights are one whole update."""
    planned = planned_weights(model)
    if planned is not None:
        planned.check_servable()


def weights_discarded(model: nn.Module) -> None:
    """After sleep level 2: nothing is served before a whole update has arrived."""
    planned = planned_weights(model)
    if planned is not None:
        planned.discard()


def flashrl_status(worker: Any, *, resident: bool = False) -> dict[str, Any]:
    """RPC: what this worker runs; see :func:`flashrl_registry.runtime.status.status`."""
    model = worker.model_runner.get_model()
    planned = planned_weights(model)
    if planned is None:
        raise NotImplementedError("flashrl_status: this worker runs no plan")
    report: dict[str, Any] = {
        "rank": int(worker.rank),
        "pid": os.getpid(),
        "source": planned.resolved.source,
        "plan_digest": planned.resolved.plan_digest,
        "resolved_digest": planned.resolved.digest,
        "state": planned.state.kind,
        "reason": planned.state.reason,
        "weight_version": planned.state.weight_version,
        "last_update": dict(planned.state.last_update),
        "layers": count_formats(model),
        "tensors": planned.count_treatments(),
    }
    if resident:
        planned.check_servable()
        report["resident"] = resident_digests(model)
    return report


METHODS = {"flashrl_status": flashrl_status}
