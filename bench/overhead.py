"""What the plugin costs a program that runs no plan, and what a plan adds to an engine's start.

    python demo/prepare_pair.py
    python bench/overhead.py

First, in fresh processes: time of loading and calling our entry point, as vLLM does, beside vLLM's own
``load_general_plugins()`` without it; and the modules that it imports where vLLM is not imported. Second: seconds
from ``LLM(...)`` to a ready engine, in fresh processes that alternate: vLLM's own start beside a plan's for the same
format (bf16; the pair's W8A8 checkpoint beside an int8 plan for its bf16 one, which reads and quantizes twice the
bytes, and beside one that starts with the W8A8 checkpoint itself, ``engine: {model: …}``). Wall seconds depend on what
else the machine does, so processor seconds stand beside them, and the goal is for those. What a plan adds is the import
of this project, the same for a model of any size, and one look at every weight. Exits with 1 where a program that runs
no plan pays for more than the limit, or for heavy modules; what is above the goal for starts is listed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PLUGIN_MS, START = 5.0, 1.05
PLUGINS = """
import json, sys, time
import vllm, vllm.engine.arg_utils
from vllm.plugins import load_general_plugins
began = time.perf_counter()
load_general_plugins()
without = time.perf_counter() - began
from importlib.metadata import entry_points
[ours] = entry_points(group="vllm.general_plugins", name="flashrl_registry")
began = time.perf_counter()
ours.load()()
print("RESULT", json.dumps([1000 * (time.perf_counter() - began), 1000 * without]))
"""
MODULES = """
import json, sys, time
began = time.perf_counter()
from flashrl_registry.runtime.plugin import register
register()
milliseconds = 1000 * (time.perf_counter() - began)
heavy = [name for name in ("torch", "pydantic", "yaml", "vllm", "numpy") if name in sys.modules]
print("RESULT", json.dumps([milliseconds, heavy, sorted(n for n in sys.modules if n.startswith("flashrl"))]))
"""
ENGINE = """
import json, resource, sys, time
import vllm
def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
began, used = time.perf_counter(), cpu()
llm = vllm.LLM(model=sys.argv[1], skip_tokenizer_init=True, max_model_len=128, enforce_eager=True,
               num_gpu_blocks_override=64)
print("RESULT", json.dumps([time.perf_counter() - began, cpu() - used]))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pair", type=Path, default=ROOT / ".cache" / "demo" / "pair")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    missed = plugin(given.rounds)
    with tempfile.TemporaryDirectory() as folder:
        slow = starts(given.pair, Path(folder), given.rounds)
    print("\n" + ("\n".join([*missed, *slow]) or "every limit is kept"))
    return 1 if missed else 0


def run(program: str, *args: object, **env: str) -> Any:
    """The JSON that a fresh process prints after RESULT."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("FLASHRL_", "VLLM_"))} | env
    environ |= {
        "OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR", "FLASHRL_LOGGING_LEVEL": "ERROR",
    }  # fmt: skip
    command = [sys.executable, "-c", program, *map(str, args)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stdout + done.stderr)
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))[7:])


def plugin(rounds: int) -> list[str]:
    """Without a plan."""
    alone = [run(MODULES) for _ in range(rounds)]
    milliseconds = [result[0] for result in alone]
    print(f"import and register(), no vLLM: {spread(milliseconds)} ms; imports {', '.join(alone[0][2])}")
    missed = [f"the plugin imports {', '.join(alone[0][1])}"] if alone[0][1] else []
    added, without = zip(*(run(PLUGINS, VLLM_PLUGINS="no_such_plugin") for _ in range(rounds)), strict=True)
    print(f"vLLM's load_general_plugins() without ours: {spread(without)} ms; ours adds {spread(added)} ms per process")
    if statistics.median(added) > PLUGIN_MS:
        missed.append(f"the plugin adds {statistics.median(added):.2f} ms, more than {PLUGIN_MS}")
    return missed


def starts(pair: Path, work: Path, rounds: int) -> list[str]:
    """With a plan, beside vLLM's own start for the same format."""
    bf16, quantized = (pair / f"SmolLM2-135M-Instruct{end}" for end in ("", "-quantized.w8a8"))
    bin_dir = Path(sys.executable).parent
    rules = work / "rules.yaml"
    rules.write_text(
        f"schema_version: flashrl.rules/v1\nengine: {{model: {quantized}}}\nrules:\n"
        "- {name: linears, scheme: int8, targets: ['*_proj']}\n"
        "- {name: rest, scheme: bf16, targets: ['*'], ignore: ['*_proj']}\n"
    )
    for command in (
        ["flashrl-registry", "compile", "-m", bf16, "--rules", rules, "-o", work / "twin"],
        ["flashrl", "profile", "-m", bf16, "-qm", quantized, "-o", work / "profile", "--fn", "int8"],
        ["flashrl-registry", "compile", "-m", bf16, "--profile", work / "profile", "-o", work / "plan"],
    ):
        subprocess.run([str(bin_dir / command[0]), *map(str, command[1:])], check=True, capture_output=True)
    kinds: dict[str, tuple[Path, str | None]] = {
        "vLLM bf16": (bf16, None), "plan bf16": (bf16, "bf16"), "vLLM W8A8": (quantized, None),
        "plan int8": (bf16, str(work / "plan")), "plan twin": (bf16, str(work / "twin")),
    }  # fmt: skip
    seconds: dict[str, list[list[float]]] = {kind: [] for kind in kinds}
    for _ in range(rounds + 1):
        for kind, (model, config) in kinds.items():
            seconds[kind].append(run(ENGINE, model, **({} if config is None else {"FLASHRL_CONFIG": config})))
    print("\nengine start, seconds: median (min to max); the first round warms the page cache and is not counted")
    medians = {}
    for kind, results in seconds.items():
        wall, used = ([result[i] for result in results[1:]] for i in (0, 1))
        medians[kind] = statistics.median(wall), statistics.median(used)
        print(f"  {kind:10} wall {spread(wall)}   processor {spread(used)}")
    slow = []
    for plan, own in (("plan bf16", "vLLM bf16"), ("plan int8", "vLLM W8A8"), ("plan twin", "vLLM W8A8")):
        wall, used = (ours / theirs for ours, theirs in zip(medians[plan], medians[own], strict=True))
        print(f"  {plan} / {own}: wall {wall:.3f}, processor {used:.3f}")
        slow += [f"{plan}: {used:.3f} x {own}, above the goal of {START}"] if used > START else []
    return slow


def spread(values: Sequence[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    sys.exit(main())
