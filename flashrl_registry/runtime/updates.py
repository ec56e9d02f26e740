"""For senders that know where their update begins and ends, and for those who want proof."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from flashrl_registry.runtime.reporting import refuse_awaitable


@contextmanager
def updating(llm: Any, *, partial: bool = False) -> Iterator[None]:
    """Everything that is sent inside the block is one weight update.

    Args:
        llm: A ``vllm.LLM``, or anything with ``collective_rpc(method, kwargs=...)``. For ``AsyncLLM`` there is
            :func:`updating_async`.
        partial: Some layers only, each of them whole; the others keep their weights. Fused layers (q, k, v; gate,
            up; the experts of one layer) are one layer.

    Raises:
        WeightMismatchError: At the end of the block: tensors are missing. The update is refused as a whole.
        RuntimeLoadError: A partial update of an engine that does not serve.
        TypeError: ``llm`` is asynchronous.
    """
    refuse_awaitable(llm.collective_rpc("flashrl_begin_update", kwargs={"partial": partial}), "updating")
    try:
        yield
    except BaseException:
        llm.collective_rpc("flashrl_abort_update")
        raise
    llm.collective_rpc("flashrl_finish_update")


@asynccontextmanager
async def updating_async(engine: Any, *, partial: bool = False) -> AsyncIterator[None]:
    """:func:`updating` for a ``vllm.AsyncLLM``, by ``async with``.

    Args:
        engine: An ``AsyncLLM``, or anything with an awaitable ``collective_rpc(method, kwargs=...)``.
        partial: As for :func:`updating`.

    Raises:
        WeightMismatchError: As :func:`updating`.
        RuntimeLoadError: As :func:`updating`.
    """
    await engine.collective_rpc("flashrl_begin_update", kwargs={"partial": partial})
    try:
        yield
    except BaseException:
        await engine.collective_rpc("flashrl_abort_update")
        raise
    await engine.collective_rpc("flashrl_finish_update")


def verify(llm: Any, *, layers: int | None = None) -> list[dict[str, Any]]:
    """Compare what every worker holds with what the plan made of the last update, bit by bit.

    Args:
        llm: A ``vllm.LLM``, or anything with ``collective_rpc(method, kwargs=...)``. For ``AsyncLLM`` there is
            :func:`verify_async`.
        layers: Read back at most so many of the engine's linears, evenly spaced; None reads all.

    Returns:
        One dict per worker: ``compared``, ``equal`` (numbers of checkpoint tensors), ``different`` (names),
        ``not_compared`` (reason to names; before a first complete update, all names), ``weight_version``, ``rank``,
        ``replica``, ``member``.

    Raises:
        NotServableError: The weights are not one whole update.
        TypeError: ``llm`` is asynchronous.
    """
    return refuse_awaitable(llm.collective_rpc("flashrl_verify", kwargs={"layers": layers}), "verify")


async def verify_async(engine: Any, *, layers: int | None = None) -> list[dict[str, Any]]:
    """:func:`verify` of a ``vllm.AsyncLLM``, over all of its data-parallel replicas.

    Args:
        engine: An ``AsyncLLM``, or anything with an awaitable ``collective_rpc(method, kwargs=...)``.
        layers: As for :func:`verify`.

    Returns:
        As :func:`verify`.

    Raises:
        NotServableError: As :func:`verify`.
    """
    reports: list[dict[str, Any]] = await engine.collective_rpc("flashrl_verify", kwargs={"layers": layers})
    return reports


def evenly_spaced(names: list[str], limit: int | None) -> list[str]:
    """At most so many of them, the first among them; None takes all."""
    count = len(names) if limit is None else max(0, min(limit, len(names)))
    return [names[index * len(names) // count] for index in range(count)]
