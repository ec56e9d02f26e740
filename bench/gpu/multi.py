"""Updates and rollouts of models shared by several GPUs, and weights sent over NCCL, under plans beside vLLM's formats.

    python bench/gpu/multi.py [tp1] [tp2] [tp4] [transfer] [--shape 7b] [--only int8,bf16] [--seconds N]
                              [--json FILE] [--baseline FILE]

``tpN``: engines of a Qwen2 model of 7 billion random weights on N GPUs, with CUDA graphs and torch.compile, answer 256
requests of 128 tokens with 192 each; then every worker reloads the whole checkpoint from its own GPU in bfloat16
(vLLM's W8A8: int8 codes and scales), and the slowest worker counts. All engines have the same room for the KV cache,
so rates compare kernels; how much more room 8-bit weights leave is measured by ``rollout.py``. ``transfer``: a trainer
on a second GPU sends the checkpoint in bfloat16 by vLLM's NCCL weight transfer, quantized on arrival, to an engine
without CUDA graphs. ``--shape`` takes other models, of them Qwen2.5-32B and Qwen3-30B-A3B with 4 layers.

Engines of a section start in waves, as many as memory allows, and are measured one after another while the others of
the wave wait; those that share no GPU, at the same time. Each result is printed, and written to ``--json`` beside what
a file of the same device holds, as soon as it is there; after ``--seconds`` the rest is ended and has failed. On two
GPUs ``tp1`` takes about 2 minutes, ``tp2`` 2.5, ``transfer`` 1.5. Needs vLLM, this project installed, and GPUs with
80 GB.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from multi_engines import (
    GIB,
    LENGTH,
    PROMPT,
    REQUESTS,
    Asked,
    Given,
    Row,
    clock,
    give_up,
    kv_bytes,
    measured_wave,
    next_wave,
)
from shapes import NATIVE, OF_PLAN, SHAPES, arguments, chosen, machine

ENGINES = {
    "tp": ["vLLM bf16", "vLLM fp8_per_channel", "vLLM W8A8", "fp8_channel", "int8"],
    "transfer": ["vLLM bf16", "vLLM fp8_per_channel", "fp8_channel", "int8"],
}
GRAPHS = [1, 8, 64, 256]
"""Batch sizes with a CUDA graph: those that are asked for, so that starts take less time."""
Key = tuple[str, str, str]


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("sections", nargs="*", default=[], help="tp1 tp2 tp4 transfer")
    parser.add_argument("--shape", default="7b", choices=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=3, help="counted updates")
    parser.add_argument("--seconds", type=float, default=3600, help="time limit; what has not ended then has failed")
    given = parser.parse_args()
    if given.one:
        one_engine(json.loads(given.one))
        return 0
    deadline = time.perf_counter() + given.seconds
    signal.signal(signal.SIGTERM, give_up)
    report = machine()
    gpus, room = visible_gpus()
    report["gpus"] = len(gpus)
    before = same_device(given.baseline, report) if given.baseline else {}
    known, made = known_rows(given.json, report), []
    waiting = [asked for section in given.sections or default_sections(gpus) for asked in engines(section, gpus)]
    names = chosen([asked.engine for asked in waiting], given.only)
    waiting = [asked for asked in waiting if asked.engine in names]
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        model = SHAPES[given.shape].write(Path(folder) / given.shape)
        shared = Given(given.shape, Path(folder), model, given.rounds, deadline)
        while waiting and time.perf_counter() < deadline:
            wave = next_wave(waiting, SHAPES[given.shape], room)
            for row in measured_wave(wave, shared, failed):
                known[row["section"], row["shape"], row["engine"]] = row | {"date": report["date"]}
                made.append(row)
                print(f"{clock()} {text_of(row, known)}", flush=True)
                report["rows"] = list(known.values())
                if given.json:  # after each: a run that is cut short keeps what it has
                    given.json.parent.mkdir(parents=True, exist_ok=True)
                    given.json.write_text(json.dumps(report, indent=1) + "\n")
    failed += [f"{asked.key}: not run, time is up" for asked in waiting]
    print(f"\n{report['device']}, {given.shape}")
    for row in made:  # once more, with every ratio that can be known by now
        print(text_of(row, known))
    compare(made, before)
    for text in failed:
        print(f"FAILED {text}")
    return 1 if failed else 0


def visible_gpus() -> tuple[list[str], float]:
    """As CUDA_VISIBLE_DEVICES names them, and the GiB of the smallest; another process asks, and frees what it took."""
    ask = "from torch.cuda import *; print(*[get_device_properties(i).total_memory for i in range(device_count())])"
    out = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout.split()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    gpus = visible.split(",") if visible else [str(index) for index in range(len(out))]
    return gpus, min(map(int, out), default=0) / GIB


def default_sections(gpus: list[str]) -> list[str]:
    return [f"tp{size}" for size in (1, 2, 4) if size <= len(gpus)] + ["transfer"] * (len(gpus) > 1)


def engines(section: str, gpus: list[str]) -> Iterator[Asked]:
    """Those of a section, spread over the GPUs."""
    if section == "transfer":
        if len(gpus) < 2:
            sys.exit("transfer needs 2 GPUs, one of them for the trainer")
        for engine in ENGINES["transfer"]:
            yield Asked(section, engine, (gpus[0],), gpus[1])
        return
    size = int(section.removeprefix("tp"))
    sets = [tuple(gpus[start : start + size]) for start in range(0, len(gpus) - size + 1, size)]
    if not sets:
        sys.exit(f"{section} needs {size} GPUs, there are {len(gpus)}")
    for place, engine in enumerate(ENGINES["tp"]):
        yield Asked(section, engine, sets[place % len(sets)])


def one_engine(given: dict[str, Any]) -> None:
    """Start one engine, wait, measure, and write what was found."""
    import vllm

    transfer, folder, shape = given["section"] == "transfer", Path(given["folder"]), SHAPES[given["shape"]]
    kwargs = dict(NATIVE.get(given["engine"], {}))
    sender = None
    if transfer:
        from nccl_trainer import Trainer
        from vllm.config import WeightTransferConfig

        sender = Trainer(given["trainer_gpu"], given["workers"])  # it starts beside the engine
        kwargs |= {"enforce_eager": True, "weight_transfer_config": WeightTransferConfig(backend="nccl")}
    else:
        kwargs["compilation_config"] = {"cudagraph_capture_sizes": GRAPHS}
    llm = vllm.LLM(
        model=given["model"], load_format="dummy", skip_tokenizer_init=True, max_num_seqs=REQUESTS,
        max_model_len=PROMPT + LENGTH, max_num_batched_tokens=8192, enable_prefix_caching=False,
        tensor_parallel_size=given["workers"],
        # A fixed size skips the measuring of free memory, which the others of the wave would disturb.
        gpu_memory_utilization=0.1, kv_cache_memory_bytes=kv_bytes(given["section"], shape) // given["workers"],
        worker_extension_cls="multi_worker.Updates", **kwargs,
    )  # fmt: skip
    (folder / "ready").touch()
    sys.stdin.readline()
    row = {key: given[key] for key in ("section", "shape", "engine", "workers")}
    row |= answered_and_updated(llm, given) if sender is None else sent(llm, sender, given)
    row |= what_runs(llm, given["engine"])
    (folder / "writing").write_text(json.dumps(row))
    (folder / "writing").rename(folder / "row.json")


def answered_and_updated(llm: Any, given: dict[str, Any]) -> Row:
    from rollout import answer

    answer(llm, requests=8, length=16)
    rates = [answer(llm, requests=REQUESTS, length=LENGTH) for _ in range(2)]
    asked = (given["shape"], given["engine"] == "vLLM W8A8", given["rounds"])
    workers = llm.collective_rpc("update_seconds", args=asked)
    return {
        "tokens_per_second": round(max(rates), 1),
        "rates": [round(rate, 1) for rate in rates],
        "seconds": max(found["median"] for found in workers),
        "each_worker": workers,
    }


def sent(llm: Any, sender: Any, given: dict[str, Any]) -> Row:
    """Whole updates over NCCL, from a trainer that has its tensors ready."""
    found: Row = {}
    try:
        sender.join(llm)
        sender.hold(shapes=SHAPES[given["shape"]].tensors())
        for way, packed in (("packed", True), ("single", False)):
            seconds = [sender.transfer(llm, packed=packed) for _ in range(given["rounds"] + 1)][1:]
            found[way] = {"median": statistics.median(seconds), "least": min(seconds)}
        sender.close()
    finally:
        sender.process.kill()
    return {"ways": found, "seconds": found["packed"]["median"]}


def what_runs(llm: Any, engine: str) -> Row:
    """Under a plan: which layers there are, and how many tensors every worker proved."""
    if engine in NATIVE:
        return {"layers": {}, "proven": "not asked"}
    from flashrl_registry.runtime import status, verify

    proven = [f"{report['equal']} of {report['compared']}" for report in verify(llm)]
    return {"layers": status(llm)[0]["layers"], "proven": ", ".join(proven)}


def text_of(row: Row, known: dict[Key, Row]) -> str:
    parts = [f"{row['section']:8} {row['shape']} {row['engine']:21}"]
    if "tokens_per_second" in row:
        parts.append(f"{row['tokens_per_second']:8.0f} tok/s,")
    parts.append(f"update {row['seconds']:.4f} s")
    if "ways" in row:
        parts.append(f"packed, {row['ways']['single']['median']:.4f} s one by one")
    for base in dict.fromkeys(("vLLM bf16", str(OF_PLAN.get(row["engine"], row["engine"])))):
        other = known.get((row["section"], row["shape"], base))
        if other is not None and base != row["engine"]:
            ratio = f"; of {base}: update {row['seconds'] / other['seconds']:.2f}"
            if "tokens_per_second" in row:
                ratio += f", rate {row['tokens_per_second'] / other['tokens_per_second']:.3f}"
            parts.append(ratio)
    return f"{' '.join(parts)}; proven {row['proven']} {row['layers'] or ''}"


def same_device(file: Path, report: dict[str, Any]) -> dict[Key, Row]:
    """Rows of an earlier file, which must be of this device."""
    before = json.loads(file.read_text())
    if before["device"] != report["device"]:
        sys.exit(f"{file} was measured on {before['device']}, this is {report['device']}: not compared")
    return {(row["section"], row["shape"], row["engine"]): row for row in before["rows"]}


def known_rows(file: Path | None, report: dict[str, Any]) -> dict[Key, Row]:
    """What earlier runs wrote to the file that this one adds to, with the same versions."""
    if file is None or not file.exists():
        return {}
    if (versions := json.loads(file.read_text())["versions"]) != report["versions"]:
        sys.exit(f"{file} was measured with {versions}: not mixed with {report['versions']}")
    return same_device(file, report)


def compare(rows: list[Row], before: dict[Key, Row]) -> None:
    """What is new with what was."""
    for row in rows:
        old = before.get((row["section"], row["shape"], row["engine"]), {})
        for figure in ("tokens_per_second", "seconds"):
            if figure in row and figure in old:
                name = f"{row['section']} {row['shape']} {row['engine']}"
                print(f"{name}: {figure} {row[figure] / old[figure]:.3f} of before")


if __name__ == "__main__":
    sys.exit(main())
