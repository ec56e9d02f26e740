"""Programs that use several GPUs (or, for ``shared``, ``fresh`` and ``killed``, several CPU workers), run by
``test_multi_gpu.py``, each in a process of its own.

    python multi_scenarios.py NAME ARGS.json OUT.json

They send by the routes of the CPU tests, whose folder must be on PYTHONPATH: workers import ``receiver`` from it.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matrix
import receiver  # makes the transfer backend "folder" known before arguments are checked
import scenarios
import torch
import vllm
from vllm.config import WeightTransferConfig

from flashrl_registry.runtime import status, updating

Result = dict[str, Any]
ROUTES = ("folder", "one_by_one", "buckets", "announced", "transfer")
TRANSFERS: dict[str, Result] = {
    "single": {"packed": False},
    "packed": {"packed": True},
    "packed_small": {"packed": True, "buffer_bytes": 1 << 20},
}
SMALL = {"gpu_memory_utilization": 0.05, "kv_cache_memory_bytes": 1 << 28}
"""Engines may lie side by side on a GPU; the same as in ``scenarios.engine``."""


def engine(args: Result, backend: str = "folder") -> vllm.LLM:
    blocks = {} if torch.cuda.is_available() else {"num_gpu_blocks_override": 64}
    return scenarios.engine(
        args["start"],
        tensor_parallel_size=args["workers"],
        max_num_batched_tokens=512,  # memory for more would keep engines from lying side by side
        worker_extension_cls="receiver.Receiver",
        weight_transfer_config=WeightTransferConfig(backend=backend),
        **blocks,
    )


def observe(llm: vllm.LLM) -> Result:
    """As other scenarios do, with every worker's own report."""
    return {**scenarios.observe(llm), "workers": status(llm)}


def send(llm: vllm.LLM, route: str, folder: str) -> None:
    if route != "announced":
        matrix.send(llm, route, folder)
        return
    with updating(llm):
        matrix.send(llm, "buckets", folder)


def shared(args: Result) -> Result:
    """By each route to the second checkpoint and back."""
    llm = engine(args)
    result: Result = {"start": observe(llm)}
    for route in ROUTES:
        for name, folder in ((route, args["updated"]), (f"{route}_back", args["start"])):
            began = time.perf_counter()
            send(llm, route, folder)
            seconds = time.perf_counter() - began
            result[name] = {**observe(llm), "seconds": seconds}
    matrix.shut_down(llm)
    return result


def fresh(args: Result) -> Result:
    """An engine that has never been updated."""
    llm = engine(args)
    result = observe(llm)
    matrix.shut_down(llm)
    return result


def killed(args: Result) -> Result:
    """One worker dies when half of an update has arrived; then generate."""
    llm = engine(args)
    victim = status(llm)[-1]["pid"]
    if args["way"] == "transfer":
        llm.collective_rpc("start_weight_update")
        for name in receiver.checkpoint(args["half"]):
            llm.collective_rpc("update_weights", args=({"folder": args["half"], "name": name},))
    else:
        if args["way"] == "announced":
            llm.collective_rpc("flashrl_begin_update", kwargs={"partial": False})
        llm.collective_rpc("receive_one_by_one", args=(args["half"],))
    result: Result = {"half": attempt(lambda: scenarios.greedy(llm))}
    os.kill(victim, signal.SIGKILL)
    time.sleep(args["pause_seconds"])
    began = time.monotonic()
    # One call only: another, that reaches vLLM while its engine core ends, is never answered.
    result["generate"] = attempt(lambda: scenarios.greedy(llm))
    result["seconds"] = time.monotonic() - began
    matrix.shut_down(llm)
    return result


def attempt(action: Callable[[], Any]) -> str:
    """What a user sees: the error's text, or ``returned``."""
    try:
        return f"returned {action()}"
    except Exception as exc:  # noqa: BLE001 - whatever it is
        return f"{type(exc).__name__}: {exc}"


def transfer(args: Result) -> Result:
    """vLLM's own NCCL transfer from a trainer on another GPU, there and back: tensor by tensor, all of them in one
    broadcast, and in many, which vLLM receives on two CUDA streams and which split fused layers."""
    from nccl_trainer import trainer

    llm = engine(args, backend="nccl")
    result: Result = {"start": observe(llm)}
    with trainer(args["trainer_gpu"], llm, args["workers"]) as sender:
        for way, how in TRANSFERS.items():
            for back, folder in (("", args["updated"]), ("_back", args["start"])):
                sender.hold(folder=folder)
                seconds = sender.transfer(llm, **how)
                result[way + back] = {**observe(llm), "seconds": seconds}
    matrix.shut_down(llm)
    return result


def replicas(args: Result) -> Result:
    """Engines behind ``AsyncLLM``: as many replicas as asked; there, half an update, and there again."""
    return asyncio.run(_replicas(args, args["replicas"]))


async def _replicas(args: Result, count: int) -> Result:
    import asynchronous

    kwargs: Result = {"data_parallel_size": count} if count > 1 else {}
    started = asynchronous.start(args["start"], **SMALL, **kwargs)
    result: Result = {"start": await asynchronous.observe(started, count)}

    def reload(folder: str) -> Any:
        return started.collective_rpc("reload_weights", kwargs={"weights_path": folder})

    if count > 1:
        await reload(args["updated"])
        result["updated"] = await asynchronous.observe(started, count)
        result["incomplete"] = await asynchronous.attempt(reload(args["half"]))
        result["refused"] = [
            await asynchronous.attempt(asynchronous.greedy(started, replica)) for replica in range(count)
        ]
        await reload(args["updated"])
        result["healed"] = await asynchronous.observe(started, count)
    started.shutdown()
    return result


def served(args: Result) -> Result:
    """Two replicas behind ``vllm serve``, driven over HTTP: an update, half an update."""
    import multi_serving

    with multi_serving.served(args["start"], args["work"], replicas=2) as server:
        result: Result = {"start": server.observe(scenarios.TOKENS)}
        result["reload"] = server.rpc("reload_weights", weights_path=args["updated"])[0]
        result["updated"] = server.observe(scenarios.TOKENS)
        result["incomplete"] = server.rpc("reload_weights", weights_path=args["half"])[0]
        result["refused"] = [server.complete(scenarios.TOKENS[0], replica) for replica in (0, 1)]
    return result


def placed(args: Result) -> Result:
    """Two engines of a Ray job."""
    import multi_ray

    return multi_ray.placed(args)


SCENARIOS = {scenario.__name__: scenario for scenario in (fresh, killed, placed, replicas, served, shared, transfer)}

if __name__ == "__main__":
    found = SCENARIOS[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text()))
    Path(sys.argv[3]).write_text(json.dumps(found))
