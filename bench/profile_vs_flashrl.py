"""Profile one checkpoint pair with FlashRL 1.0.3 and with flashrl-registry: time, memory, and do they agree?

    python demo/prepare_pair.py --out .cache/pair
    python bench/profile_vs_flashrl.py                  # the demo's pair, SmolLM2-135M
    python bench/profile_vs_flashrl.py --shape 0.5b     # a synthetic pair in the shapes of Qwen2.5-0.5B; 1.5b
    python bench/profile_vs_flashrl.py --shape 32b      # our memory alone, on a stand-in for Qwen2.5-32B

Each run is a child process, and its whole life counts: interpreter, imports, work. They alternate; the first
run of each warms the page cache and is not counted. *Every row* is our profile with every row of every linear
requantized and compared, which FlashRL does not do. FlashRL is installed into a folder of its own (its source
distribution would write into site-packages) and only its ``flash_quantization.py`` is loaded, because importing
the package configures logging and patches vLLM. Exits with 1 where the profiles disagree.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

# torch is imported after the last run only: a child's peak memory starts at what its parent held when it forked.
if TYPE_CHECKING:
    from torch import Tensor

    from flashrl_registry.documents import Profile

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
REQUIREMENT = "flash-llm-rl==1.0.3"
LARGEST_RELATIVE_DIFFERENCE = 1e-5
"""For the least-squares terms, whose sums the two take in different order and precision."""

THEIRS = """
import importlib.util, sys, types
spec = importlib.util.spec_from_file_location("flash_quantization", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.AutoTokenizer = types.SimpleNamespace(from_pretrained=lambda folder: None)  # loaded and never used
module.profiling_int8(*sys.argv[2:])
"""
OURS = """
import sys
from pathlib import Path
from flashrl_registry.profiling import profile_pair
profile_pair(*map(Path, sys.argv[1:4]), threads=int(sys.argv[4]), every_row=sys.argv[5] == "every")
"""
RATE = """
import os, sys, time
from pathlib import Path
from flashrl_registry.profiling import profile_pair
files, buffer = [Path(folder) / "model.safetensors" for folder in sys.argv[1:3]], bytearray(1 << 20)
start, total = time.perf_counter(), 0
for file in files:
    descriptor = os.open(file, os.O_RDONLY)
    while got := os.readv(descriptor, [buffer]):
        total += got
    os.close(descriptor)
cache = total / (time.perf_counter() - start) / 1e9
for threads, every_row in ((1, False), (2, False), (1, True), (2, True)):
    best, read = None, 0
    for _ in range(4):  # the first one loads the compiled loops
        calls = []
        start = time.perf_counter()
        profile_pair(files[0].parent, files[1].parent, Path(sys.argv[3]), threads=threads, every_row=every_row,
                     progress=lambda *call: calls.append(call[3]))
        wall, read = time.perf_counter() - start, max(calls)
        best = wall if best is None else min(best, wall)
    kind = "every row" if every_row else "sample"
    print(f"{threads} {kind} {best:.3f} {read / 1e9:.3f} {read / best / 1e9:.2f} {cache:.2f}")
"""


@dataclass
class Runs:
    """What the runs of one profiler cost."""

    wall_seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    peak_mib: list[float] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pair", type=Path, default=CACHE / "pair", help="folder that prepare_pair.py wrote")
    parser.add_argument("--shape", choices=("0.5b", "1.5b", "32b"), help="a synthetic pair instead")
    parser.add_argument("--repeats", type=int, default=5, help="counted runs of each")
    parser.add_argument("--flashrl-site", type=Path, default=CACHE / "flashrl", help="where FlashRL is installed")
    args = parser.parse_args()
    reference, quantized = args.pair / "SmolLM2-135M-Instruct", args.pair / "SmolLM2-135M-Instruct-quantized.w8a8"
    if args.shape:
        folder = CACHE / "bench"
        make = [sys.executable, str(ROOT / "bench" / "synthetic_pair.py"), "--shape", args.shape, "--out", str(folder)]
        subprocess.run(make, check=True)
        reference, quantized = folder / args.shape / "reference", folder / args.shape / "quantized"
    if missing := [str(folder) for folder in (reference, quantized) if not (folder / "config.json").exists()]:
        raise SystemExit(f"no checkpoint in {', '.join(missing)}: run demo/prepare_pair.py --out {args.pair}")
    with tempfile.TemporaryDirectory() as scratch:
        return run(reference, quantized, Path(scratch), args)


def run(reference: Path, quantized: Path, scratch: Path, args: argparse.Namespace) -> int:
    """Measure one pair and print the tables."""
    theirs, ours = scratch / "theirs.pt", scratch / "ours.yaml"
    pair = [str(reference), str(quantized)]
    mine = [sys.executable, "-c", OURS, *pair]
    commands = {
        "ours": [*mine, str(ours), "1", "sample"],
        "every row": [*mine, str(scratch / "every.yaml"), "1", "every"],
        "every row, 2 threads": [*mine, str(scratch / "every2.yaml"), "2", "every"],
    }
    if args.shape != "32b":
        source = install_flashrl(args.flashrl_site)
        commands = {"theirs": [sys.executable, "-c", THEIRS, str(source), *pair, str(theirs)], **commands}
    runs = measure(commands, args.repeats)
    print(cost_table(runs), end="\n\n")
    rate = [sys.executable, "-c", RATE, *pair, str(scratch / "rate.yaml")]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    if args.shape != "32b":  # its ends are sparse, which a disk would not be
        print(rate_table(subprocess.run(rate, env=environ, check=True, capture_output=True, text=True).stdout))
    if "theirs" not in runs:
        return 0
    lines, agree = compare(theirs, ours)
    print("\n".join(lines))
    print("\nThe profiles agree." if agree else "\nThe profiles DISAGREE.")
    return 0 if agree else 1


def rate_table(text: str) -> str:
    """In one process, after the compiled loops are loaded: the best of three."""
    lines = [
        "| in one process, best of 3 | seconds | GB read | GB/s | page cache alone, GB/s |",
        "|---|---:|---:|---:|---:|",
    ]
    for line in text.splitlines():
        threads, *kind, seconds, read, rate, cache = line.split()
        lines.append(f"| {' '.join(kind)}, {threads} thread(s) | {seconds} | {read} | {rate} | {cache} |")
    return "\n".join([*lines, ""])


def install_flashrl(site: Path) -> Path:
    """FlashRL's quantization module, installed from its wheel into a folder that nothing else uses."""
    source = site / "flash_rl" / "flash_quantization.py"
    if not source.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-deps", "--only-binary", ":all:", "--target", str(site), REQUIREMENT], check=True)
    return source


def measure(commands: dict[str, list[str]], repeats: int) -> dict[str, Runs]:
    """Run the commands in turn; the first turn is not counted."""
    runs = {name: Runs() for name in commands}
    for turn in range(repeats + 1):
        for name, command in commands.items():
            wall, cpu, peak = run_child(command)
            if turn:
                runs[name].wall_seconds.append(wall)
                runs[name].cpu_seconds.append(cpu)
                runs[name].peak_mib.append(peak)
    return runs


def run_child(command: Sequence[str]) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak resident MiB of a child process."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryFile() as log:
        start = time.perf_counter()
        child = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}, stdout=log, stderr=log
        )
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)  # Popen did not see it end
        if child.returncode:
            log.seek(0)
            raise SystemExit(f"a run failed with {child.returncode}:\n{log.read().decode(errors='replace')}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def cost_table(runs: dict[str, Runs]) -> str:
    """Medians and ranges as a Markdown table; ratios are to FlashRL."""
    titles = {"theirs": "FlashRL 1.0.3", "ours": "flashrl-registry"}
    names = list(runs)
    count = len(runs["ours"].wall_seconds)
    heads = [titles.get(name, name) for name in names]
    lines = [f"| whole process, median of {count} (range) | {' | '.join(heads)} |", "|---" + "|---:" * len(names) + "|"]
    for label, key, digits in (
        ("wall time, s", "wall_seconds", 2),
        ("CPU time, s", "cpu_seconds", 2),
        ("peak memory, MiB", "peak_mib", 0),
    ):
        cells = []
        for name in names:
            values = getattr(runs[name], key)
            ratio = ""
            if "theirs" in runs and name != "theirs":
                ratio = f", {statistics.median(getattr(runs['theirs'], key)) / statistics.median(values):.1f}x less"
            cells.append(spread(values, digits) + ratio)
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def compare(theirs: Path, ours: Path) -> tuple[list[str], bool]:
    """Express our profile in FlashRL's terms and compare entry by entry.

    Returns:
        A Markdown table with the largest difference of each kind of entry, and whether all are within bounds.
    """
    sys.path.insert(0, str(ROOT))
    import torch  # see the note at the top
    from safetensors.torch import load_file

    from flashrl_registry.documents import Profile, read_document

    profile = read_document(ours, Profile)
    expressed = in_flashrl_terms(profile, load_file(ours.parent / profile.sidecar.file_name))
    flashrl: dict[str, dict[str, Any]] = torch.load(theirs, weights_only=True)
    if sorted(flashrl) != sorted(expressed):
        return [f"different tensors: {', '.join(sorted(set(flashrl) ^ set(expressed)))}"], False
    fitted = {(group.source, "output_scale") for group in profile.smoothing if group.kind == "linear"}
    fitted |= {
        (target, "input_scale") for group in profile.smoothing if group.kind == "linear" for target in group.targets
    }
    largest: dict[str, list[float]] = {}
    for name, entry in flashrl.items():
        for key in ("input_scale", "output_scale"):
            difference = relative_difference(flat(entry[key]), flat(expressed[name][key]))
            module = name.removesuffix(".weight").rpartition(".")[2]
            kind = "least squares" if (name, key) in fitted else "bit for bit"
            largest.setdefault(f"| {module} {key} | {kind}", []).append(difference)
    lines = ["| entry | compared | tensors | largest relative difference |", "|---|---|---:|---:|"]
    agree = True
    for label, differences in largest.items():
        bound = LARGEST_RELATIVE_DIFFERENCE if label.endswith("least squares") else 0.0
        agree &= max(differences) <= bound
        lines.append(f"{label} | {len(differences)} | {max(differences):.2g} |")
    return lines, agree


def relative_difference(left: "Tensor", right: "Tensor") -> float:
    """Largest relative difference; infinite where sizes differ or a value is not finite. A scalar 1 fits a vector."""
    if left.numel() != right.numel() and 1 not in (left.numel(), right.numel()):
        return float("inf")
    difference = ((left - right).abs() / left.abs()).nan_to_num(nan=float("inf"))
    return float(difference.max())


def flat(value: "Tensor | float") -> "Tensor":
    import torch

    return torch.as_tensor(value, dtype=torch.float32).detach().flatten()


def in_flashrl_terms(profile: "Profile", vectors: "dict[str, Tensor]") -> "dict[str, dict[str, Tensor | float]]":
    """FlashRL multiplies a weight by ``output_scale`` per row and ``input_scale`` per column; a norm by the latter."""
    expressed: dict[str, dict[str, Tensor | float]] = {}
    rows, columns = {}, {}
    for group in profile.smoothing:
        factor = vectors[f"inv_smoothing/{group.source}"]
        columns |= dict.fromkeys(group.targets, factor)
        if group.kind == "norm":
            expressed[group.source] = {"input_scale": factor, "output_scale": 1.0}
        else:
            rows[group.source] = factor
    for linear in profile.linears:
        scale = vectors[f"weight_scale/{linear.name}"]
        expressed[linear.name] = {
            "input_scale": 1.0 / columns[linear.name] if linear.name in columns else 1.0,
            "output_scale": 1.0 / (scale / rows[linear.name] if linear.name in rows else scale),
        }
    return expressed


if __name__ == "__main__":
    sys.exit(main())
