"""Random weights of every kind: each kernel must equal plain torch to the bit and write every element, nothing else.

    python tests/gpu/kernels.py [--count 1000] [--seed 0] [--jobs 8]
    TRITON_INTERPRET=1 python tests/gpu/kernels.py --count 100   # without a GPU: small weights, in the interpreter

Needs torch, Triton and a GPU. The plain-torch operations run on the CPU and again on the GPU. Codes go to places in
larger buffers that are poisoned first, twice with different bytes, so an element that was not written and one that
was written beside its place both show. Exits with 1 where anything differs. Nearly every random weight needs a kernel
compiled for it, which is what takes the time; jobs are processes side by side on one GPU.
"""

import argparse
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
import triton.language as tl

sys.path.insert(0, str(Path(__file__).parents[2]))
from flashrl_registry.ops import reference, triton_kernels, triton_ops
from flashrl_registry.runtime import fingerprint

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
OPERATIONS = ("int8", "int8 smoothed", "int8 frozen", "int8 frozen smoothed", "fp8 channel", "fp8 tensor", "fp8 block")
Pair = tuple[torch.Tensor, torch.Tensor]


@dataclass
class Case:
    """One weight and what is done with it, on CPU."""

    operation: str
    weight: torch.Tensor
    layout: str
    values: str
    extra: dict[str, torch.Tensor]
    poisoned: bool

    def __str__(self) -> str:
        shape, strides = tuple(self.weight.shape), self.weight.stride()
        return (
            f"{self.operation}, {self.weight.dtype}, {shape} {strides} {self.layout}, {self.values}, {self.poisoned=}"
        )


def draw(chance: random.Random) -> Case:
    operation = chance.choice(OPERATIONS)
    matrices = chance.choice((0, 0, 1, 2, 5))
    rows, columns = draw_shape(chance, operation)
    shape = (matrices, rows, columns) if matrices else (rows, columns)
    values = chance.choice(("normal", "normal", "tiny", "subnormal", "largest", "zeros", "outlier", "ties", "wide"))
    flat = draw_values(chance, values, shape)
    flat = flat.to(chance.choice(DTYPES))
    if INTERPRETED and flat.dtype == torch.bfloat16:  # Triton 3.9 interprets most bfloat16 subnormals as other numbers
        flat = torch.where(flat.abs() < torch.finfo(torch.bfloat16).tiny, torch.zeros_like(flat), flat)
    layout, weight = draw_layout(chance, flat)
    poisoned = chance.random() < 0.15
    if poisoned:
        place = tuple(chance.randrange(size) for size in shape)
        weight[place] = chance.choice((float("nan"), float("inf"), float("-inf")))
    extra = {}
    if "smoothed" in operation:
        own = matrices and chance.random() < 0.5
        if chance.random() < 0.8:
            which = chance.choice(("inv_columns", "columns"))
            extra[which] = torch.rand((matrices, columns) if own else (columns,)) * 4 + 0.01
        if chance.random() < 0.8:
            extra["inv_rows"] = torch.rand((matrices, rows) if own else (rows,)) * 4 + 0.01
    if "frozen" in operation:
        peaks = weight.float().abs().amax(dim=-1).nan_to_num(1.0, posinf=1.0).clamp(min=1e-45)
        extra["scale"] = (peaks / 127 * (torch.rand(shape[:-1]) * 2 + 0.1)).clamp(min=1e-45, max=1e38)
    return Case(operation, weight, layout, values, extra, poisoned)


def draw_shape(chance: random.Random, operation: str) -> tuple[int, int]:
    if operation == "fp8 block":
        most = 2 if INTERPRETED else 12
        return 128 * chance.randint(1, most), 128 * chance.randint(1, most)
    if chance.random() < 0.1 and not INTERPRETED:  # rows that do not fit on chip
        return chance.choice((1, 3, 40, 300)), chance.randint(16385, 40000)
    most_rows, most_columns = (40, 700) if INTERPRETED else (700, 9000)
    return int(most_rows ** chance.random()), int(most_columns ** chance.random())


def draw_values(chance: random.Random, values: str, shape: tuple[int, ...]) -> torch.Tensor:
    normal = torch.randn(shape)
    if values == "normal":
        normal *= chance.choice((0.02, 1.0, 300.0))
    elif values == "tiny":
        normal *= 1e-37
    elif values == "subnormal":
        normal *= 2e-44
    elif values == "largest":
        normal = torch.where(normal > 0, 65504.0, -65504.0) * torch.where(normal.abs() > 0.1, 1.0, 0.5)
    elif values == "zeros":
        normal = torch.where(torch.rand(shape[:-1])[..., None] < 0.5, normal, normal * 0.0)  # of both signs
    elif values == "outlier":
        normal[tuple(chance.randrange(size) for size in shape)] = chance.choice((3e4, -3e4))
    elif values == "ties":
        normal = torch.randint(-127, 128, shape) + 0.5 * torch.randint(0, 2, shape)
        normal[..., 0] = 127.0
    else:
        normal *= torch.exp2(torch.randint(-126, 120, (*shape[:-1], 1)).float())
    return normal


def draw_layout(chance: random.Random, flat: torch.Tensor) -> tuple[str, torch.Tensor]:
    """The same values with other strides; never contiguous by accident in more than a third."""
    layout = chance.choice(("contiguous", "contiguous", "turned", "inside", "every second column", "every third row"))
    if layout == "turned":
        return layout, flat.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "contiguous":
        return layout, flat
    shape = list(flat.shape)
    if layout == "inside":
        place = torch.zeros(*shape[:-2], shape[-2] + 2, shape[-1] + 3, dtype=flat.dtype)[..., 1:-1, 1:-2]
    elif layout == "every second column":
        place = torch.zeros(*shape[:-1], shape[-1] * 2, dtype=flat.dtype)[..., ::2]
    else:
        place = torch.zeros(*shape[:-2], shape[-2] * 3, shape[-1], dtype=flat.dtype)[..., ::3, :]
    place.copy_(flat)
    if flat.dim() == 3 and chance.random() < 0.5:  # experts beside each other
        layout, place = layout + ", experts inside", place.transpose(0, 1).contiguous().transpose(0, 1)
    return layout, place


def on_device(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the GPU with the same strides and the same place in its buffer."""
    if INTERPRETED:
        return tensor
    buffer = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage()).to(DEVICE)
    return buffer.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def expected(case: Case, weight: torch.Tensor, finite: torch.Tensor) -> Pair:
    kind, extra = case.operation, {name: value.to(weight.device) for name, value in case.extra.items()}
    if kind.startswith("int8"):
        factors = {name: extra.get(name) for name in ("scale", "inv_rows", "inv_columns", "columns")}
        return reference.quantize_int8(weight, **factors, finite=finite, out=None)
    return getattr(reference, f"quantize_{kind.replace(' ', '_')}")(weight, finite, None)


def launched(case: Case, weight: torch.Tensor, finite: torch.Tensor | None, out: Pair | None) -> Pair:
    kind, extra = case.operation, {name: value.to(weight.device) for name, value in case.extra.items()}
    if kind.startswith("int8"):
        factors = {name: extra.get(name) for name in ("scale", "inv_rows", "inv_columns", "columns")}
        return triton_ops.quantize_int8(weight, **factors, finite=finite, out=out)
    return getattr(triton_ops, f"quantize_{kind.replace(' ', '_')}")(weight, finite, out)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.cpu().contiguous().view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[tensor.element_size()])


def poisoned_place(chance: random.Random, codes: torch.Tensor, byte: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A buffer and the place in it for codes, with room around and perhaps turned."""
    shape = list(codes.shape)
    shape[-2:] = [shape[-2] + 2, shape[-1] + 4]
    turned = chance.random() < 0.2
    if turned:
        shape[-2:] = shape[:-3:-1]
    buffer = torch.full(shape, byte, dtype=torch.uint8, device=DEVICE)
    place = buffer.transpose(-1, -2) if turned else buffer
    return buffer, place[..., 1:-1, 2:-2].view(codes.dtype)


def check(case: Case, chance: random.Random) -> list[str]:
    """Everything that is wrong with one case."""
    told = torch.ones((), dtype=torch.bool)
    codes, scales = expected(case, case.weight, told)
    weight = on_device(case.weight)
    finite_weight = bool(told)
    wrong = ["the reference's flag"] * (finite_weight and case.poisoned)
    if not INTERPRETED:
        told_there = torch.ones((), dtype=torch.bool, device=DEVICE)
        theirs = expected(case, weight, told_there)
        wrong += ["plain torch differs between GPU and CPU"] * (finite_weight and not equal(theirs, (codes, scales)))
    before = bits(weight).clone()
    for byte in (0x55, 0xAA):
        buffer, place = poisoned_place(chance, codes, byte)
        scale_place = torch.full_like(scales, float("nan"), device=DEVICE)
        finite = torch.ones((), dtype=torch.bool, device=DEVICE)
        launched(case, weight, finite, (place, scale_place))
        wrong += ["the flag"] * (bool(finite) != finite_weight)
        wrong += ["finite scales"] * (not torch.equal(scale_place.cpu().isfinite(), scales.isfinite()))
        if finite_weight:
            wrong += [f"codes over {byte:x}"] * (not torch.equal(bits(place), bits(codes)))
            wrong += [f"scales over {byte:x}"] * (not torch.equal(bits(scale_place), bits(scales)))
        place.view(torch.uint8).fill_(byte)
        wrong += ["bytes around the codes"] * bool((buffer != byte).any())
    if finite_weight:
        wrong += ["without places"] * (not equal(launched(case, weight, None, None), (codes, scales)))
    wrong += ["the weight was changed"] * (not torch.equal(bits(weight), before))
    return wrong


def equal(left: Pair, right: Pair) -> bool:
    return all(torch.equal(bits(a), bits(b)) for a, b in zip(left, right, strict=True))


def check_fingerprint(chance: random.Random) -> tuple[str, list[str]]:
    dtype = chance.choice((torch.int8, torch.float8_e4m3fn, *DTYPES))
    chunks, rows = chance.choice((1, 1, 2, 4)), chance.randint(1, 60 if INTERPRETED else 400)
    columns = chunks * int((200 if INTERPRETED else 3000) ** chance.random())
    matrix = (torch.randn(rows, columns + 5) * 30).to(dtype)[:, 3 : 3 + columns]
    if chance.random() < 0.5:
        matrix = matrix.contiguous()
    looked_at = dtype in DTYPES
    if poisoned := looked_at and chance.random() < 0.3:
        matrix[chance.randrange(rows), chance.randrange(columns)] = chance.choice((float("nan"), float("inf")))
    first = chance.choice((0, 0, 3))
    finite = torch.ones((), dtype=torch.bool, device=DEVICE)
    found = triton_ops.row_fingerprints(on_device(matrix), chunks, first, finite)
    wanted = fingerprint.fingerprint(matrix.contiguous(), chunks=chunks, first_chunk=first)
    wrong = ["sums"] * (not torch.equal(found.cpu(), wanted)) + ["the flag"] * (bool(finite) == poisoned)
    return f"fingerprint, {dtype}, {tuple(matrix.shape)} {matrix.stride()}, {chunks=} {first=} {poisoned=}", wrong


@triton.jit
def _quotients(values, scales, out, COUNT: tl.constexpr):
    place = tl.program_id(0) * COUNT + tl.arange(0, COUNT)
    tl.store(out + place, triton_kernels._quotient(tl.load(values + place), tl.load(scales + place)))


def check_division(rounds: int) -> tuple[str, list[str]]:
    """Quotients beside the points where a code changes, for scales of every size, against the IEEE division."""
    count, wrong, compared = (1 << 12 if INTERPRETED else 1 << 24), 0, 0
    for seed in range(rounds):
        generator = torch.Generator(DEVICE).manual_seed(seed)
        bits_of = torch.randint(1, 0x7F000000, (count,), generator=generator, device=DEVICE, dtype=torch.int32)
        scale = bits_of.view(torch.float32)
        target = torch.randint(-255, 256, (count,), generator=generator, device=DEVICE) * 0.5
        if seed % 2:  # e4m3's ties
            exponent = torch.randint(-9, 8, (count,), generator=generator, device=DEVICE)
            target = torch.exp2(exponent.float()) * (1 + target.abs() % 16 / 16)
        value = scale.double() * target
        value = value.float().view(torch.int32)
        value = (value + torch.randint(-2, 3, (count,), generator=generator, device=DEVICE, dtype=torch.int32)).view(
            torch.float32
        )
        found = torch.empty_like(value)
        _quotients[(count // 1024,)](value, scale, found, COUNT=1024)
        wanted = value / scale
        counts = value.isfinite() & (wanted.abs() > 2**-11) & (wanted.abs() < 600)
        compared += int(counts.sum())
        wrong += int(((found != wanted) & counts).sum())
    return f"division, {compared} quotients", [f"{wrong} differ"] if wrong else []


def run(count: int, seed: int) -> int:
    torch.manual_seed(seed)
    chance, began = random.Random(seed), time.perf_counter()
    checks: list[tuple[str, Callable[[], tuple[str, list[str]]]]] = []
    failures, seen = [], Counter[str]()

    def of_case() -> tuple[str, list[str]]:
        case = draw(chance)
        return str(case), check(case, chance)

    checks += [("kernels", of_case)] * count
    checks += [("fingerprints", lambda: check_fingerprint(chance))] * (count // 5)
    checks += [("division", lambda: check_division(2 if INTERPRETED else 16))]
    for kind, one in checks:
        name, wrong = one()
        seen[kind] += 1
        if wrong:
            failures.append(f"FAILED {name}: {', '.join(wrong)}")
    print("\n".join(failures[:20]))
    device = "Triton's interpreter" if INTERPRETED else torch.cuda.get_device_name()
    versions = f"torch {torch.__version__}, triton {triton.__version__}"
    print(f"{dict(seen)}: {len(failures)} failed, {time.perf_counter() - began:.0f} s, {device}, {versions}")
    return 1 if failures else 0


def side_by_side(count: int, seed: int, jobs: int) -> int:
    share = -(-count // jobs)
    commands = [
        [sys.executable, __file__, "--count", str(min(share, count - share * job)), "--seed", str(seed * 1000 + job)]
        for job in range(jobs)
        if count > share * job
    ]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) for command in commands]
    failed = 0
    for process in running:
        print(process.communicate()[0].strip(), flush=True)
        failed += process.returncode != 0
    print(f"{len(running)} jobs, {failed} failed")
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    if given.jobs > 1:
        return side_by_side(given.count, given.seed, given.jobs)
    return run(given.count, given.seed)


if __name__ == "__main__":
    sys.exit(main())
