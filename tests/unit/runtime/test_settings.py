"""The environment variables as a value."""

import re
from pathlib import Path

import pytest

import flashrl_registry
from flashrl_registry.errors import ResolutionError, RuntimeLoadError
from flashrl_registry.runtime import settings_from_env
from flashrl_registry.runtime.settings import VARIABLES, read_by_nothing


def test_nothing_set_switches_everything_off() -> None:
    settings = settings_from_env({})
    assert settings.config is None
    assert not settings.lm_head_fp32
    assert settings_from_env({"FLASHRL_CONFIG": "  "}).config is None


def test_all_variables() -> None:
    settings = settings_from_env(
        {
            "FLASHRL_CONFIG": "bf16",
            "FLASHRL_LMHEAD_FP32": "1",
            "FLASHRL_LOGGING_LEVEL": "debug",
            "FLASHRL_LOGGING_FILE": "/tmp/x.log",
            "FLASHRL_TEST_RELOAD": "a, b,",
        }
    )
    assert settings.config == "bf16"
    assert settings.lm_head_fp32
    assert settings.logging_level == "DEBUG"
    assert settings.logging_file == Path("/tmp/x.log")
    assert settings.test_reload == ("a", "b")


@pytest.mark.parametrize(
    "environ", [{"FLASHRL_LMHEAD_FP32": "maybe"}, {"FLASHRL_LOGGING_LEVEL": "loud"}], ids=["flag", "level"]
)
def test_a_value_that_means_nothing_is_refused(environ: dict[str, str]) -> None:
    with pytest.raises(RuntimeLoadError, match="means nothing"):
        settings_from_env(environ)


def test_an_fp32_head_that_the_release_ignores_stops_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    from flashrl_registry.runtime._vllm import compat, engine_args

    monkeypatch.setattr(compat, "vllm_version", lambda: "0.25.1")
    with pytest.raises(ResolutionError, match=r"FLASHRL_LMHEAD_FP32=1, and vLLM 0\.25\.1 ignores head_dtype"):
        engine_args._lm_head_fp32(settings_from_env({"FLASHRL_LMHEAD_FP32": "1"}))
    assert not engine_args._lm_head_fp32(settings_from_env({}))
    monkeypatch.setattr(compat, "vllm_version", lambda: "0.27.1+cpu")
    assert engine_args._lm_head_fp32(settings_from_env({"FLASHRL_LMHEAD_FP32": "1"}))


def test_a_misspelt_variable_is_told_with_the_one_that_was_meant() -> None:
    environ = {"FLASHRL_LM_HEAD_FP32": "1", "FLASHRL_CONFIG": "int8", "PATH": "/bin"}
    told = ["FLASHRL_LM_HEAD_FP32 is read by nothing; did you mean 'FLASHRL_LMHEAD_FP32'?"]
    assert read_by_nothing(environ) == told


def test_no_variable_that_something_reads_is_called_misspelt() -> None:
    root = Path(flashrl_registry.__file__).parent
    text = "".join(file.read_text() for file in root.rglob("*.py"))
    assert set(re.findall(r'"(FLASHRL_[A-Z0-9_]*[A-Z0-9])"', text)) == set(VARIABLES)
