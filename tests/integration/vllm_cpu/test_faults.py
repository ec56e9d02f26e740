"""No fault goes unnoticed: an engine that must not start does not, and a bad update never becomes a wrong token.

``docs/faults.md`` lists every fault that is injected here and what was seen; ``make matrix`` rewrites it.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import fault_table
import pytest
import tiny as make
import tiny_pair
import torch
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.vllm

BIN = Path(sys.executable).parent
DOCS = Path(__file__).parents[3] / "docs" / "faults.md"
LINEARS = (
    "rules:\n- {name: linears, scheme: int8, targets: ['*_proj']}\n"
    "- {name: rest, scheme: bf16, targets: ['*'], ignore: ['*_proj']}\n"
)


def compiled(work: Path, name: str, model: Path, rules: str, *more: object) -> Path:
    """A plan folder."""
    (work / f"{name}.yaml").write_text("schema_version: flashrl.rules/v1\n" + rules)
    command = [BIN / "flashrl-registry", "compile", "-m", model, "--rules", work / f"{name}.yaml", "-o", work / name]
    subprocess.run([*map(str, command), *map(str, more)], check=True, capture_output=True)
    return work / name


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models with biases, a profile of the first, and plans from it."""
    folder = tmp_path_factory.mktemp("faults")
    models = [tiny_pair.add_biases(make.write(folder / f"model{seed}", seed)) for seed in (1, 2)]
    quantized = tiny_pair.write_w8a8(models[0], folder / "quantized")
    profile = [BIN / "flashrl", "profile", "-m", models[0], "-qm", quantized, "-o", folder / "profile", "--fn", "int8"]
    subprocess.run(list(map(str, profile)), check=True, capture_output=True)
    for name, head in (("quarantine", ""), ("staged", "update: {mode: staged}\n")):
        compiled(folder, name, models[0], head + LINEARS, "--profile", folder / "profile")
    return folder


@pytest.fixture(scope="module")
def updates(work: Path, run_shared) -> dict[str, dict[str, Any]]:
    """What became of every faulty update, under a plan that quarantines and under a staged one."""
    out = {}
    for plan in ("quarantine", "staged"):
        shutil.copytree(work / plan, work / f"{plan}-used")  # one of the faults damages it
        ran = run_shared(
            "fault_scenarios.py", "updates", str(work / f"{plan}-used"), plan=str(work / f"{plan}-used"),
            models=[str(work / "model1"), str(work / "model2")], staged=plan == "staged",
        )  # fmt: skip
        assert ran.returncode == 0, ran.log[-3000:]
        out[plan] = ran.result
    return out


def changed(work: Path, name: str, change) -> Path:
    """The first model with another set of tensors."""
    shutil.copytree(work / "model1", work / name)
    tensors = load_file(work / name / "model.safetensors")
    change(tensors)
    save_file(tensors, work / name / "model.safetensors", metadata={"format": "pt"})
    return work / name


def altered(work: Path, name: str, pattern: str, change) -> Path:
    """The plan that quarantines, with one of its files changed; a change to nothing removes it."""
    shutil.copytree(work / "quarantine", work / name)
    for file in (work / name).glob(pattern):
        file.chmod(0o644)
        data = change(file.read_bytes())
        file.write_bytes(data) if data else file.unlink()
    return work / name


@pytest.fixture(scope="module")
def starts(work: Path, run_shared) -> dict[str, Any]:
    """The error of every engine that must not start."""
    (work / "hybrid.yaml").write_text(
        "schema_version: flashrl.hybrid/v1\n"
        "members:\n- {name: eight, plan: ./quarantine}\n- {name: plain, plan: bf16}\n"
    )
    source = {"kind": "path", "path": "./quarantine"}
    entry = {"requested": "./quarantine", "source": source, "plan_digest": "sha256:" + "0" * 64}
    (work / "other.lock").write_text(json.dumps({"schema_version": "flashrl.lock/v1", "entries": [entry]}))
    configs = {
        "hybrid": work / "hybrid.yaml",
        "lock": work / "other.lock",
        "plan": work / "quarantine",
        "altered": altered(work, "altered", "plan.*", lambda data: data.replace(b"recompute", b"frozen")),
        "sidecar": altered(work, "sidecar", "*.safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
        "nosidecar": altered(work, "nosidecar", "*.safetensors", lambda _: b""),
        "range": compiled(work, "range", work / "model1", "engine: {vllm: '>=0.33.1,<0.34'}\n" + LINEARS),
    }
    up = "model.layers.1.mlp.up_proj.weight"

    def extra(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.0.mlp.up_proj.bias"] = torch.zeros(192, dtype=torch.bfloat16)

    def nan(tensors: dict[str, torch.Tensor]) -> None:
        tensors[up][0, 0] = float("nan")

    ran = run_shared(
        "fault_scenarios.py", "starts", configs={name: str(folder) for name, folder in configs.items()},
        models=[str(work / "model1"), str(work / "model2")], quantized=str(work / "quantized"),
        another=str(make.write(work / "another", 5, layers=1)), grown=str(changed(work, "grown", extra)),
        shrunk=str(changed(work, "shrunk", lambda tensors: tensors.pop(up))), nan=str(changed(work, "nan", nan)),
    )  # fmt: skip
    assert ran.returncode == 0, ran.log[-3000:]
    return ran.result


def test_every_engine_that_must_not_start_says_why(starts) -> None:
    wrong = {
        name: fault["error"]
        for name, fault in starts["faults"].items()
        if not all(text.lower() in (fault["error"] or "it started").lower() for text in fault["says"])
    }
    assert not wrong


def test_random_weights_that_the_program_asked_for_are_said_to_be_random(starts) -> None:
    assert starts["dummy"]["status"]["state"] == "serving"
    assert "random" in starts["dummy"]["status"]["reason"]


def test_verify_says_of_random_weights_that_nothing_has_brought_them(starts) -> None:
    report = starts["dummy"]["verify"]
    assert (report["compared"], report["equal"], report["different"]) == (0, 0, [])
    ((reason, names),) = report["not_compared"].items()
    assert reason == "no complete update has brought it yet"
    assert "model.layers.1.self_attn.q_proj.weight" in names


@pytest.mark.parametrize("plan", ["quarantine", "staged"])
def test_a_faulty_update_never_becomes_a_wrong_token(updates, plan: str) -> None:
    assert updates[plan]["visible"], "the two checkpoints must differ in their tokens, or the test shows nothing"
    assert updates[plan]["start"]
    wrong = {name: fault for name, fault in updates[plan]["faults"].items() if fault["outcome"] != fault["expected"]}
    assert not wrong


@pytest.mark.parametrize("plan", ["quarantine", "staged"])
def test_whoever_asks_is_told_what_was_wrong(updates, plan: str) -> None:
    faults = updates[plan]["faults"]
    assert {name for name, fault in faults.items() if fault["says"] not in (fault["error"] or "")} == set()
    states = {"quarantine": {"quarantined"}, "staged": {"serving"}}[plan]
    for name in ("duplicate", "nan-in-linear", "wrong-shape", "numpy", "meta", "raises-in-the-middle"):
        assert faults[name]["state"] in states, name
        assert faults[name]["last_failure"], name
    for name in ("missing", "half-way"):
        assert faults[name]["state"] == {"quarantine": "updating", "staged": "serving"}[plan], name
        assert plan == "staged" or "half done" in faults[name]["generate"], name


def test_the_documented_faults_are_the_injected_ones(updates, starts) -> None:
    text = fault_table.render(starts["faults"], updates["quarantine"]["faults"], updates["staged"]["faults"])
    if os.environ.get("FLASHRL_WRITE_DOCS") == "1":
        DOCS.write_text(text)
    assert DOCS.read_text() == text, "run `make matrix`"


def test_faults_that_other_tests_inject_are_still_injected() -> None:
    for _, file, test, _ in fault_table.ELSEWHERE:
        assert f"def {test}(" in (Path(__file__).parent / file).read_text(), test
