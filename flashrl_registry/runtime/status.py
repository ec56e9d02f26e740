"""What a running engine does, read back from its workers."""

from typing import Any

from flashrl_registry.errors import PluginNotActiveError


def status(llm: Any, *, resident: bool = False) -> list[dict[str, Any]]:
    """Ask every worker of an engine what it runs.

    Args:
        llm: A ``vllm.LLM``, or anything with ``collective_rpc(method, kwargs=...)``.
        resident: Also read every resident tensor back through the engine's kernels and hash it (seconds).

    Returns:
        One dict per worker: ``plan_digest``, ``resolved_digest``, ``source``, ``state`` (serving, updating,
        quarantined), ``weight_version``, ``layers`` (count per format, from the engine's modules), ``tensors``
        (count per treatment), ``last_update`` and, when asked for, ``resident`` (name to SHA-256).

    Raises:
        PluginNotActiveError: A worker does not run a plan, or workers differ.
        NotServableError: ``resident`` was asked for while the weights are not one whole update.
    """
    try:
        reports: list[dict[str, Any]] = llm.collective_rpc("flashrl_status", kwargs={"resident": resident})
    except Exception as exc:
        # A subprocess engine wraps what its workers raise in a plain Exception that carries the text.
        if "flashrl_status" not in str(exc):
            raise
        raise PluginNotActiveError(
            "this engine runs no plan: its workers do not know flashrl_status",
            hint="set FLASHRL_CONFIG before the engine is made, and do not exclude the plugin with VLLM_PLUGINS",
        ) from exc
    digests = {report["resolved_digest"] for report in reports}
    if len(digests) != 1:
        raise PluginNotActiveError(f"the workers run different plans: {', '.join(sorted(digests))}")
    return reports
