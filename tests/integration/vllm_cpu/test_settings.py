"""What FLASHRL_CONFIG and its like change, and that an unset one changes nothing."""

from pathlib import Path

import pytest
from jobs import Several, job

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "flashrl.log"


@pytest.fixture(scope="module")
def ran(run_several, tiny, log: Path) -> Several:
    """One program that changes its mind; it begins without a plan, and the plugin is loaded then."""
    env = {"FLASHRL_LMHEAD_FP32": "1", "FLASHRL_LOGGING_FILE": str(log), "FLASHRL_LOGGING_LEVEL": "DEBUG"}
    return run_several(
        unset=job("scenarios.settings", model=tiny(1)),
        int8=job("scenarios.settings", "int8", env=env, model=tiny(1)),
        bf16=job("scenarios.settings", "bf16", model=tiny(1)),
        late=job("scenarios.late_and_reused", model=tiny(1)),
    )


def test_unset_serves_bf16_and_imports_nothing(ran) -> None:
    result = ran["unset"]
    assert result["quantization"] is None
    assert result["load_format"] == "auto"
    assert "runs no plan" in result["status"]
    # The scenario itself imports status; the plugin adds nothing but itself.
    assert not [name for name in result["imported"] if "._vllm" in name or ".documents" in name]


def test_variable_set_late_and_arguments_used_twice(ran) -> None:
    result = ran["late"]
    assert result["int8"] == ["compressed-tensors", "flashrl"]
    assert result["bf16"] == [None, "flashrl"]
    assert result["unset"] == [None, "auto"]
    assert "nobody/nothing" in result["unknown"]
    assert result["engine"] == {"int8": 8}


def test_bf16_reports_logprobs_of_the_sampling_distribution(ran) -> None:
    with_plan, without = ran["bf16"], ran["unset"]
    assert with_plan["quantization"] is None
    assert with_plan["logprobs_mode"] == "processed_logprobs"
    assert with_plan["tokens"] == without["tokens"], "bf16 changes no token"
    assert with_plan["top_k_1_logprobs"] == [0.0] * 4, "top_k=1 leaves one token with probability 1"
    assert all(value < 0 for value in without["top_k_1_logprobs"]), "vLLM's default reports raw logprobs"


def test_lm_head_fp32_is_honoured(ran) -> None:
    assert ran["int8"]["head_dtype"] == "torch.float32"
    assert ran["int8"]["quantization"] == "compressed-tensors"
    assert ran["bf16"]["head_dtype"] != "torch.float32", "where it is not asked for"


def test_log_file_gets_rank_and_pid(ran, log: Path) -> None:
    assert ran["int8"]["status"]["layers"] == {"int8": 8}
    text = log.read_text()
    assert "runs in this worker: 8 layers int8" in text
    assert "pid=" in text
    assert "rank=0" in text
    assert "plan sha256:" in text
