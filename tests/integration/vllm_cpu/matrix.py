"""Every mode x every way weights arrive, in one process: what the matrix test runs, once per engine kind and release.

    python matrix.py run ARGS.json OUT.json

Routes alternate between two checkpoints, so each of them changes every weight, and each result is compared with an
engine that has only ever seen the checkpoint that the route brought.
"""

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

ROUTES = {
    "one_by_one": "one tensor per call",
    "buckets": "buckets in odd order",
    "transfer": "start / update / finish",
    "folder": "reload_weights, path",
    "iterator": "reload_weights, iterator",
}
MODES = {
    "bf16": "bf16",
    "int8": "int8",
    "int8_smoothed": "int8, smoothing of a profile",
    "int8_frozen": "int8, frozen scales of a profile",
    "int8_prune": "int8_prune",
    "mixed": "int8, first and last layer bf16",
    "staged": "int8, staged updates",
    "moe": "mixture of experts: attention int8, experts bf16",
}
LAYERS = {
    "bf16": {"unquantized": 12},
    "mixed": {"int8": 4, "unquantized": 8},
    "moe": {"int8": 4, "unquantized": 4},
}
"""Formats of the engine's layers; a Llama of three layers whose linears are all int8 where it is not said here."""
KINDS = {"in_process": "in this process", "subprocess": "engine core in a subprocess"}


def send(llm: Any, route: str, folder: str) -> None:
    """Bring a checkpoint's weights by one route, from outside the engine."""
    if route == "folder":
        llm.collective_rpc("reload_weights", kwargs={"weights_path": folder})
    elif route == "transfer":
        from receiver import checkpoint

        llm.collective_rpc("start_weight_update")
        for name in checkpoint(folder):
            llm.collective_rpc("update_weights", args=({"folder": folder, "name": name},))
        llm.collective_rpc("finish_weight_update")
    else:
        llm.collective_rpc(f"receive_{route}", args=(folder,))


def engine(model: str) -> Any:
    """An engine with a framework's worker extension and a weight-transfer backend."""
    import receiver  # noqa: F401 - makes the backend known before the arguments are checked
    import scenarios
    from vllm.config import WeightTransferConfig

    return scenarios.engine(
        model,
        worker_extension_cls="receiver.Receiver",
        weight_transfer_config=WeightTransferConfig(backend="folder"),
        num_gpu_blocks_override=64,
    )


def shut_down(llm: Any) -> None:
    """Free an engine; its core, where it is a subprocess, ends."""
    llm.llm_engine.engine_core.shutdown()
    del llm
    gc.collect()


def run(args: dict[str, Any]) -> dict[str, Any]:
    """By mode: ``start`` and each route as observed, and ``fresh``, an engine on the second checkpoint."""
    import vllm
    from scenarios import observe

    out: dict[str, Any] = {"version": vllm.__version__}
    for mode, (config, first, second) in args["modes"].items():
        os.environ["FLASHRL_CONFIG"] = config
        llm = engine(first)
        result = {"start": observe(llm)}
        for index, route in enumerate(ROUTES):
            send(llm, route, (second, first)[index % 2])
            result[route] = observe(llm)
        shut_down(llm)
        if args["with_fresh"]:
            llm = engine(second)
            result["fresh"] = observe(llm)
            shut_down(llm)
        out[mode] = result
    return out


if __name__ == "__main__":
    Path(sys.argv[3]).write_text(json.dumps(run(json.loads(Path(sys.argv[2]).read_text()))))
