"""How near the quantize operations come to the speed of the GPU's memory, beside other ways to compute the same.

    python bench/gpu/quantize.py [--json FILE] [--baseline FILE]

For each operation on one bfloat16 weight: the bytes it must move (the weight once, codes and scales once) per second,
as a share of what ``copy_`` moves of as many bytes in the same run; medians over repetitions, each timed by events on
the device, the ways taking turns. Ways: the kernels, the plain-torch expression, ``torch.compile`` of it, and for
frozen scales FlashRL's expression. Then the kernels alone on other shapes, the time that a call takes on the host,
and fingerprints. Needs torch, Triton and a GPU; nothing of vLLM. Figures of another GPU are not compared.
"""

import argparse
import datetime
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))
from flashrl_registry import ops
from flashrl_registry.ops import triton_ops
from flashrl_registry.runtime import fingerprint

SHAPE = (27648, 5120)
OTHER_SHAPES = ((5120, 27648), (5120, 5120), (18944, 3584), (3584, 18944), (128, 1536, 2048), (151936, 4096))
"""Of dense models with 32 and 7 billion parameters, of stacked experts, of a head."""
Run = Callable[[], Any]


def operations(weight: Tensor) -> dict[str, tuple[Run, Callable[..., Any] | None, tuple[Any, ...]]]:
    """By name: the operation under the setting in force, an expression to compile, and its arguments."""
    lead, columns = weight.shape[:-1], weight.shape[-1]
    inv_I = torch.rand(columns, device=weight.device) + 0.5
    columns_I = 1.0 / inv_I  # a plan's factors are those of every update
    scale_O1 = weight.float().abs().amax(dim=-1, keepdim=True) / 127 if weight.numel() < 2**28 else None
    given = torch.full((*lead, 1), 0.001, device=weight.device) if scale_O1 is None else scale_O1
    made: dict[str, tuple[Run, Callable[..., Any] | None, tuple[Any, ...]]] = {
        "int8 frozen": (lambda: ops.quantize_int8(weight, given), frozen, (weight, given)),
        "int8 frozen, smoothed": (
            lambda: ops.quantize_int8(weight, given, columns_I=columns_I),
            frozen,
            (weight, given, inv_I),
        ),
        "int8 absmax": (lambda: ops.quantize_int8(weight), absmax, (weight,)),
        "int8 absmax, smoothed": (lambda: ops.quantize_int8(weight, columns_I=columns_I), absmax, (weight, inv_I)),
        "fp8 channel": (lambda: ops.quantize_fp8_channel(weight), channel, (weight,)),
        "fp8 tensor": (lambda: ops.quantize_fp8_tensor(weight), tensor, (weight,)),
    }
    if weight.shape[-2] % 128 == columns % 128 == 0:
        made["fp8 block"] = (lambda: ops.quantize_fp8_block(weight), block, (weight,))
    return made


def frozen(weight: Tensor, scale: Tensor, inv: Tensor | None = None) -> Tensor:
    value = weight.float() if inv is None else weight.float() * (1.0 / inv)
    return (value / scale).round().clamp(-128, 127).to(torch.int8)


def absmax(weight: Tensor, inv: Tensor | None = None) -> tuple[Tensor, Tensor]:
    value = weight.float() if inv is None else weight.float() * (1.0 / inv)
    scale = value.abs().amax(dim=-1, keepdim=True) / 127
    scale = torch.where(scale == 0, 1.0, scale)
    return (value / scale).round().clamp(-128, 127).to(torch.int8), scale


def channel(weight: Tensor) -> tuple[Tensor, Tensor]:
    return float8(weight.float(), weight.abs().amax(dim=-1, keepdim=True))


def tensor(weight: Tensor) -> tuple[Tensor, Tensor]:
    return float8(weight.float(), weight.abs().amax())


def block(weight: Tensor) -> tuple[Tensor, Tensor]:
    blocks = weight.unflatten(-1, (-1, 128)).unflatten(-3, (-1, 128))
    codes, scale = float8(blocks.float(), blocks.abs().amax(dim=(-3, -1), keepdim=True))
    return codes.reshape(weight.shape), scale


def float8(value: Tensor, peak: Tensor) -> tuple[Tensor, Tensor]:
    scale = peak.float() / 448
    scale = torch.where(scale == 0, 1.0, scale)
    return (value / scale).clamp(-448, 448).to(torch.float8_e4m3fn), scale


def flashrl(weight: Tensor, given: Tensor, inv: Tensor | None = None) -> Run:
    """FlashRL 1.0.3, ``linear_quantize``: factors of rows and columns, then rounding, in the promoted dtype."""
    output_scale, input_scale = 1 / given, torch.ones(1, weight.shape[-1], device=weight.device)
    if inv is not None:
        input_scale = (1 / inv).view(1, -1)
    return lambda: torch.round(weight * output_scale * input_scale).clamp(min=-128, max=127).to(torch.int8)


def with_setting(run: Run, setting: str) -> Run:
    def under() -> Any:
        os.environ["FLASHRL_OPS"] = setting
        result = run()
        del os.environ["FLASHRL_OPS"]
        return result

    return under


def milliseconds(ways: dict[str, Run], repetitions: int) -> dict[str, float]:
    """Medians; the ways take turns."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(3):
        for run in ways.values():
            run()
    for _ in range(repetitions):
        for name, run in ways.items():
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            torch.cuda._sleep(2_000_000)  # a millisecond in which the host gets ahead, so that no launch is waited for
            begin.record()
            run()
            end.record()
            torch.cuda.synchronize()
            times[name].append(begin.elapsed_time(end))
    return {name: statistics.median(values) for name, values in times.items()}


def moved_bytes(results: Any, weight: Tensor) -> int:
    parts = results if isinstance(results, tuple) else (results,)
    return weight.nbytes + sum(part.nbytes for part in parts)


def extra_mib(run: Run) -> float:
    """Memory beside the results."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    results = run()
    kept = torch.cuda.memory_allocated() - before
    peak = torch.cuda.max_memory_allocated() - before
    del results
    return (peak - kept) / 2**20


def copy_of(num_bytes: int) -> Run:
    """A copy that reads and writes as many bytes together."""
    source = torch.randint(0, 127, (num_bytes // 2,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def every_way(shape: tuple[int, ...], repetitions: int) -> list[dict[str, Any]]:
    weight = random_weight(shape)
    rows = []
    for name, (run, expression, arguments) in operations(weight).items():
        num_bytes = moved_bytes(run(), weight)
        ways = {"copy": copy_of(num_bytes), "kernel": with_setting(run, "auto")}
        ways["plain torch"] = with_setting(run, "reference")
        ways["torch.compile"] = compiled(expression, arguments)
        if expression is frozen:
            ways["FlashRL's expression"] = flashrl(*arguments)
        for way, median in milliseconds(ways, repetitions).items():
            rows.append(row(shape, name, way, num_bytes, median) | {"extra_mib": round(extra_mib(ways[way]), 1)})
        copy = rows[-len(ways)]["milliseconds"]
        for entry in rows[-len(ways) :]:
            entry["of_copy"] = round(copy / entry["milliseconds"], 3)
        torch._dynamo.reset()
    return rows


def compiled(expression: Any, arguments: tuple[Any, ...]) -> Run:
    made = torch.compile(expression, dynamic=False)
    return lambda: made(*arguments)


def kernels_only(shape: tuple[int, ...], repetitions: int) -> list[dict[str, Any]]:
    weight = random_weight(shape)
    made = {name: run for name, (run, _, _) in operations(weight).items()}
    num_bytes = weight.nbytes * 3 // 2
    medians = milliseconds({"copy": copy_of(num_bytes), **made}, repetitions)
    return [
        row(shape, name, "kernel", num_bytes, median) | {"of_copy": round(medians["copy"] / median, 3)}
        for name, median in medians.items()
    ]


def fingerprints(shape: tuple[int, ...], repetitions: int) -> list[dict[str, Any]]:
    """What proving costs beside quantizing: codes are read once more."""
    codes = torch.randint(-127, 128, shape, dtype=torch.int8, device="cuda")
    ways = {"copy": copy_of(codes.nbytes), "kernel": lambda: triton_ops.row_fingerprints(codes, 1, 0)}
    ways["plain torch"] = with_setting(lambda: fingerprint.fingerprint(codes), "reference")
    medians = milliseconds(ways, repetitions)
    return [
        row(shape, "fingerprints of int8 codes", way, codes.nbytes, median)
        | {"of_copy": round(medians["copy"] / median, 3)}
        for way, median in medians.items()
    ]


def host_microseconds() -> dict[str, float]:
    """What one call costs the host, on a weight so small that the device never holds it up."""
    weight, found = random_weight((256, 256)), {}
    for name, (run, _, _) in operations(weight).items():
        for _ in range(10):
            run()
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(200):
            run()
        found[name] = round((time.perf_counter() - began) / 200 * 1e6, 1)
        torch.cuda.synchronize()
    return found


def random_weight(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16).mul_(0.02)


def row(shape: tuple[int, ...], name: str, way: str, num_bytes: int, median: float) -> dict[str, Any]:
    rate = num_bytes / median / 1e6
    return {"shape": shape, "operation": name, "way": way, "milliseconds": round(median, 4), "gb_per_s": round(rate, 1)}


def show(rows: list[dict[str, Any]]) -> None:
    for entry in rows:
        shape = "x".join(map(str, entry["shape"]))
        extra = f", {entry['extra_mib']} MiB beside the results" if "extra_mib" in entry else ""
        print(
            f"{shape:16} {entry['operation']:27} {entry['way']:21} {entry['milliseconds']:9.4f} ms "
            f"{entry['gb_per_s']:8.1f} GB/s {entry['of_copy']:6.3f} of copy{extra}",
            flush=True,
        )


def compare(report: dict[str, Any], baseline: Path) -> None:
    before = json.loads(baseline.read_text())
    if before["device"] != report["device"]:
        sys.exit(f"{baseline} was measured on {before['device']}, this is {report['device']}: not compared")
    known = {(tuple(e["shape"]), e["operation"], e["way"]): e["milliseconds"] for e in before["rows"]}
    for entry in report["rows"]:
        if old := known.get((entry["shape"], entry["operation"], entry["way"])):
            print(f"{entry['operation']}, {entry['way']}: {entry['milliseconds'] / old:.2f} of the time before")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where to write all figures")
    parser.add_argument("--baseline", type=Path, help="an earlier file of the same GPU, to compare with")
    parser.add_argument("--repetitions", type=int, default=40)
    given = parser.parse_args()
    torch.manual_seed(0)
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "versions": {"torch": torch.__version__, "triton": triton.__version__, "cuda": torch.version.cuda},
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "rows": [],
    }
    print(report["device"], report["versions"], report["date"])
    report["host_microseconds_per_call"] = host_microseconds()
    print("microseconds of the host per call:", report["host_microseconds_per_call"])
    makers: list[Callable[[], list[dict[str, Any]]]] = [
        lambda: every_way(SHAPE, given.repetitions),
        lambda: fingerprints(SHAPE, given.repetitions),
        *((lambda shape=shape: kernels_only(shape, given.repetitions)) for shape in OTHER_SHAPES),
    ]
    for maker in makers:
        rows = maker()
        show(rows)
        report["rows"] += rows
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(report, indent=1) + "\n")
    if given.baseline:
        compare(report, given.baseline)


if __name__ == "__main__":
    main()
