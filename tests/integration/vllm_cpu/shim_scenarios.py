"""What happens without each work-around of ``runtime/_vllm/compat.py``, and with it, in one process.

    python shim_scenarios.py shims ARGS.json OUT.json

A work-around is taken away by putting a function that does nothing in its place, before vLLM is told anything.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matrix
import receiver
import torch
from scenarios import engine, greedy, live_model, send_one_by_one
from vllm.model_executor.kernels.linear.scaled_mm import cpu as cpu_kernels

from flashrl_registry.runtime import status, updating
from flashrl_registry.runtime._vllm import compat

Result = dict[str, Any]


@contextmanager
def without(*names: str) -> Iterator[None]:
    kept = {name: getattr(compat, name) for name in names}
    for name in names:
        setattr(compat, name, lambda *_: None)
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(compat, name, function)


@contextmanager
def onednn_int8() -> Iterator[None]:
    """vLLM 0.32 prefers another kernel where the processor has AMX; this test is about oneDNN's."""
    original = getattr(cpu_kernels, "check_cpu_sgl_kernel", None)
    if original is not None:
        cpu_kernels.check_cpu_sgl_kernel = lambda *_, **__: False
    try:
        yield
    finally:
        if original is not None:
            cpu_kernels.check_cpu_sgl_kernel = original


def overwrite_freed_memory(model: Any) -> None:
    """Take up what was freed, in the sizes that scales have."""
    sizes = {layer.weight_scale.numel() for layer in model.modules() if hasattr(layer, "weight_scale")}
    taken.extend(torch.full((size, 1), 3.0) for size in sizes for _ in range(256))


taken: list[torch.Tensor] = []


def updated(config: str, models: list[str]) -> Result:
    """Update from the first model to the second, beside an engine on the second."""
    os.environ["FLASHRL_CONFIG"] = config
    llm = engine(models[0])
    send_one_by_one(llm, models[1])
    overwrite_freed_memory(live_model(llm))
    fresh = engine(models[1])
    equal = [greedy(llm) == greedy(fresh)]
    equal.append(status(llm, resident=True)[0]["resident"] == status(fresh, resident=True)[0]["resident"])
    for made in (fresh, llm):
        matrix.shut_down(made)  # 0.27.1 keeps a dense model's process groups, which experts cannot use
    return {"equal": all(equal)}


def scales(args: Result) -> Result:
    with onednn_int8():
        return updated("int8", args["dense"])


def experts(args: Result) -> Result:
    return updated("bf16", args["experts"])


def tied(args: Result) -> Result:
    return updated("bf16", args["tied"])


def emptied(args: Result) -> Result:
    """An update that leaves layers alone whose weights the kernel has taken away."""
    os.environ["FLASHRL_CONFIG"] = "int8"
    with onednn_int8():
        llm = engine(args["dense"][0])
        layer = {name: value for name, value in receiver.checkpoint(args["dense"][0]).items() if ".layers.1." in name}
        before = greedy(llm)
        with updating(llm, partial=True):
            live_model(llm).load_weights(list(layer.items()))
        try:
            found = {"equal": greedy(llm) == before}
        except AttributeError as exc:
            found = {"equal": False, "error": str(exc)}
    matrix.shut_down(llm)
    return found


CASES: dict[str, tuple[str, Callable[[Result], Result]]] = {
    # Those that change a function of vLLM for good come first: once there, they cannot be taken away.
    "keep_onednn_scales_alive": ("scales", scales),
    "repack_cpu_experts": ("experts", experts),
    "refresh_tied_head": ("tied", tied),
    "remember_emptied": ("emptied", emptied),
}


def shims(args: Result) -> Result:
    """By work-around: what is seen without it and with it."""
    out: Result = {name: {} for name in CASES}
    lasting = ("keep_onednn_scales_alive", "repack_cpu_experts")
    for name, (_, case) in CASES.items():
        with without(*({*lasting, name} if name in lasting else {name})):
            out[name]["without"] = case(args)
    for name, (_, case) in CASES.items():
        out[name]["with"] = case(args)
    return out


if __name__ == "__main__":
    Path(sys.argv[3]).write_text(json.dumps(shims(json.loads(Path(sys.argv[2]).read_text()))))
