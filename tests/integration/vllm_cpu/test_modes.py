"""What FLASHRL_CONFIG may name, and FlashRL's other variables: each starts the engine that it says, or none."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.vllm
BIN = Path(sys.executable).parent


def command(*arguments: object) -> None:
    program, *rest = map(str, arguments)
    done = subprocess.run([str(BIN / program), *rest], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def job(tiny: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny bf16 model and its smoothed W8A8 twin; plans that start from the first, from the second; FlashRL's files
    for the same; a lock."""
    import tiny_pair

    work = tmp_path_factory.mktemp("modes")
    reference, quantized = tiny(1), tiny_pair.write_w8a8(tiny(1), work / "quantized")
    command("flashrl", "profile", "-m", reference, "-qm", quantized, "-o", work / "profile", "--fn", "int8")
    compile_plan = ("flashrl-registry", "compile", "-m", reference, "--profile", work / "profile")
    command(*compile_plan, "--scheme", "int8", "-o", work / "plain")
    rules = "schema_version: flashrl.rules/v1\nengine: {model: %s}\nrules:\n"
    rules += "- {name: linears, scheme: int8, targets: ['*_proj']}\n"
    rules += "- {name: rest, scheme: bf16, targets: ['*'], ignore: ['*_proj']}\n"
    for name, model in (("ready_made", quantized), ("elsewhere", tiny(3))):
        (work / f"{name}.yaml").write_text(rules % model)
        command(*compile_plan, "--rules", work / f"{name}.yaml", "-o", work / name)
    export = ("flashrl-registry", "export", work / "ready_made", "--to", "flashrl", "--lossy")
    command(*export, "-o", work / "flashrl")
    digest = json.loads((work / "plain" / "plan.json").read_text())["digest"]
    entry = {"requested": "./plain", "source": {"kind": "path", "path": "./plain"}, "plan_digest": digest}
    (work / "plans.lock").write_text(json.dumps({"schema_version": "flashrl.lock/v1", "entries": [entry]}))
    entry_text = (work / "flashrl" / "flashrl_config.yaml").read_text()
    (work / "two.yaml").write_text(entry_text + "- fn: bf16\n  load_format: dummy\n")
    return {"work": work, "model": reference, "updated": tiny(2), "quantized": quantized}


@pytest.fixture(scope="session")
def started(job: dict[str, Path], run_shared: Callable[..., Any]) -> dict[str, Any]:
    """Every mode's engine: its start, and after an update."""
    work = job["work"]
    configs = {
        "plain": work / "plain",
        "ready_made": work / "ready_made",
        "elsewhere": work / "elsewhere",
        "flashrl": work / "flashrl" / "flashrl_config.yaml",
        "lock": work / "plans.lock",
        "replica": work / "two.yaml",
    }
    given = {key: str(job[key]) for key in ("model", "updated", "quantized")}
    texts = {name: str(path) for name, path in configs.items()}
    ran = run_shared("modes.py", "starts", env={"FLASHRL_REPLICA": "1/2"}, configs=texts, **given)
    assert ran.returncode == 0, ran.log[-3000:]
    return {**ran.result, "log": ran.log}


def test_every_start_is_what_the_plan_made_of_what_was_read(started: dict[str, Any]) -> None:
    for name in ("plain", "ready_made", "elsewhere", "flashrl", "lock"):
        for moment in ("start", "updated"):
            (report,) = started[name][moment]["verify"]
            assert report["different"] == [], (name, moment)
            assert report["compared"] == report["equal"] > 0


def test_a_quantized_checkpoint_starts_with_its_own_codes(started: dict[str, Any]) -> None:
    start = started["ready_made"]["start"]
    assert start["tokens"] == started["stock"]["tokens"], "as vLLM serves that checkpoint by itself"
    assert start["resident"] != started["plain"]["start"]["resident"], "its codes are not those of row absmax"
    assert "its own codes and scales" in started["log"]


def test_after_an_update_nothing_is_left_of_the_start(started: dict[str, Any]) -> None:
    for name in ("ready_made", "elsewhere"):
        assert started[name]["start"]["resident"] != started["plain"]["start"]["resident"]
        for what in ("tokens", "resident"):
            assert started[name]["updated"][what] == started["plain"]["updated"][what], name


def test_a_bf16_model_elsewhere_is_quantized_by_the_plan(
    started: dict[str, Any], job: dict[str, Path], run_scenario: Callable[..., Any], tiny: Callable[..., Path]
) -> None:
    ran = run_scenario("fresh", str(job["work"] / "plain"), model=tiny(3))
    assert ran.returncode == 0, ran.log[-3000:]
    for what in ("tokens", "resident"):
        assert started["elsewhere"]["start"][what] == ran.result[what]


def test_flashrl_s_own_config_starts_the_same_engine(started: dict[str, Any]) -> None:
    assert started["flashrl"]["start"]["resident"] == started["ready_made"]["start"]["resident"]
    assert started["flashrl"]["start"]["tokens"] == started["stock"]["tokens"]
    assert started["flashrl"]["start"]["status"]["layers"] == {"int8": 8}


def test_each_replica_takes_its_entry_of_flashrl_s_config(started: dict[str, Any]) -> None:
    report = started["replica"]["start"]["status"]
    assert (report["member"], report["replica"]) == ("bf16", 1)
    assert report["layers"] == {"unquantized": 8}


def test_a_lock_starts_the_plan_that_it_pins(started: dict[str, Any]) -> None:
    for what in ("tokens", "resident"):
        assert started["lock"]["start"][what] == started["plain"]["start"][what]


def refused(ran: Any, *texts: str) -> None:
    assert ran.returncode != 0, "the engine started"
    assert ran.result == {}
    for text in texts:
        assert text in ran.log, ran.log[-3000:]


def test_a_start_model_that_does_not_fit_starts_nothing(
    job: dict[str, Path], run_scenario: Callable[..., Any], tmp_path: Path
) -> None:
    tensors = load_file(job["quantized"] / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight_scale"
    kept = tensors.pop(name)
    save_file(tensors, job["quantized"] / "model.safetensors", metadata={"format": "pt"})
    try:
        ran = run_scenario("fresh", str(job["work"] / "ready_made"), model=job["model"])
        refused(ran, "the engine cannot start with", name)
    finally:
        save_file({**tensors, name: kept}, job["quantized"] / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("in_process", [True, False])
def test_reloads_are_tried_before_the_engine_serves(
    run_scenario: Callable[..., Any], tiny: Callable[..., Path], tmp_path: Path, *, in_process: bool
) -> None:
    log = tmp_path / "log"
    env = {"FLASHRL_TEST_RELOAD": f"{tiny(2)}, {tiny(3)}", "FLASHRL_LOGGING_FILE": str(log)}
    ran = run_scenario("fresh", "int8", in_process=in_process, env=env, model=tiny(1))
    assert ran.returncode == 0, ran.log[-3000:]
    reports = [line for line in log.read_text().splitlines() if "FLASHRL_TEST_RELOAD" in line]
    assert [str(place) in line for place, line in zip((tiny(2), tiny(3), tiny(1)), reports, strict=True)] == [True] * 3
    assert all("21 tensors" in line and "serving" in line and "sha256:" in line for line in reports)
    resident = [line.partition("resident ")[2].split(",")[0] for line in reports]
    assert len(set(resident)) == 3
    alone = run_scenario("fresh", "int8", model=tiny(1))
    for what in ("tokens", "resident"):
        assert ran.result[what] == alone.result[what], "the engine's own weights are back"


def test_a_later_engine_of_the_program_reloads_nothing(
    run_scenario: Callable[..., Any], tiny: Callable[..., Path]
) -> None:
    env = {"FLASHRL_TEST_RELOAD": str(tiny(2)), "FLASHRL_LMHEAD_FP_32": "1"}
    ran = run_scenario("one_without_a_plan", "int8", script="starting.py", env=env, model=tiny(1))
    assert ran.returncode == 0, ran.log[-3000:]
    assert ran.result["stock"]["tokens"] == ran.result["bf16"]["tokens"]
    assert ran.log.count(f"FLASHRL_TEST_RELOAD {tiny(2)}:") == 1
    told = "FLASHRL_LMHEAD_FP_32 is read by nothing; did you mean 'FLASHRL_LMHEAD_FP32'?"
    assert ran.log.count(told) == 1, "once, though there were two engines under a plan"


def test_reloads_are_tried_on_the_other_release(
    run_scenario: Callable[..., Any], tiny: Callable[..., Path], other_release: Path
) -> None:
    env = {"FLASHRL_TEST_RELOAD": str(tiny(2))}
    ran = run_scenario("fresh", "int8", pythonpath=other_release, env=env, model=tiny(1))
    assert ran.returncode == 0, ran.log[-3000:]
    for name in (f"{tiny(2)}:", f"{tiny(1)} (its own):"):
        assert f"FLASHRL_TEST_RELOAD {name}" in ran.log
    assert ran.result["verify"][0]["different"] == []


def test_reloads_end_under_the_plan_where_the_start_was_ready_made(
    job: dict[str, Path], started: dict[str, Any], run_scenario: Callable[..., Any], tiny: Callable[..., Path]
) -> None:
    env = {"FLASHRL_TEST_RELOAD": str(tiny(2))}
    ran = run_scenario("fresh", str(job["work"] / "ready_made"), env=env, model=job["model"])
    assert ran.returncode == 0, ran.log[-3000:]
    assert "the engine serves the program's model under the plan now" in ran.log
    assert ran.result["resident"] == started["plain"]["start"]["resident"]


def test_a_reload_that_fails_stops_the_engine(
    run_scenario: Callable[..., Any], tiny: Callable[..., Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    tensors = load_file(tiny(2) / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    (broken / "config.json").write_text((tiny(2) / "config.json").read_text())
    ran = run_scenario("fresh", "int8", env={"FLASHRL_TEST_RELOAD": str(broken)}, model=tiny(1))
    refused(ran, f"the reload of {broken} failed", "model.norm.weight: missing")
