"""Seconds of a weight update under a plan beside vLLM's own reload of the same model, on CPU, in one process.

    python demo/prepare_pair.py
    python bench/updates_vs_vllm.py

Engines of the same model: vLLM's own in bf16, vLLM's own on the model's W8A8 checkpoint, and three under plans. Every
engine is updated in turn, round after round, by ``reload_weights`` from the checkpoint's folder and from tensors in
memory; the plans' engines also by one call per tensor, as TRL and OpenRLHF send. The first round warms up and is not
counted. Prints medians and spreads of processor milliseconds, which other work on the machine changes least, the
median on the wall clock, and both ratios that matter: beside vLLM's bf16 reload, and beside vLLM's reload of the same
format, for int8 kernels pack their weights anew at every reload, with or without a plan. The limit is for the latter;
what is above it is listed.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "integration" / "vllm_cpu"))
LIMIT = 1.3
OWN_BF16, OWN_INT8 = "vLLM bf16", "vLLM W8A8"
OURS = {"bf16": OWN_BF16, "int8": OWN_INT8, "int8, smoothed": OWN_INT8}
"""Plans, and what vLLM itself calls the same format."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pair", type=Path, default=ROOT / ".cache" / "demo" / "pair")
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds")
    parser.add_argument("--only", choices=["tiny", "real"])
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    os.environ |= {
        "OMP_NUM_THREADS": str(given.threads), "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR", "FLASHRL_LOGGING_LEVEL": "ERROR",
    }  # fmt: skip
    slow = []
    with tempfile.TemporaryDirectory() as folder:
        for name, *made in models(Path(folder), given.pair, given.only):
            print(f"\n{name}: {given.rounds} rounds, {given.threads} thread(s)")
            print(f"  {'engine':15} {'way':12} processor ms: median (min to max), wall   / vLLM bf16   / same format")
            measured = measure(*map(str, made), given.rounds)
            medians = {key: statistics.median(used for used, _ in times) for key, times in measured.items()}
            for (config, way), times in measured.items():
                used, wall = ([1000 * time[i] for time in times] for i in (0, 1))
                median, base = medians[config, way], "memory" if way == "one by one" else way
                to_format = median / medians[OURS.get(config, config), base]
                print(
                    f"  {config:15} {way:12} {1000 * median:7.1f} ({min(used):.1f} to {max(used):.1f}), "
                    f"{statistics.median(wall):.1f} {median / medians[OWN_BF16, base]:16.2f} {to_format:12.2f}"
                )
                slow += [f"{name}, {config}, {way}: {to_format:.2f}"] if base == way and to_format > LIMIT else []
    print("\n" + ("\n".join(f"above {LIMIT}: {line}" for line in slow) or f"every reload is within {LIMIT}"))
    return 0


def models(work: Path, pair: Path, only: str | None) -> Any:
    """(name, model, its W8A8 checkpoint, plan with smoothing)."""
    import tiny
    import tiny_pair

    bin_dir = Path(sys.executable).parent
    made = tiny.write(work / "tiny", 1)
    tiny_quantized = tiny_pair.write_w8a8(made, work / "tiny-w8a8")
    real, quantized = pair / "SmolLM2-135M-Instruct", pair / "SmolLM2-135M-Instruct-quantized.w8a8"
    for name, model, other in (("tiny", made, tiny_quantized), ("SmolLM2-135M", real, quantized)):
        if only and (only == "tiny") != (name == "tiny"):
            continue
        profile, plan = work / f"{name}-profile", work / f"{name}-plan"
        for command in (
            ["flashrl", "profile", "-m", model, "-qm", other, "-o", profile, "--fn", "int8"],
            ["flashrl-registry", "compile", "-m", model, "--profile", profile, "-o", plan],
        ):
            subprocess.run([str(bin_dir / command[0]), *map(str, command[1:])], check=True, capture_output=True)
        yield name, model, other, plan


def measure(model: str, quantized: str, plan: str, rounds: int) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """Processor and wall seconds by (engine, way)."""
    import receiver

    engines = {OWN_BF16: engine(model, None), OWN_INT8: engine(quantized, None)}
    engines |= {config: engine(model, plan if "smoothed" in config else config) for config in OURS}
    seconds: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for counted in (False, *[True] * rounds):
        for config, llm in engines.items():
            folder = quantized if config == OWN_INT8 else model
            tensors = receiver.checkpoint(folder)
            for way, update in (("folder", reload_folder), ("memory", reload_memory), ("one by one", one_by_one)):
                if way == "one by one" and config not in OURS:
                    continue
                used, began = time.process_time(), time.perf_counter()
                update(llm, folder, tensors)
                if counted:
                    spent = time.process_time() - used, time.perf_counter() - began
                    seconds.setdefault((config, way), []).append(spent)
    return seconds


def engine(model: str, config: str | None) -> Any:
    """An engine in this process, under a plan or without one."""
    os.environ.pop("FLASHRL_CONFIG", None)
    if config is not None:
        os.environ["FLASHRL_CONFIG"] = config
    import vllm

    return vllm.LLM(
        model=model,
        skip_tokenizer_init=True,
        max_model_len=128,
        enforce_eager=True,
        num_gpu_blocks_override=64,
        load_format="safetensors",
    )


def reload_folder(llm: Any, folder: str, tensors: dict[str, Any]) -> None:
    llm.collective_rpc("reload_weights", kwargs={"weights_path": folder})


def reload_memory(llm: Any, folder: str, tensors: dict[str, Any]) -> None:
    llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(tensors.items())})


def one_by_one(llm: Any, folder: str, tensors: dict[str, Any]) -> None:
    model = llm.llm_engine.model_executor.driver_worker.model_runner.get_model()
    for item in tensors.items():
        model.load_weights([item])


if __name__ == "__main__":
    sys.exit(main())
