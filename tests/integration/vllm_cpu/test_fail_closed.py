"""With FLASHRL_CONFIG set the engine runs the plan or does not start: one clear error, never bf16 by accident."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.vllm
BIN = Path(sys.executable).parent


@pytest.fixture
def plan(tiny, tmp_path: Path) -> Path:
    folder = tmp_path / "plan"
    compiled = [str(BIN / "flashrl-registry"), "compile", "-m", str(tiny(1)), "--scheme", "int8", "-o", str(folder)]
    subprocess.run(compiled, check=True, capture_output=True)
    return folder


def refused(ran, *texts: str) -> None:
    assert ran.returncode != 0, "the engine started"
    assert ran.result == {}
    for text in texts:
        assert text in ran.log, ran.log[-3000:]


def test_unknown_reference(run_scenario, tiny) -> None:
    refused(run_scenario("settings", "nobody/nothing@1.0.0", model=tiny(1)), "nobody/nothing")


def test_malformed_reference(run_scenario, tiny) -> None:
    refused(run_scenario("settings", "not a ref", model=tiny(1)), "not a plan reference", "namespace/name")


def test_altered_plan_bytes(run_scenario, tiny, plan) -> None:
    text = (plan / "plan.yaml").read_text()
    (plan / "plan.yaml").write_text(text.replace("scales: recompute", "scales: frozen"))
    refused(run_scenario("settings", str(plan), model=tiny(1)), "does not match its digest", "recorded sha256:")


def test_altered_profile_vectors(run_scenario, pair, real_plan, tmp_path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(real_plan, copy)
    sidecar = next(copy.glob("*.safetensors"))
    sidecar.chmod(0o644)
    data = bytearray(sidecar.read_bytes())
    data[-1] ^= 1
    sidecar.write_bytes(data)
    refused(run_scenario("settings", str(copy), model=pair[0]), "does not match its digest", sidecar.name)


def test_plan_for_another_model(run_scenario, pair, plan) -> None:
    refused(run_scenario("settings", str(plan), model=pair[0]), "the plan is for", "not for SmolLM2-135M-Instruct")


def test_undecided_tensor(run_scenario, tiny, plan, tmp_path) -> None:
    grown = tmp_path / "grown"
    shutil.copytree(tiny(1), grown)
    tensors = load_file(grown / "model.safetensors")
    tensors["model.layers.0.self_attn.q_proj.bias"] = tensors["model.norm.weight"].clone()
    save_file(tensors, grown / "model.safetensors", metadata={"format": "pt"})
    ran = run_scenario("settings", str(plan), model=grown)
    refused(ran, "not decided by the plan", "model.layers.0.self_attn.q_proj.bias")


def test_plugin_kept_out_of_the_workers(run_scenario, tiny, plan) -> None:
    ran = run_scenario("plugins_narrowed", str(plan), in_process=False, model=tiny(1))
    refused(ran, "VLLM_PLUGINS")


def test_program_asks_for_another_quantization(run_scenario, tiny, plan) -> None:
    refused(run_scenario("own_quantization", str(plan), model=tiny(1)), "one must decide")


def test_format_that_writes_past_the_plan(run_scenario, tiny, plan) -> None:
    refused(run_scenario("sharded_state", str(plan), model=tiny(1)), "sharded_state", "past model.load_weights")


def test_worker_that_computes_another_plan(run_scenario, tiny, plan) -> None:
    ran = run_scenario("worker_differs", str(plan), in_process=False, model=tiny(1))
    refused(ran, "resolves another plan than the driver")
