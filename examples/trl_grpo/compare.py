"""The same training without a plan and under several, one process each, side by side as Markdown.

    python examples/trl_grpo/compare.py --model MODEL bf16 int8 ./plan

Reads only what the runs write: TRL's log history and the log of FLASHRL_LOGGING_FILE.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
COLUMNS = {
    "reward": "reward",
    "sampling/sampling_logp_difference/mean": "logp diff mean",
    "sampling/sampling_logp_difference/max": "max",
    "sampling/importance_sampling_ratio/min": "IS ratio min",
    "sampling/importance_sampling_ratio/mean": "mean",
    "sampling/importance_sampling_ratio/max": "max",
    "step_time": "step, s",
    "update": "update, s",
}
DIGITS = {"step_time": 1, "update": 2, "sampling/importance_sampling_ratio/max": 2}
UPDATE = re.compile(r"weight update (\d+): \d+ tensors, [\d.]+ MB, ([\d.]+) s")


def run(config: str | None, options: argparse.Namespace, folder: Path) -> tuple[int, str]:
    """Train under one value of FLASHRL_CONFIG; returns exit status and what was printed."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in ("flashrl.log", "log_history.json", "proof.json"):
        (folder / old).unlink(missing_ok=True)
    environ = {key: value for key, value in os.environ.items() if not key.startswith("FLASHRL_")}
    command = [sys.executable, str(HERE / "train.py"), "--model", options.model, "--steps", str(options.steps)]
    command += ["--seed", str(options.seed), "--output", str(folder)]
    if config is not None:
        environ |= {"FLASHRL_CONFIG": config, "FLASHRL_LOGGING_FILE": str(folder / "flashrl.log")}
        command.append("--proof")
    began = time.perf_counter()
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    text = done.stdout + done.stderr
    (folder / "output.txt").write_text(text)
    print(f"FLASHRL_CONFIG={config or ''} ended with {done.returncode} after {time.perf_counter() - began:.0f} s",
          file=sys.stderr)  # fmt: skip
    return done.returncode, text


def read(folder: Path) -> list[dict[str, float]]:
    """What TRL logged per step, with the seconds of the weight update that the step began with."""
    steps = [row for row in json.loads((folder / "log_history.json").read_text()) if "reward" in row]
    updates = dict(UPDATE.findall((folder / "flashrl.log").read_text()))
    return [{**step, "update": float(updates[str(number)])} for number, step in enumerate(steps, 1)]


def table(runs: list[list[dict[str, float]]]) -> list[str]:
    """One row per step, all runs in each cell; the mean leaves out the first step, which has vLLM's warm-up in it."""
    lines = [f"| step | {' | '.join(COLUMNS.values())} |", "|---:" * (len(COLUMNS) + 1) + "|"]
    for number, steps in enumerate(zip(*runs, strict=True), 1):
        lines.append(table_row(str(number), list(steps)))
    means = [{key: sum(step[key] for step in steps[1:]) / max(1, len(steps) - 1) for key in COLUMNS} for steps in runs]
    return [*lines, table_row("mean 2-", means)]


def table_row(label: str, values: list[dict[str, float]]) -> str:
    cells = [" · ".join(f"{value[key]:.{DIGITS.get(key, 3)}f}" for value in values) for key in COLUMNS]
    return f"| {label} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--output", type=Path, default=Path(".cache/trl_grpo"))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("configs", nargs="*", default=["bf16", "int8"], help="values of FLASHRL_CONFIG")
    options = parser.parse_args()

    status, text = run(None, options, options.output / "unset")
    errors = [line for line in text.splitlines() if re.search(r"\w+(Error|Exception): ", line)]
    print(f"\n### FLASHRL_CONFIG unset\n\nexit status {status}\n\n    {errors[-1] if errors else 'no error'}")
    runs = {}
    for index, config in enumerate(options.configs):
        folder = options.output / f"{index}-{re.sub(r'[^a-z0-9]+', '-', config.lower()).strip('-')}"
        status, text = run(config, options, folder)
        print(f"\n### FLASHRL_CONFIG={config}\n")
        if status:
            print(f"exit status {status}; see {folder / 'output.txt'}")
            continue
        runs[config] = read(folder)
        print("\n".join(f"    {line}" for line in text[text.index("plan   ") :].splitlines()[:6]))
    if runs:
        print(f"\n### Each cell: {' · '.join(runs)}\n")
        print("\n".join(table(list(runs.values()))))
    if failed := set(options.configs) - set(runs):
        raise SystemExit(f"failed: {', '.join(sorted(failed))}")


if __name__ == "__main__":
    main()
