"""What FLASHRL_CONFIG changes, and that an unset one changes nothing."""

import pytest

pytestmark = pytest.mark.vllm


def test_unset_serves_bf16_and_imports_nothing(run_scenario, tiny) -> None:
    ran = run_scenario("settings", None, model=tiny(1))
    assert ran.returncode == 0, ran.log[-3000:]
    assert ran.result["quantization"] is None
    assert ran.result["load_format"] == "auto"
    assert "runs no plan" in ran.result["status"]
    # The scenario itself imports status; the plugin adds nothing but itself.
    assert not [name for name in ran.result["imported"] if "._vllm" in name or ".documents" in name]


def test_variable_set_late_and_arguments_used_twice(run_scenario, tiny) -> None:
    ran = run_scenario("late_and_reused", None, model=tiny(1))
    assert ran.returncode == 0, ran.log[-3000:]
    assert ran.result["int8"] == ["compressed-tensors", "flashrl"]
    assert ran.result["bf16"] == [None, "flashrl"]
    assert ran.result["unset"] == [None, "auto"]
    assert "nobody/nothing" in ran.result["unknown"]
    assert ran.result["engine"] == {"int8": 8}


def test_bf16_reports_logprobs_of_the_sampling_distribution(run_scenario, tiny) -> None:
    with_plan = run_scenario("settings", "bf16", model=tiny(1))
    without = run_scenario("settings", None, model=tiny(1))
    assert with_plan.result["quantization"] is None
    assert with_plan.result["logprobs_mode"] == "processed_logprobs"
    assert with_plan.result["tokens"] == without.result["tokens"], "bf16 changes no token"
    assert with_plan.result["top_k_1_logprobs"] == [0.0] * 4, "top_k=1 leaves one token with probability 1"
    assert all(value < 0 for value in without.result["top_k_1_logprobs"]), "vLLM's default reports raw logprobs"


def test_lm_head_fp32_is_honoured(run_scenario, tiny) -> None:
    ran = run_scenario("settings", "int8", env={"FLASHRL_LMHEAD_FP32": "1"}, model=tiny(1))
    assert ran.returncode == 0, ran.log[-3000:]
    assert ran.result["head_dtype"] == "torch.float32"
    assert ran.result["quantization"] == "compressed-tensors"


def test_log_file_gets_rank_and_pid(run_scenario, tiny, tmp_path) -> None:
    log = tmp_path / "flashrl.log"
    env = {"FLASHRL_LOGGING_FILE": str(log), "FLASHRL_LOGGING_LEVEL": "DEBUG"}
    ran = run_scenario("settings", "int8", env=env, model=tiny(1))
    assert ran.returncode == 0, ran.log[-3000:]
    text = log.read_text()
    assert "runs in this worker: 8 layers int8" in text
    assert "pid=" in text
    assert "plan sha256:" in text
