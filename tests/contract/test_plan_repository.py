"""examples/plan_repository and the pre-commit hooks: what a repository of plans copies from us works."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from flashrl_cli.app import REGISTRY_COMMANDS, run
from flashrl_registry.compiler import compile_plan
from flashrl_registry.compiler.lint import inventory_of_plan
from flashrl_registry.documents import Plan, Rules, read_document, yaml_text

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "plan_repository"
RULES = sorted((EXAMPLE / "rules").glob("*.yaml"))


def commands(text: str) -> list[list[str]]:
    """Every command line of ours in a text."""
    joined = text.replace("\\\n", " ")
    return [shlex.split(line.strip()) for line in re.findall(r"(?<![\w/-])flashrl-registry [^\n`|;]+", joined)]


def hooks() -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    return loaded


def test_every_document_of_the_example_is_valid_and_current() -> None:
    assert run("flashrl-registry", ["validate", str(EXAMPLE)]) == 0
    assert run("flashrl-registry", ["migrate", "--check", str(EXAMPLE)]) == 0


@pytest.mark.parametrize("rules", RULES, ids=lambda path: path.stem)
def test_its_plans_are_what_its_rules_compile_to(rules: Path) -> None:
    folder = EXAMPLE / "plans" / rules.stem
    committed = read_document(folder / "plan.yaml", Plan)
    compiled = compile_plan(read_document(rules, Rules), inventory_of_plan(committed)).plan
    assert yaml_text(compiled) == (folder / "plan.yaml").read_text()
    assert compiled.canonical_json() == (folder / "plan.json").read_bytes()


@pytest.mark.parametrize("rules", RULES, ids=lambda path: path.stem)
def test_its_rules_have_nothing_to_lint_and_its_draft_has(rules: Path) -> None:
    plan = f"{EXAMPLE}/plans/{rules.stem}"
    assert run("flashrl-registry", ["lint", "--strict", "--plan", plan, str(rules), plan]) == 0
    assert run("flashrl-registry", ["lint", "--plan", plan, str(EXAMPLE / "drafts" / "rules.yaml")]) == 1


def test_its_workflow_and_readme_run_commands_that_exist() -> None:
    workflow = (EXAMPLE / ".github" / "workflows" / "plans.yaml").read_text()
    steps = yaml.safe_load(workflow)["jobs"]["check"]["steps"]
    found = [line for step in steps for line in commands(step.get("run", ""))]
    found += commands((EXAMPLE / "README.md").read_text().partition("```console")[2].partition("```")[0])
    assert {line[1] for line in found} == {"validate", "lint", "migrate", "compile"}
    for line in found:
        assert line[1] in REGISTRY_COMMANDS
        help_text = help_of(line[1])
        for option in (word for word in line[2:] if word.startswith("-")):
            assert option in help_text, f"{option} of {line}"


def help_of(command: str) -> str:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli"), *sys.path])}
    ran = subprocess.run(
        [sys.executable, "-m", "flashrl_cli", command, "--help"],
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout


def test_the_hooks_run_commands_that_exist_and_the_example_uses_them() -> None:
    by_id = {hook["id"]: hook for hook in hooks()}
    for hook in by_id.values():
        program, command = hook["entry"].split()
        assert (program, hook["language"]) == ("flashrl-registry", "python")
        assert command in REGISTRY_COMMANDS
        re.compile(hook["files"])
    used = yaml.safe_load((EXAMPLE / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert {hook["id"] for hook in used} == set(by_id)


def test_the_validating_hook_fails_for_a_broken_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    shutil.copytree(EXAMPLE, tmp_path / "plans-of-ours")
    monkeypatch.chdir(tmp_path / "plans-of-ours")
    hook = next(hook for hook in hooks() if hook["id"] == "flashrl-validate")
    arguments = [*hook["entry"].split()[1:], *hook["args"]]
    assert run("flashrl-registry", arguments) == 0
    plan = Path("plans/int8/plan.json")
    plan.write_text(plan.read_text().replace("every linear", "no linear"))  # a description is not identity
    assert run("flashrl-registry", arguments) == 0
    plan.write_text(plan.read_text().replace("processed_logprobs", "raw_logprobs"))
    assert run("flashrl-registry", arguments) == 1
