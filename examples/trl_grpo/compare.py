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
from typing import Any

HERE = Path(__file__).parent
COLUMNS = {
    "reward": "reward",
    "sampling/sampling_logp_difference/mean": "logp diff mean",
    "sampling/sampling_logp_difference/max": "max",
    "sampling/importance_sampling_ratio/min": "IS ratio min",
    "sampling/importance_sampling_ratio/mean": "mean",
    "sampling/importance_sampling_ratio/max": "max",
    "step_time": "step, s",
}
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


def table(folder: Path) -> list[str]:
    """One row per step, and the means without the first, which has vLLM's compilation in it."""
    steps = [row for row in json.loads((folder / "log_history.json").read_text()) if "reward" in row]
    updates = dict(UPDATE.findall((folder / "flashrl.log").read_text()))
    lines = [f"| step | {' | '.join(COLUMNS.values())} | update | s |", "|---:" * (len(COLUMNS) + 3) + "|"]
    for number, step in enumerate(steps, 1):
        seconds = updates.get(str(number))
        lines.append(row(str(number), step, str(number) if seconds else "none", seconds or ""))
    means = {key: sum(step[key] for step in steps[1:]) / max(1, len(steps) - 1) for key in COLUMNS}
    mean_update = sum(float(updates[str(n)]) for n in range(2, len(steps) + 1)) / max(1, len(steps) - 1)
    return [*lines, row("mean 2-", means, "", f"{mean_update:.3f}")]


def row(label: str, values: dict[str, Any], update: str, seconds: str) -> str:
    cells = [f"{values[key]:.4f}" if key != "step_time" else f"{values[key]:.1f}" for key in COLUMNS]
    return f"| {label} | {' | '.join(cells)} | {update} | {seconds} |"


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
    failed = []
    for index, config in enumerate(options.configs):
        folder = options.output / f"{index}-{re.sub(r'[^a-z0-9]+', '-', config.lower()).strip('-')}"
        status, text = run(config, options, folder)
        print(f"\n### FLASHRL_CONFIG={config}\n")
        if status:
            failed.append(config)
            print(f"exit status {status}; see {folder / 'output.txt'}")
            continue
        print("\n".join(table(folder)))
        print("\n" + "\n".join(f"    {line}" for line in text[text.index("plan   ") :].splitlines()[:6]))
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
