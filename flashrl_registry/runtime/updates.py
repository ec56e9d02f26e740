"""For senders that know where their update begins and ends, and for those who want proof."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def updating(llm: Any, *, partial: bool = False) -> Iterator[None]:
    """Everything that is sent inside the block is one weight update.

    Args:
        llm: A ``vllm.LLM``, or anything with ``collective_rpc(method, kwargs=...)``.
        partial: Some layers only, each of them whole; the others keep their weights. Fused layers (q, k, v; gate,
            up; the experts of one layer) are one layer.

    Raises:
        WeightMismatchError: At the end of the block: tensors are missing. The update is refused as a whole.
        RuntimeLoadError: A partial update of an engine that does not serve.
    """
    llm.collective_rpc("flashrl_begin_update", kwargs={"partial": partial})
    try:
        yield
    except BaseException:
        llm.collective_rpc("flashrl_abort_update")
        raise
    llm.collective_rpc("flashrl_finish_update")


def verify(llm: Any, *, layers: int | None = None) -> list[dict[str, Any]]:
    """Compare what every worker holds with what the plan made of the last update, bit by bit.

    Args:
        llm: A ``vllm.LLM``, or anything with ``collective_rpc(method, kwargs=...)``.
        layers: Read back at most so many linears, evenly spaced; None reads all.

    Returns:
        One dict per worker: ``compared``, ``equal`` (numbers of checkpoint tensors), ``different`` (names),
        ``not_compared`` (reason to names), ``weight_version``.

    Raises:
        NotServableError: The weights are not one whole update.
    """
    reports: list[dict[str, Any]] = llm.collective_rpc("flashrl_verify", kwargs={"layers": layers})
    return reports
