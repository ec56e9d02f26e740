"""Seconds and memory of a weight update from tensors on the GPU, under plans and by vLLM itself, in one process each.

    python bench/gpu/update.py [--shape 7b] [--only int8,bf16] [--jobs 4] [--streamed] [--json FILE] [--baseline FILE]

Engines of a Qwen2 model with random weights are updated by ``reload_weights(weights_iterator=...)`` with the whole
checkpoint in bfloat16 on the GPU (vLLM's W8A8 with int8 codes and scales), and under plans also by one bare call of
``model.load_weights`` and by one call per tensor. Two rounds warm up, in which shapes are seen and kernels compiled.
Printed: medians, the least, the memory beside what was allocated before, both ratios that matter (to vLLM's bf16
reload and to vLLM's own reload of the same format), and the time that the bytes alone would take. ``--streamed`` makes
each tensor when it is asked for and drops it afterwards, for models that do not fit beside the engine: memory only,
of which the largest tensor in bfloat16 is the sender's. ``--jobs`` engines start side by side; one at a time is
measured. Needs vLLM, this project installed, and one GPU.
"""

import fcntl
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shapes import NATIVE, OF_PLAN, SHAPES, arguments, chosen, finish, in_a_process_of_its_own, machine

WARM_UP = 2
ENGINES = [*NATIVE, "bf16", "int8", "fp8", "fp8_tensor", "fp8_channel", "fp8_block"]


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--shape", default="7b", choices=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds")
    parser.add_argument("--streamed", action="store_true")
    parser.add_argument("--jobs", type=int, default=1, help="engines that fit on the GPU beside a checkpoint")
    given = parser.parse_args()
    if given.one:
        one_engine(json.loads(given.one))
        return 0
    report = machine()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(given.jobs) as pool:
        model = SHAPES[given.shape].write(Path(folder) / given.shape)
        common = {"shape": given.shape, "model": str(model), "rounds": given.rounds, "streamed": given.streamed}
        common["lock"] = str(Path(folder) / "lock")

        def run(engine: str) -> dict[str, Any]:
            row = in_a_process_of_its_own(__file__, common | {"engine": engine}, seconds=900, core_inside=True)
            print(f"{engine:21} {text_of(row)}", flush=True)
            return row

        engines = chosen(ENGINES, given.only)
        for first in range(0, len(engines), given.jobs):
            report["rows"] += pool.map(run, engines[first : first + given.jobs])
    show_ratios(report["rows"])
    finish(report, given, "seconds")
    return 0


def text_of(row: dict[str, Any]) -> str:
    ways = ", ".join(
        f"{way} {found['median']:.4f} s (least {found['least']:.4f}, {found['extra_mib']:.0f} MiB)"
        for way, found in row["ways"].items()
    )
    return f"{ways}; bytes alone {row['floor_seconds']:.4f} s; proven {row['proven']}; {row['layers']}"


def show_ratios(rows: list[dict[str, Any]]) -> None:
    seconds = {row["engine"]: row["seconds"] for row in rows}
    for engine, spent in seconds.items():
        if engine in NATIVE:
            continue
        parts = [
            f"{spent / seconds[native]:.2f} of {native}"
            for native in dict.fromkeys(("vLLM bf16", OF_PLAN[engine]))
            if native in seconds
        ]
        print(f"{engine}: {', '.join(parts) or 'nothing to compare with'}")


def one_engine(given: dict[str, Any]) -> None:
    """Start one engine, update it by every way that it has, and write what was found."""
    import torch
    import vllm

    engine, shape = given["engine"], SHAPES[given["shape"]]
    with locked(given["lock"], fcntl.LOCK_SH):
        llm = vllm.LLM(
            model=given["model"], load_format="dummy", skip_tokenizer_init=True, max_model_len=512, enforce_eager=True,
            gpu_memory_utilization=0.1, kv_cache_memory_bytes=1 << 30, **NATIVE.get(engine, {}),
        )  # fmt: skip
    with locked(given["lock"], fcntl.LOCK_EX):  # no engine starts now, and no other is measured
        stream = random_tensors(given["shape"], w8a8=engine == "vLLM W8A8")
        tensors = None if given["streamed"] else dict(stream())
        source = stream if tensors is None else lambda: iter(tensors.items())
        ways: dict[str, Callable[[], Any]] = {
            "reload": lambda: llm.collective_rpc("reload_weights", kwargs={"weights_iterator": source()})
        }
        if engine not in NATIVE:
            model = llm.llm_engine.model_executor.driver_worker.model_runner.get_model()
            ways["one call"] = lambda: model.load_weights(source())
            ways["one by one"] = lambda: [model.load_weights([item]) for item in source()]
        found = {way: measured(update, given["rounds"]) for way, update in ways.items()}
        row = {
            "shape": given["shape"],
            "engine": engine,
            "seconds": found["reload"]["median"],
            "streamed": given["streamed"],
            "ways": found,
            "floor_seconds": floor_bytes(shape.tensors(), engine) / copy_rate(),
            "engine_mib": round(torch.cuda.memory_allocated() / 2**20),
        }
        Path(given["out"]).write_text(json.dumps(row | what_runs(llm, engine)))
        if tensors is not None:
            tensors.clear()
        torch.cuda.empty_cache()  # the next engine's checkpoint goes here


@contextmanager
def locked(lock: str, how: int) -> Iterator[None]:
    """Hold a lock of all engines' processes."""
    with Path(lock).open("w") as handle:
        fcntl.flock(handle, how)
        yield


def random_tensors(name: str, *, w8a8: bool) -> Callable[[], Iterator[tuple[str, Any]]]:
    """A checkpoint's tensors on the GPU, made one after another."""
    import torch

    from flashrl_registry import ops

    def stream() -> Iterator[tuple[str, Any]]:
        generator = torch.Generator("cuda").manual_seed(0)
        for tensor, shape in SHAPES[name].tensors().items():
            value = torch.empty(shape, dtype=torch.bfloat16, device="cuda").normal_(0, 0.02, generator=generator)
            if w8a8 and is_linear(tensor):
                codes, scales = ops.quantize_int8(value)
                yield tensor, codes
                yield f"{tensor}_scale", scales
            else:
                yield tensor, value

    return stream


def is_linear(tensor: str) -> bool:
    return tensor.endswith("_proj.weight")


def measured(update: Callable[[], Any], rounds: int) -> dict[str, float]:
    import torch

    seconds, extra = [], []
    for _ in range(WARM_UP + rounds):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before, began = torch.cuda.memory_allocated(), time.perf_counter()
        update()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
        extra.append(torch.cuda.max_memory_allocated() - before)
    counted = seconds[WARM_UP:]
    return {
        "median": statistics.median(counted),
        "least": min(counted),
        "first": seconds[0],
        "extra_mib": round(statistics.median(extra[WARM_UP:]) / 2**20, 1),
    }


def floor_bytes(tensors: dict[str, tuple[int, ...]], engine: str) -> int:
    """Bytes that must be read and written: two and two, or one where codes are kept, or arrive."""
    import math

    total = 0
    for name, shape in tensors.items():
        low = is_linear(name) and engine not in ("vLLM bf16", "bf16")
        total += math.prod(shape) * ((1 if engine == "vLLM W8A8" else 2) + 1 if low else 4)
    return total


def copy_rate() -> float:
    """Bytes read and written per second by a copy on the device."""
    import torch

    source = torch.zeros(1 << 28, dtype=torch.uint8, device="cuda")
    target, times = torch.empty_like(source), []
    for _ in range(20):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        target.copy_(source)
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return 2 * source.nbytes / statistics.median(times) * 1e3


def what_runs(llm: Any, engine: str) -> dict[str, Any]:
    """Under a plan: which layers there are, and how many tensors are proven to be what was sent."""
    if engine in NATIVE:
        return {"layers": {}, "proven": "not asked"}
    from flashrl_registry.runtime import status, verify

    report = verify(llm)[0]
    return {"layers": status(llm)[0]["layers"], "proven": f"{report['equal']} of {report['compared']}"}


if __name__ == "__main__":
    sys.exit(main())
