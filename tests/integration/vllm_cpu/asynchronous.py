"""Programs that use ``vllm.AsyncLLM``, run by ``engines.py``: one replica, and two with a plan of their own each."""

import asyncio
import os
from typing import Any

import vllm
from scenarios import TOKENS
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.engine.async_llm import AsyncLLM

from flashrl_registry import status, status_async, updating_async, verify, verify_async

Result = dict[str, Any]


def start(model: str, **kwargs: Any) -> AsyncLLM:
    args = AsyncEngineArgs(
        model=model, skip_tokenizer_init=True, max_model_len=128, enforce_eager=True, enable_prefix_caching=False,
        num_gpu_blocks_override=64, worker_extension_cls="receiver.Receiver", **kwargs,
    )  # fmt: skip
    return AsyncLLM.from_engine_args(args)


async def greedy(engine: AsyncLLM, replica: int | None = None) -> list[list[int]]:
    async def one(place: int, tokens: list[int]) -> list[int]:
        params = vllm.SamplingParams(temperature=0.0, max_tokens=16, detokenize=False)
        request = f"{place}-{os.urandom(4).hex()}"
        stream = engine.generate({"prompt_token_ids": tokens}, params, request, data_parallel_rank=replica)
        outputs = [output async for output in stream]
        return list(outputs[-1].outputs[0].token_ids)

    return [await one(place, tokens) for place, tokens in enumerate(TOKENS)]


async def observe(engine: AsyncLLM, replicas: int = 1) -> Result:
    reports = await status_async(engine, resident=True)
    ranks = [None] if replicas == 1 else range(replicas)
    tokens = [await greedy(engine, rank) for rank in ranks]
    return {
        "tokens": tokens[0],
        "tokens_of": tokens,
        "resident": [report.pop("resident") for report in reports],
        "status": reports[0],
        "workers": reports,
        "verify": await verify_async(engine),
    }


async def attempt(awaitable: Any) -> str:
    """What a user sees: the error's text, or ``returned``."""
    try:
        return f"returned {await awaitable}"
    except Exception as exc:  # noqa: BLE001 - whatever it is
        return f"{type(exc).__name__}: {exc}"


async def _one_replica(args: Result) -> Result:
    engine = start(args["model"])
    result: Result = {"start": await observe(engine)}
    for name, function in (("status", status), ("verify", verify)):
        try:
            result[f"sync_{name}"] = f"returned {function(engine)}"
        except TypeError as exc:
            result[f"sync_{name}"] = str(exc)
    await engine.collective_rpc("reload_weights", kwargs={"weights_path": args["updated"]})
    result["updated"] = await observe(engine)
    result["incomplete"] = await attempt(engine.collective_rpc("reload_weights", kwargs={"weights_path": args["bad"]}))
    result["incomplete_generate"] = await attempt(greedy(engine))
    result["incomplete_state"] = (await status_async(engine))[0]["state"]
    async with updating_async(engine):
        await engine.collective_rpc("receive_buckets", args=(args["updated"],))
    result["healed"] = await observe(engine)

    async def given_up() -> None:
        async with updating_async(engine):
            await engine.collective_rpc("receive_buckets", args=(args["bad"],))

    result["announced_incomplete"] = await attempt(given_up())
    result["announced_generate"] = await attempt(greedy(engine))
    await engine.collective_rpc("receive_one_by_one", args=(args["updated"],))
    result["healed_again"] = await observe(engine)
    engine.shutdown()
    return result


async def _two_replicas(args: Result) -> Result:
    engine = start(args["model"], data_parallel_size=2, distributed_executor_backend="uni")
    result: Result = {"start": await observe(engine, 2)}
    await engine.collective_rpc("reload_weights", kwargs={"weights_path": args["updated"]})
    result["updated"] = await observe(engine, 2)
    result["incomplete"] = await attempt(engine.collective_rpc("reload_weights", kwargs={"weights_path": args["bad"]}))
    result["incomplete_generate"] = [await attempt(greedy(engine, replica)) for replica in range(2)]
    await engine.collective_rpc("reload_weights", kwargs={"weights_path": args["updated"]})
    result["healed"] = await observe(engine, 2)
    engine.shutdown()
    return result


def one_replica(args: Result) -> Result:
    """Update, refuse an incomplete update without dying, heal."""
    return asyncio.run(_one_replica(args))


def two_replicas(args: Result) -> Result:
    """Two replicas behind vLLM's own load balancer."""
    return asyncio.run(_two_replicas(args))
