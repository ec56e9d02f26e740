"""Programs on sets of GPUs, each in a process group of its own that nothing outlives, for ``test_multi_gpu.py``."""

import contextlib
import datetime
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A folder of its own: beside it lies kernels.py, and libraries look for a module of that name.
PROGRAMS = Path(__file__).parent / "several"
CPU_TESTS = Path(__file__).parents[1] / "integration" / "vllm_cpu"
LIMIT_SECONDS = 420
RUNNING: set[subprocess.Popen[bytes]] = set()
Result = dict[str, Any]


@dataclass(frozen=True)
class Machine:
    """What there is to run on."""

    device: str
    gpus: tuple[str, ...]
    """As CUDA_VISIBLE_DEVICES names them; empty where CPU workers run."""

    def sets(self, size: int) -> list[str]:
        """Disjoint sets of that many GPUs."""
        starts = range(0, len(self.gpus) - size + 1, size)
        return [",".join(self.gpus[start : start + size]) for start in starts] or [""]


@dataclass(frozen=True)
class Job:
    """One program in a process of its own."""

    label: str
    program: str
    config: str
    args: Result
    gpus: str


def find_machine(*, cpu: bool) -> Machine:
    """Asked for in another process: a CUDA context here would take memory from the engines."""
    if cpu:
        return Machine("CPU", ())
    ask = "from torch.cuda import *; print(*map(get_device_name, range(device_count())), sep=';')"
    names = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    found = [name for name in names.split(";") if name]
    if len(found) < 2:
        sys.exit(f"two GPUs are needed, there are {len(found)}; --cpu runs what CPU workers can show")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    gpus = visible.split(",") if visible else [str(index) for index in range(len(found))]
    return Machine(f"{len(found)} x {found[0]}", tuple(gpus))


def version(*names: str) -> str:
    """The first that is installed."""
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return "not installed"


def own_environ() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("FLASHRL_")}


def environ_of(work: Path, job: Job, machine: Machine) -> dict[str, str]:
    paths = [str(PROGRAMS), str(CPU_TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    environ = own_environ() | {
        "FLASHRL_CONFIG": job.config,
        "FLASHRL_REGISTRY": str(work / "registry"),
        "PYTHONPATH": os.pathsep.join(paths),
        "VLLM_CACHE_ROOT": str(work / f"{stem_of(job)}-cache"),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    }
    environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if machine.gpus:
        return environ | {"CUDA_VISIBLE_DEVICES": job.gpus}
    # Two processes that compute share the cores; vLLM would bind both to the same one.
    return environ | {"OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "0|1"}


def stem_of(job: Job) -> str:
    return f"{job.label} {job.program}".replace(" ", "_")


def run(work: Path, job: Job, machine: Machine) -> Result:
    """Run one program; an empty result where it failed, with the end of its log printed."""
    stem = stem_of(job)
    given, out, log = (work / f"{stem}{end}" for end in ("-in.json", "-out.json", ".log"))
    given.write_text(json.dumps(job.args))
    began = time.perf_counter()
    program = [sys.executable, str(PROGRAMS / "multi_scenarios.py"), job.program, str(given), str(out)]
    with log.open("w") as sink:
        # A session of its own: what an engine leaves running when it fails is ended with it.
        process = subprocess.Popen(
            program, env=environ_of(work, job, machine), stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
        )
        RUNNING.add(process)
        try:
            ended = f"exit {process.wait(LIMIT_SECONDS)}"
        except subprocess.TimeoutExpired:
            ended = f"not ended after {LIMIT_SECONDS} s"
        given_up = process not in RUNNING
        end(process)
        process.wait()
    spent = time.perf_counter() - began
    print(f"{clock()} {job.label}, {job.program}, GPUs {job.gpus or 'none'}: {ended}, {spent:.0f} s", flush=True)
    if given_up:
        return {}
    if ended != "exit 0":
        print("\n".join(log.read_text(errors="replace").splitlines()[-40:]), flush=True)
        return {}
    result: Result = json.loads(out.read_text())
    return result


def end(process: subprocess.Popen[bytes]) -> None:
    """With everything that it started."""
    RUNNING.discard(process)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def end_all() -> None:
    """No engine is left behind."""
    for process in list(RUNNING):
        end(process)


def give_up(*_: object) -> None:
    """Told to stop."""
    end_all()
    os._exit(143)


def clock() -> str:
    return datetime.datetime.now(tz=datetime.UTC).strftime("%H:%M:%S")
