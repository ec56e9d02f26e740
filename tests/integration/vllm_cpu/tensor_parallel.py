"""Programs that share a model between two workers (gloo on CPU), run by ``engines.py``."""

import os
import signal
import time
from typing import Any

import scenarios
import vllm
from matrix import send, shut_down
from receiver import checkpoint

from flashrl_registry.runtime import status

Result = dict[str, Any]
ROUTES = ("folder", "one_by_one", "buckets", "transfer")


def engine(model: str) -> vllm.LLM:
    """Two workers, each with half of every layer."""
    import receiver  # noqa: F401 - makes the transfer backend known before the arguments are checked
    from vllm.config import WeightTransferConfig

    return scenarios.engine(
        model,
        tensor_parallel_size=2,
        worker_extension_cls="receiver.Receiver",
        weight_transfer_config=WeightTransferConfig(backend="folder"),
        num_gpu_blocks_override=64,
    )


def observe(llm: vllm.LLM) -> Result:
    """As the other scenarios, with every worker's own report."""
    return {**scenarios.observe(llm), "workers": status(llm)}


def two_workers(args: Result) -> Result:
    """By each route to the second checkpoint and back; an incomplete update, and what heals it."""
    llm = engine(args["model"])
    result: Result = {"start": observe(llm)}
    for route in ROUTES:
        send(llm, route, args["updated"])
        result[route] = observe(llm)
        send(llm, route, args["model"])
        result[f"{route}_back"] = observe(llm)
    result["incomplete"] = _attempt(lambda: send(llm, "folder", args["bad"]))
    result["incomplete_generate"] = _attempt(lambda: scenarios.greedy(llm))
    send(llm, "folder", args["updated"])
    result["healed"] = observe(llm)
    shut_down(llm)
    return result


def worker_dies(args: Result) -> Result:
    """A fresh engine; then one of its workers dies in the middle of an update."""
    llm = engine(args["updated"])
    return {"fresh": observe(llm), "killed": _kill_one(llm, args["model"])}


def _kill_one(llm: vllm.LLM, folder: str) -> Result:
    """Half an update, then the second worker is killed."""
    victim = status(llm)[1]["pid"]
    names = list(checkpoint(folder))
    llm.collective_rpc("start_weight_update")
    for name in names[: len(names) // 2]:
        llm.collective_rpc("update_weights", args=({"folder": folder, "name": name},))
    os.kill(victim, signal.SIGKILL)
    began = time.monotonic()
    outcome: Result = {"finish": _attempt(lambda: llm.collective_rpc("finish_weight_update"))}
    outcome["generate"] = _attempt(lambda: scenarios.greedy(llm))
    # No third call: one that reaches vLLM while its engine core ends is never answered.
    outcome["seconds"] = time.monotonic() - began
    shut_down(llm)
    return outcome


def _attempt(action: Any) -> str:
    """What a user sees: the error's text, or ``returned``."""
    try:
        return f"returned {action()}"
    except Exception as exc:  # noqa: BLE001 - whatever it is
        return f"{type(exc).__name__}: {exc}"
