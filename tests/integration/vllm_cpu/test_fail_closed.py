"""With FLASHRL_CONFIG set the engine runs the plan or does not start: one clear error, never bf16 by accident.

Here are those that take a process, or several, of their own; test_faults.py has the others.
"""

import subprocess
import sys
from pathlib import Path

import pytest

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


def test_altered_plan_bytes(run_scenario, tiny, plan) -> None:
    text = (plan / "plan.yaml").read_text()
    (plan / "plan.yaml").write_text(text.replace("scales: recompute", "scales: frozen"))
    refused(run_scenario("settings", str(plan), model=tiny(1)), "does not match its digest", "recorded sha256:")


def test_plugin_kept_out_of_the_workers(run_scenario, tiny, plan) -> None:
    ran = run_scenario("plugins_narrowed", str(plan), in_process=False, model=tiny(1))
    refused(ran, "VLLM_PLUGINS")


def test_worker_that_computes_another_plan(run_scenario, tiny, plan) -> None:
    ran = run_scenario("worker_differs", str(plan), in_process=False, model=tiny(1))
    refused(ran, "resolves another plan than the driver")


def test_a_log_file_that_cannot_be_written_stops_the_engine_however_often_it_is_tried(run_scenario, tiny, tmp_path):
    """vLLM calls a plugin once per process, and a program may catch what the plugin raises."""
    env = {"FLASHRL_LOGGING_FILE": str(tmp_path / "missing" / "ours.log")}
    ran = run_scenario("tried_again", "int8", env=env, model=tiny(1))
    assert ran.returncode == 0, ran.log[-3000:]
    for error in ran.result["errors"]:
        assert error.startswith(f"RuntimeLoadError: {'='.join(*env.items())} cannot be written: No such file"), error
        assert "unset the variable" in error
    refused(run_scenario("fresh", "int8", env=env, in_process=False, model=tiny(1)), "cannot be written")


@pytest.mark.parametrize("late", [False, True], ids=["set", "set late"])
def test_a_program_that_loads_plugins_before_it_can_make_engines_runs_the_plan(run_scenario, tiny, late: bool) -> None:
    given = {"late": "int8"} if late else {}
    ran = run_scenario("plugins_first", None if late else "int8", script="starting.py", model=tiny(1), **given)
    assert ran.returncode == 0, ran.log[-3000:]
    assert not ran.result["imported"], "the module that makes engines must come later, or the test shows nothing"
    assert ran.result["status"]["layers"] == {"int8": 8}
    assert ran.result["verify"][0]["different"] == []


def test_a_configuration_made_without_the_plugin_starts_nothing(run_scenario, tiny) -> None:
    """Where vLLM makes a configuration before it has loaded its plugins, nothing of ours can put a plan into it."""
    ran = run_scenario("handed_over", "int8", script="starting.py", model=tiny(1))
    refused(ran, "this engine's configuration was made without the plan", "load_general_plugins()")
    ran = run_scenario("handed_over", None, script="starting.py", model=tiny(1))
    assert ran.result == {"quantization": None}, ran.log[-3000:]
