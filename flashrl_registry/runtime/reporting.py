"""What a running engine does, read back from its workers."""

import inspect
from typing import Any

from flashrl_registry.errors import PluginNotActiveError

_METHOD = "flashrl_status"


def status(llm: Any, *, resident: bool = False) -> list[dict[str, Any]]:
    """Ask every worker of an engine what it runs.

    Args:
        llm: A ``vllm.LLM``, or anything with ``collective_rpc(method, kwargs=...)``. For ``AsyncLLM`` there is
            :func:`status_async`.
        resident: Also read every resident tensor back through the engine's kernels and hash it (seconds).

    Returns:
        One dict per worker: ``plan_digest``, ``resolved_digest``, ``source``, ``state`` (serving, updating,
        quarantined), ``weight_version``, ``layers`` (count per format, from the engine's modules), ``tensors``
        (count per treatment), ``last_update``, ``rank``, ``replica`` (data-parallel rank), ``member`` (of a hybrid)
        and, when asked for, ``resident`` (name to SHA-256).

    Raises:
        PluginNotActiveError: A worker does not run a plan, or workers of one replica differ.
        NotServableError: ``resident`` was asked for while the weights are not one whole update.
        TypeError: ``llm`` is asynchronous.
    """
    try:
        reports = llm.collective_rpc(_METHOD, kwargs={"resident": resident})
    except Exception as exc:
        _explain(exc)
        raise
    return _one_plan_per_replica(refuse_awaitable(reports, "status"))


async def status_async(engine: Any, *, resident: bool = False) -> list[dict[str, Any]]:
    """:func:`status` of a ``vllm.AsyncLLM``, over all of its data-parallel replicas.

    Args:
        engine: An ``AsyncLLM``, or anything with an awaitable ``collective_rpc(method, kwargs=...)``.
        resident: As for :func:`status`.

    Returns:
        As :func:`status`.

    Raises:
        PluginNotActiveError: As :func:`status`.
        NotServableError: As :func:`status`.
    """
    try:
        reports = await engine.collective_rpc(_METHOD, kwargs={"resident": resident})
    except Exception as exc:
        _explain(exc)
        raise
    return _one_plan_per_replica(reports)


def refuse_awaitable(result: Any, name: str) -> list[dict[str, Any]]:
    """What a ``collective_rpc`` returned, if it is not something to be awaited.

    Raises:
        TypeError: It is.
    """
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise TypeError(f"this engine is asynchronous; write: await flashrl_registry.{name}_async(engine)")
    reports: list[dict[str, Any]] = result
    return reports


def _explain(exc: Exception) -> None:
    # A subprocess engine wraps what its workers raise in a plain Exception that carries the text.
    if _METHOD in str(exc):
        raise PluginNotActiveError(
            f"this engine runs no plan: its workers do not know {_METHOD}",
            hint="set FLASHRL_CONFIG before the engine is made, and do not exclude the plugin with VLLM_PLUGINS",
        ) from exc


def _one_plan_per_replica(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    digests: dict[int, set[str]] = {}
    for report in reports:
        digests.setdefault(report["replica"], set()).add(report["resolved_digest"])
    for replica, found in digests.items():
        if len(found) != 1:
            raise PluginNotActiveError(
                f"the workers of replica {replica} run different plans: {', '.join(sorted(found))}"
            )
    return reports
