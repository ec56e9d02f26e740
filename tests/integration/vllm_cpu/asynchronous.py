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
    kwargs = {"max_model_len": 128, "enable_prefix_caching": False, **kwargs}
    args = AsyncEngineArgs(
        model=model, skip_tokenizer_init=True, enforce_eager=True, num_gpu_blocks_override=64,
        worker_extension_cls="receiver.Receiver", **kwargs,
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


PROMPT = [(7 * i) % 250 for i in range(96)]  # three blocks


class Running:
    """A request that goes on by itself."""

    def __init__(self, engine: AsyncLLM, prompt: list[int], count: int) -> None:
        self.tokens: list[int] = []
        self._task = asyncio.create_task(self._go(engine, prompt, count))

    async def _go(self, engine: AsyncLLM, prompt: list[int], count: int) -> None:
        params = vllm.SamplingParams(temperature=0.0, max_tokens=count, detokenize=False, ignore_eos=True)
        async for output in engine.generate({"prompt_token_ids": prompt}, params, os.urandom(4).hex()):
            self.tokens = list(output.outputs[0].token_ids)

    async def until(self, count: int) -> None:
        while len(self.tokens) < count and not self._task.done():
            await asyncio.sleep(0.005)

    async def end(self) -> list[int]:
        await asyncio.wait_for(self._task, 120)
        return self.tokens


async def _paused_update(engine: AsyncLLM, args: Result, *, clear_cache: bool, newcomer: bool) -> Result:
    """One update while a request stands still, seen from that request and from one that comes meanwhile."""
    old = await Running(engine, PROMPT, 8).end()
    running = Running(engine, PROMPT, 100)
    await running.until(4)
    await engine.pause_generation(mode="keep", clear_cache=clear_cache)
    kept = list(running.tokens)
    incomplete = await attempt(engine.collective_rpc("reload_weights", kwargs={"weights_path": args["bad"]}))
    state = (await status_async(engine))[0]["state"]
    await engine.collective_rpc("receive_one_by_one", args=(args["updated"],))
    stood_still = running.tokens == kept
    came = Running(engine, PROMPT, 8) if newcomer else None
    await asyncio.sleep(0.2)
    await engine.resume_generation()
    ended = await running.end()
    after = await (came or Running(engine, PROMPT, 8)).end()
    await engine.reset_prefix_cache()
    whole = await Running(engine, [*PROMPT, *kept], len(ended) - len(kept)).end()
    fresh = await Running(engine, PROMPT, 8).end()
    await engine.collective_rpc("receive_one_by_one", args=(args["model"],))
    return {
        "old": old, "after": after, "fresh": fresh, "kept": kept, "ended": ended, "whole": whole,
        "stood_still": stood_still, "incomplete": incomplete, "state": state,
    }  # fmt: skip


async def _paused(args: Result) -> Result:
    engine = start(args["model"], max_model_len=256, enable_prefix_caching=True, block_size=32)
    result: Result = {}
    for clear_cache in (True, False):
        for newcomer in (True, False):
            name = f"{'cleared' if clear_cache else 'kept'}, {'a newcomer' if newcomer else 'nobody else'}"
            result[name] = await _paused_update(engine, args, clear_cache=clear_cache, newcomer=newcomer)
    engine.shutdown()
    return result


def paused(args: Result) -> Result:
    """Updates between ``pause_generation(mode="keep")`` and ``resume_generation``."""
    return asyncio.run(_paused(args))


def one_replica(args: Result) -> Result:
    """Update, refuse an incomplete update without dying, heal."""
    return asyncio.run(_one_replica(args))


def two_replicas(args: Result) -> Result:
    """Two replicas behind vLLM's own load balancer."""
    return asyncio.run(_two_replicas(args))
