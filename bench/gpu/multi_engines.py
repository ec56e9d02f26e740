"""Engines of ``multi.py``, each in a process of its own, as many at a time as the memory of their GPUs allows."""

import contextlib
import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import few_layers
from shapes import NATIVE, Shape

HERE = Path(__file__).parent
PROGRAM = HERE / "multi.py"
TRAINER = HERE.parents[1] / "tests" / "gpu" / "several"  # nccl_trainer.py
REQUESTS, PROMPT, LENGTH = 256, 128, 192
GIB = 1 << 30
OVERHEAD_GIB, MARGIN_GIB = 3.5, 4
"""Of an engine, beside weights and KV cache; of a GPU, that nothing is planned for."""
START_SECONDS, MEASURE_SECONDS = 300, 150
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


@dataclass(frozen=True)
class Given:
    """What all engines share."""

    shape: str
    folder: Path
    model: Path
    rounds: int
    deadline: float


class Process:
    """An engine in a process of its own; it says that it has started, waits to be told, and writes a row."""

    running: "set[Process]" = set()

    def __init__(self, asked: Asked, given: Given) -> None:
        self.asked, self.deadline = asked, given.deadline
        self.folder = given.folder / asked.key.replace(" ", "_")
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
        one = {
            "section": asked.section, "engine": asked.engine, "workers": len(asked.gpus), "model": str(given.model),
            "shape": given.shape, "trainer_gpu": asked.trainer_gpu, "rounds": given.rounds, "folder": str(self.folder),
        }  # fmt: skip
        # A session of its own: workers that an engine leaves behind are ended with it.
        self.process = subprocess.Popen(
            [sys.executable, str(PROGRAM), "--one", json.dumps(one)], env=environ, stdin=subprocess.PIPE, text=True,
            stdout=(self.folder / "log").open("w"), stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.running.add(self)

    def wait_for(self, name: str, seconds: float) -> bool:
        """Whether the process wrote that file in time."""
        end = min(self.deadline, time.perf_counter() + seconds)
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
            self.running.discard(self)
        self.ended = True

    def log(self) -> str:
        """The end of what it printed."""
        return "\n".join((self.folder / "log").read_text(errors="replace").splitlines()[-40:])


def next_wave(waiting: list[Asked], shape: Shape, room_gib: float) -> list[Asked]:
    """Take as many of the next section, in order, as their GPUs have room for."""
    # The one that is measured holds a checkpoint in bfloat16 beside its engine; so does its trainer.
    room_gib -= weight_gib(shape, "bf16") + MARGIN_GIB
    taken: list[Asked] = []
    used: dict[str, float] = {}
    for asked in [asked for asked in waiting if asked.section == waiting[0].section]:
        size = engine_gib(asked, shape)
        if taken and any(used.get(gpu, 0) + size > room_gib for gpu in asked.gpus):
            break
        for gpu in asked.gpus:
            used[gpu] = used.get(gpu, 0) + size
        taken.append(asked)
        waiting.remove(asked)
    return taken


def engine_gib(asked: Asked, shape: Shape) -> float:
    """Of each of its GPUs, about."""
    return (weight_gib(shape, asked.engine) + kv_bytes(asked.section, shape) / GIB) / len(asked.gpus) + OVERHEAD_GIB


def weight_gib(shape: Shape, engine: str) -> float:
    """Of the checkpoint in bfloat16, or with 8 bits for linears."""
    low = 2 if engine.endswith("bf16") else 1
    sizes = {name: math.prod(sides) for name, sides in shape.tensors().items()}
    return sum(size * (low if name.endswith("_proj.weight") else 2) for name, size in sizes.items()) / GIB


def kv_bytes(section: str, shape: Shape) -> int:
    """Of all requests at once, a little more than they need."""
    if section == "transfer":
        return GIB
    head = shape.head if isinstance(shape, few_layers.Experts) else shape.hidden // shape.heads
    return int(1.05 * REQUESTS * (PROMPT + LENGTH) * shape.layers * 2 * shape.kv_heads * head * 2) + (64 << 20)


def measured_wave(wave: list[Asked], given: Given, failed: list[str]) -> Iterator[Row]:
    """Start all, then measure: at the same time where engines share no GPU, else one after another."""
    print(f"{clock()} starting {', '.join(asked.key for asked in wave)}", flush=True)
    processes = [Process(asked, given) for asked in wave]
    try:
        for process in processes:
            if not process.started():
                print(f"{clock()} {process.asked.key} did not start\n{process.log()}", flush=True)
                failed.append(f"{process.asked.key}: did not start")
                process.end()
        ready = [process for process in processes if not process.ended]
        print(f"{clock()} started {len(ready)}", flush=True)
        rows: queue.SimpleQueue[tuple[Process, Row | None]] = queue.SimpleQueue()
        for lane in lanes(ready):
            threading.Thread(target=measure, args=(lane, rows), daemon=True).start()
        for _ in ready:
            process, row = rows.get()
            if row is not None:
                yield row
                continue
            print(f"{clock()} {process.asked.key} was not measured\n{process.log()}", flush=True)
            failed.append(f"{process.asked.key}: not measured")
    finally:
        for process in processes:
            process.end()


def lanes(processes: list[Process]) -> list[list[Process]]:
    """Those of one GPU each, GPU by GPU; all together where any uses several, or a trainer's."""
    if any(len(process.asked.gpus) > 1 or process.asked.trainer_gpu for process in processes):
        return [processes]
    gpus = dict.fromkeys(process.asked.gpus for process in processes)
    return [[process for process in processes if process.asked.gpus == gpu] for gpu in gpus]


def measure(lane: list[Process], rows: "queue.SimpleQueue[tuple[Process, Row | None]]") -> None:
    """One after another; each frees its GPUs for the next."""
    for process in lane:
        row = process.row()
        process.end()
        rows.put((process, row))


def give_up(*_: object) -> None:
    """Told to stop: no engine is left behind."""
    for process in list(Process.running):
        process.end()
    os._exit(143)


def clock() -> str:
    return time.strftime("%H:%M:%S", time.gmtime())
