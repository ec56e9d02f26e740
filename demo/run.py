"""The whole job on a real model, step by step, with the commands that a user types.

    python demo/run.py [--work DIR]

Each step is a process of its own and is printed before it runs. Exit code 0 means that every step worked and that
the numbers at the end are what this machine measured.
"""

import argparse
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from flashrl_registry.runtime import mismatch

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
NAME = "demo/smollm2-135m-int8"
# One thread keeps runs comparable on small machines; a GiB of KV cache is plenty here.
ENGINE_ENV = {"OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "TQDM_DISABLE": "1"}


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def run(work: Path, *command: object, config: str | None = None, fails: str | None = None) -> None:
    """Run one command, show it and its output; stop the demo when it fails.

    With ``fails``, it must fail, and that text must be in its error.

    What libraries write to stderr goes to ``log.txt`` in the work folder; of it, our own lines are shown.
    """
    environ = {**os.environ, **ENGINE_ENV, "FLASHRL_REGISTRY": str(work / "registry")}
    environ.pop("FLASHRL_CONFIG", None)
    shown = " ".join(shlex.quote(short(part, work)) for part in command)
    if config is not None:
        environ["FLASHRL_CONFIG"] = config
        shown = f"FLASHRL_CONFIG={config} {shown}"
    print(f"$ {shown}", flush=True)
    began = time.perf_counter()
    done = subprocess.run([str(part) for part in command], env=environ, capture_output=True, text=True, check=False)
    with (work / "log.txt").open("a") as log:
        log.write(f"$ {shown}\n{done.stderr}\n")
    for line in done.stderr.splitlines():
        if "[flashrl " in line:
            print(f"  {line}")
    for line in done.stdout.splitlines():
        # vLLM prints this before its logger exists.
        if not line.startswith("Triton is installed"):
            print(line)
    print(f"  ({time.perf_counter() - began:.1f} s)", flush=True)
    if fails is not None and done.returncode != 0 and fails in done.stderr:
        error = next(line for line in done.stderr.splitlines() if fails in line)
        print(f"  exit code {done.returncode}: {error}")
        return
    if done.returncode != 0 or fails is not None:
        print("\n".join(done.stderr.splitlines()[-30:]))
        raise SystemExit(f"exit code {done.returncode}: {shown}\neverything that was printed: {work / 'log.txt'}")


def short(part: object, work: Path) -> str:
    """A path as the reader would type it."""
    if isinstance(part, Path) and part.is_relative_to(work):
        return f"{work.name}/{part.relative_to(work)}"
    if isinstance(part, Path) and part.parent in (BIN, HERE):
        return part.name if part.parent == BIN else f"demo/{part.name}"
    return "python" if part == sys.executable else str(part)


def compare(work: Path, model: Path, rollouts: Path, key: str) -> dict[str, float]:
    """Rollout against trainer on the same tokens."""
    out = work / f"logprobs-{rollouts.stem}-{key}.json"
    run(work, sys.executable, HERE / "trainer_logprobs.py", model, rollouts, key, out)
    sides = json.loads(out.read_text())
    return vars(mismatch(sides["rollout"], sides["trainer"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(".cache/demo"))
    work = parser.parse_args().work.resolve()
    began = time.perf_counter()
    for name in ("registry", "profile", "plan", "pulled", "updated"):
        shutil.rmtree(work / name, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    (work / "log.txt").unlink(missing_ok=True)

    say("1. a real pair: SmolLM2-135M-Instruct in bf16 and its W8A8 twin")
    run(work, sys.executable, HERE / "prepare_pair.py", "--out", work / "pair")
    model = work / "pair" / "SmolLM2-135M-Instruct"
    quantized = work / "pair" / "SmolLM2-135M-Instruct-quantized.w8a8"

    say("2. profile the pair: what the quantized checkpoint did to the bf16 one")
    run(work, BIN / "flashrl", "profile", "-m", model, "-qm", quantized, "-o", work / "profile", "--fn", "int8")

    say("3. compile: every tensor gets a decided treatment, or this fails")
    run(work, BIN / "flashrl-registry", "compile", "-m", model, "--profile", work / "profile", "-o", work / "plan")

    say("4. publish, list, show, pull")
    run(work, BIN / "flashrl-registry", "push", work / "plan", f"{NAME}@1.0.0")
    run(work, BIN / "flashrl-registry", "list")
    run(work, BIN / "flashrl-registry", "show", NAME)
    run(work, BIN / "flashrl-registry", "pull", NAME, "-o", work / "pulled")

    say("5. the same unmodified script: without a plan, then with one (vLLM's own engine subprocess)")
    run(work, sys.executable, HERE / "generate.py", model)
    run(work, sys.executable, HERE / "generate.py", model, config=NAME)

    altered = work / "pulled" / "plan.yaml"
    altered.chmod(0o644)
    altered.write_text(altered.read_text().replace("scales: recompute", "scales: frozen"))
    print(f"one word of {short(altered, work)} is changed:")
    run(work, sys.executable, HERE / "generate.py", model, config=str(altered), fails="does not match its digest")

    say("6. the trainer takes a few steps")
    run(work, sys.executable, HERE / "train_step.py", model, work / "updated")

    say("7. rollouts before and after weight updates: the plan, int8 without a profile, bf16")
    reports = {}
    for label, config in (("int8", NAME), ("plain", "int8"), ("bf16", "bf16")):
        out = work / f"rollouts-{label}.json"
        run(work, sys.executable, HERE / "rollouts.py", model, work / "updated", out, config=config)
        reports[label] = json.loads(out.read_text())

    say("8. rollout against trainer, on the tokens that the rollout sampled")
    rows = []
    for label in reports:
        for key, policy in (("sampled_start", model), ("sampled_load_weights", work / "updated")):
            rows.append((label, key, compare(work, policy, work / f"rollouts-{label}.json", key)))

    summary(reports, rows)
    peak = max(
        resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )
    print(f"\nwhole demo: {(time.perf_counter() - began) / 60:.1f} min, peak RSS of a process {peak / 2**20:.2f} GiB")
    broken = [label for label, report in reports.items() if not proven(report)]
    if broken:
        raise SystemExit(f"updates are not bit-equal under: {', '.join(broken)}")


def proven(report: dict) -> bool:
    """Both routes left the same resident bytes, and the old weights came back bit for bit."""
    return bool(
        report["same_resident"]
        and report["restored_reload_weights"]
        and report["restored_load_weights"]
        and report["greedy_reload_weights"] == report["greedy_load_weights"]
    )


def summary(reports: dict[str, dict], rows: list[tuple[str, str, dict[str, float]]]) -> None:
    for report in reports.values():
        status = report["status"]
        say(f"what ran: FLASHRL_CONFIG={status['source']}")
        print(f"  plan digest, from the worker  {status['plan_digest']}")
        print(f"  engine layers by format       {status['layers']}")
        print(f"  tensors by treatment          {status['tensors']}")
        seconds = report["update_seconds"]
        print(f"  update seconds                (a) reload_weights {seconds['reload_weights']:.2f}, "
              f"(b) load_weights one by one {seconds['load_weights']:.2f}")  # fmt: skip
        print(f"  (a) and (b) left the same resident bytes: {report['same_resident']}; the old weights came back "
              f"bit for bit: {report['restored_reload_weights'] and report['restored_load_weights']}")  # fmt: skip
        print("  greedy text                   before the update -> after it")
        for before, after in list(zip(report["greedy_start"], report["greedy_load_weights"], strict=True))[:3]:
            print(f"    {before!r}\n      -> {after!r}")
    say("rollout against trainer (transformers, bf16), same tokens, temperature 1, natural logarithms")
    heads = ("tokens", "mean |dlogp|", "max |dlogp|", "k1", "k3", "ESS")
    print("  {:6} {:15} {:>6} {:>12} {:>11} {:>9} {:>9} {:>6}".format("engine", "policy", *heads))
    for label, key, row in rows:
        policy = "start" if key == "sampled_start" else "after update"
        print(
            f"  {label:6} {policy:15} {row['num_tokens']:6d} {row['mean_abs_dlogprob']:12.5f} "
            f"{row['max_abs_dlogprob']:11.4f} {row['k1']:9.5f} {row['k3']:9.5f} {row['ess']:6.3f}"
        )


if __name__ == "__main__":
    main()
