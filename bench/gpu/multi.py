"""Updates and rollouts of models shared by several GPUs, and weights sent over NCCL, under plans beside vLLM's formats.

    python bench/gpu/multi.py [tp1] [tp2] [tp4] [transfer] [--only int8,bf16] [--json FILE] [--baseline FILE]

``tpN``: engines of a Qwen2 model of 7 billion random weights on N GPUs, with CUDA graphs and torch.compile, answer 256
requests of 128 tokens with 384 each; then every worker reloads the whole checkpoint from its own GPU in bfloat16
(vLLM's W8A8: int8 codes and scales), and the slowest worker counts. All engines have the same room for the KV cache,
so rates compare kernels; how much more room 8-bit weights leave is measured by ``rollout.py``. ``transfer``: a trainer
on a second GPU sends the checkpoint in bfloat16 by vLLM's NCCL weight transfer, quantized on arrival, to an engine
without CUDA graphs. Engines start in waves, as many as memory allows, and are measured one after another while the
others of the wave wait. ``--json`` adds to what a file of the same device holds. Two GPUs need about 8 minutes for
``tp1 tp2`` and 4 for ``transfer``. Needs vLLM, this project installed, and GPUs with 80 GB.
"""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shapes import NATIVE, OF_PLAN, SHAPES, arguments, chosen, machine

HERE = Path(__file__).parent
TRAINER = HERE.parents[1] / "tests" / "gpu" / "several"  # nccl_trainer.py
SHAPE, REQUESTS, PROMPT, LENGTH = "7b", 256, 128, 384
ENGINES = {
    "tp": ["vLLM bf16", "vLLM fp8_per_channel", "vLLM W8A8", "fp8_channel", "int8"],
    "transfer": ["vLLM bf16", "vLLM fp8_per_channel", "fp8_channel", "int8"],
}
KV_BYTES = {"tp": 8 << 30, "transfer": 1 << 30}
ENGINE_GIB = {"tp1": 28, "tp2": 18, "tp4": 13, "transfer": 20}
ROOM_GIB = 58
"""Of a GPU, for waiting engines: a checkpoint in bfloat16, for the one that is measured, needs the rest."""
START_SECONDS, MEASURE_SECONDS = 400, 180
Row = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """One engine."""

    section: str
    engine: str
    gpus: tuple[str, ...]
    trainer_gpu: str = ""

    @property
    def key(self) -> str:
        """What messages call it."""
        return f"{self.section} {self.engine}"


class Process:
    """An engine in a process of its own; it says that it has started, waits to be told, and writes a row."""

    def __init__(self, asked: Asked, folder: Path, model: Path, rounds: int) -> None:
        self.asked = asked
        self.folder = folder / asked.key.replace(" ", "_")
        self.folder.mkdir()
        self.ended = False
        environ = {key: value for key, value in os.environ.items() if not key.startswith("FLASHRL_")} | {
            "CUDA_VISIBLE_DEVICES": ",".join(asked.gpus),
            "PYTHONPATH": os.pathsep.join([str(HERE), str(TRAINER), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "VLLM_CACHE_ROOT": str(self.folder),
            "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        }
        environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        if asked.engine not in NATIVE:
            environ["FLASHRL_CONFIG"] = asked.engine
        given = {
            "section": asked.section, "engine": asked.engine, "workers": len(asked.gpus), "model": str(model),
            "trainer_gpu": asked.trainer_gpu, "rounds": rounds, "folder": str(self.folder),
        }  # fmt: skip
        # A session of its own: workers that an engine leaves behind are ended with it.
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--one", json.dumps(given)], env=environ, stdin=subprocess.PIPE, text=True,
            stdout=(self.folder / "log").open("w"), stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def wait_for(self, name: str, seconds: float) -> bool:
        """Whether the process wrote that file in time."""
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            if (self.folder / name).exists():
                return True
            if self.process.poll() is not None:
                return (self.folder / name).exists()
            time.sleep(0.2)
        return False

    def started(self) -> bool:
        """Whether the engine has started in time."""
        return self.wait_for("ready", START_SECONDS)

    def row(self) -> Row | None:
        """Let it measure."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended; there will be no row
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        if not self.wait_for("row.json", MEASURE_SECONDS):
            return None
        found: Row = json.loads((self.folder / "row.json").read_text())
        return found

    def end(self) -> None:
        """Free its GPUs."""
        if not self.ended:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.ended = True

    def log(self) -> str:
        """The end of what it printed."""
        return "\n".join((self.folder / "log").read_text(errors="replace").splitlines()[-40:])


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("sections", nargs="*", default=[], help="tp1 tp2 tp4 transfer")
    parser.add_argument("--rounds", type=int, default=5, help="counted updates")
    given = parser.parse_args()
    if given.one:
        one_engine(json.loads(given.one))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no engine is left behind
    report = machine()
    gpus = visible_gpus()
    if len(gpus) < 2:
        sys.exit(f"two GPUs are needed, there are {len(gpus)}")
    before = same_device(given.baseline, report) if given.baseline else {}
    known, made = known_rows(given.json, report), []
    waiting = [asked for section in given.sections or default_sections(gpus) for asked in engines(section, gpus)]
    names = chosen([asked.engine for asked in waiting], given.only)
    waiting = [asked for asked in waiting if asked.engine in names]
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        model = SHAPES[SHAPE].write(Path(folder) / SHAPE)
        while waiting:
            wave = next_wave(waiting)
            for row in measured_wave(wave, Path(folder), model, given.rounds, failed):
                known[row["section"], row["engine"]] = row | {"date": report["date"]}
                made.append(row)
                print(f"{clock()} {text_of(row, known)}", flush=True)
                report["rows"] = list(known.values())
                if given.json:  # after each: a run that is cut short keeps what it has
                    given.json.parent.mkdir(parents=True, exist_ok=True)
                    given.json.write_text(json.dumps(report, indent=1) + "\n")
    compare(made, before)
    for text in failed:
        print(f"FAILED {text}")
    return 1 if failed else 0


def clock() -> str:
    return time.strftime("%H:%M:%S", time.gmtime())


def visible_gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them; asked for in another process, which frees what it took."""
    ask = "import torch; print(torch.cuda.device_count())"
    count = int(subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return visible.split(",") if visible else [str(index) for index in range(count)]


def default_sections(gpus: list[str]) -> list[str]:
    return [f"tp{size}" for size in (1, 2, 4) if size <= len(gpus)] + ["transfer"]


def engines(section: str, gpus: list[str]) -> Iterator[Asked]:
    """Those of a section, spread over the GPUs."""
    if section == "transfer":
        for engine in ENGINES["transfer"]:
            yield Asked(section, engine, (gpus[0],), gpus[1])
        return
    size = int(section.removeprefix("tp"))
    sets = [tuple(gpus[start : start + size]) for start in range(0, len(gpus) - size + 1, size)]
    if not sets:
        sys.exit(f"{section} needs {size} GPUs, there are {len(gpus)}")
    for place, engine in enumerate(ENGINES["tp"]):
        yield Asked(section, engine, sets[place % len(sets)])


def next_wave(waiting: list[Asked]) -> list[Asked]:
    """Take as many, in order, as their GPUs have room for."""
    taken: list[Asked] = []
    used: dict[str, int] = {}
    for asked in list(waiting):
        size = ENGINE_GIB[asked.section]
        if any(used.get(gpu, 0) + size > ROOM_GIB for gpu in asked.gpus):
            break
        for gpu in asked.gpus:
            used[gpu] = used.get(gpu, 0) + size
        taken.append(asked)
        waiting.remove(asked)
    return taken


def measured_wave(wave: list[Asked], folder: Path, model: Path, rounds: int, failed: list[str]) -> Iterator[Row]:
    """Start all, then measure one after another."""
    print(f"{clock()} starting {', '.join(asked.key for asked in wave)}", flush=True)
    processes = [Process(asked, folder, model, rounds) for asked in wave]
    try:
        for process in processes:
            if not process.started():
                print(f"{clock()} {process.asked.key} did not start\n{process.log()}", flush=True)
                failed.append(f"{process.asked.key}: did not start")
                process.end()
        print(f"{clock()} started", flush=True)
        for process in processes:
            if process.ended:
                continue
            row = process.row()
            if row is None:
                print(f"{clock()} {process.asked.key} was not measured\n{process.log()}", flush=True)
                failed.append(f"{process.asked.key}: not measured")
            else:
                yield row
            process.end()
    finally:
        for process in processes:
            process.end()


def one_engine(given: dict[str, Any]) -> None:
    """Start one engine, wait, measure, and write what was found."""
    import vllm

    transfer, folder = given["section"] == "transfer", Path(given["folder"])
    kind = "transfer" if transfer else "tp"
    kwargs = dict(NATIVE.get(given["engine"], {}))
    if transfer:
        from vllm.config import WeightTransferConfig

        kwargs |= {"enforce_eager": True, "weight_transfer_config": WeightTransferConfig(backend="nccl")}
    llm = vllm.LLM(
        model=given["model"], load_format="dummy", skip_tokenizer_init=True, max_num_seqs=REQUESTS,
        max_model_len=PROMPT + LENGTH, enable_prefix_caching=False, tensor_parallel_size=given["workers"],
        # A fixed size skips the measuring of free memory, which the others of the wave would disturb.
        gpu_memory_utilization=0.2, kv_cache_memory_bytes=KV_BYTES[kind] // given["workers"],
        worker_extension_cls="multi_worker.Updates", **kwargs,
    )  # fmt: skip
    (folder / "ready").touch()
    sys.stdin.readline()
    row = {"section": given["section"], "shape": SHAPE, "engine": given["engine"], "workers": given["workers"]}
    row |= sent(llm, given) if transfer else answered_and_updated(llm, given)
    row |= what_runs(llm, given["engine"])
    (folder / "writing").write_text(json.dumps(row))
    (folder / "writing").rename(folder / "row.json")


def answered_and_updated(llm: Any, given: dict[str, Any]) -> Row:
    from rollout import answer

    answer(llm, requests=8, length=16)
    rates = [answer(llm, requests=REQUESTS, length=LENGTH) for _ in range(2)]
    asked = (SHAPE, given["engine"] == "vLLM W8A8", given["rounds"])
    workers = llm.collective_rpc("update_seconds", args=asked)
    return {
        "tokens_per_second": round(max(rates), 1),
        "rates": [round(rate, 1) for rate in rates],
        "seconds": max(found["median"] for found in workers),
        "each_worker": workers,
    }


def sent(llm: Any, given: dict[str, Any]) -> Row:
    """Whole updates over NCCL, from a trainer that has its tensors ready."""
    from nccl_trainer import trainer

    found: Row = {}
    with trainer(given["trainer_gpu"], llm, given["workers"]) as sender:
        sender.hold(shapes=SHAPES[SHAPE].tensors())
        for way, packed in (("packed", True), ("single", False)):
            seconds = [sender.transfer(llm, packed=packed) for _ in range(given["rounds"] + 1)][1:]
            found[way] = {"median": statistics.median(seconds), "least": min(seconds)}
    return {"ways": found, "seconds": found["packed"]["median"]}


def what_runs(llm: Any, engine: str) -> Row:
    """Under a plan: which layers there are, and how many tensors every worker proved."""
    if engine in NATIVE:
        return {"layers": {}, "proven": "not asked"}
    from flashrl_registry.runtime import status, verify

    proven = [f"{report['equal']} of {report['compared']}" for report in verify(llm)]
    return {"layers": status(llm)[0]["layers"], "proven": ", ".join(proven)}


def text_of(row: Row, known: dict[tuple[str, str], Row]) -> str:
    parts = [f"{row['section']:8} {row['engine']:21}"]
    if "tokens_per_second" in row:
        parts.append(f"{row['tokens_per_second']:8.0f} tok/s,")
    parts.append(f"update {row['seconds']:.4f} s")
    if "ways" in row:
        parts.append(f"packed, {row['ways']['single']['median']:.4f} s one by one")
    for base in dict.fromkeys(("vLLM bf16", OF_PLAN.get(row["engine"], row["engine"]))):
        other = known.get((row["section"], base))
        if other is not None and base != row["engine"]:
            ratio = f"; of {base}: update {row['seconds'] / other['seconds']:.2f}"
            if "tokens_per_second" in row:
                ratio += f", rate {row['tokens_per_second'] / other['tokens_per_second']:.3f}"
            parts.append(ratio)
    return f"{' '.join(parts)}; proven {row['proven']} {row['layers'] or ''}"


def same_device(file: Path, report: dict[str, Any]) -> dict[tuple[str, str], Row]:
    """Rows of an earlier file, which must be of this device."""
    before = json.loads(file.read_text())
    if before["device"] != report["device"]:
        sys.exit(f"{file} was measured on {before['device']}, this is {report['device']}: not compared")
    return {(row["section"], row["engine"]): row for row in before["rows"]}


def known_rows(file: Path | None, report: dict[str, Any]) -> dict[tuple[str, str], Row]:
    """What earlier runs wrote to the file that this one adds to, with the same versions."""
    if file is None or not file.exists():
        return {}
    if (versions := json.loads(file.read_text())["versions"]) != report["versions"]:
        sys.exit(f"{file} was measured with {versions}: not mixed with {report['versions']}")
    return same_device(file, report)


def compare(rows: list[Row], before: dict[tuple[str, str], Row]) -> None:
    """What is new with what was."""
    for row in rows:
        old = before.get((row["section"], row["engine"]), {})
        for figure in ("tokens_per_second", "seconds"):
            if figure in row and figure in old:
                print(f"{row['section']} {row['engine']}: {figure} {row[figure] / old[figure]:.3f} of before")


if __name__ == "__main__":
    sys.exit(main())
