"""``flashrl-registry lint``: places, counts, exit codes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flashrl_registry.registry import PlanBundle

Command = Callable[..., Any]
RULES = """\
schema_version: flashrl.rules/v1
engine: {vllm: ">=0.25.1"}
rules:
- name: low
  scheme: int8
  targets: ["*_proj", "*.up_proj"]
- {name: rest, scheme: bf16, targets: ["*"], ignore: ["*_proj"]}
"""


def test_warnings_have_places_and_fail_only_if_asked(cli: Command, checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(RULES)
    ran = cli("lint", file, "-m", checkpoint)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines() == [
        f"{file}:2:16: warning[untested-vllm] engine.vllm: '>=0.25.1' admits vLLM 0.34.0, and this release was tested "
        "on >=0.25.1,<0.34; write '>=0.25.1,<0.34'",
        f"{file}:6:23: warning[shadowed-target] rules[0].targets[1]: '*.up_proj' is covered by '*_proj' of the same "
        "rule; remove it",
        "1 linted: 0 errors, 2 warnings",
    ]
    assert cli("lint", file, "--strict").code == 1
    data = cli("lint", file, "-m", checkpoint, "--json").json
    assert (data["ok"], data["error"], data["warning"]) == (True, 0, 2)
    assert [(one["code"], one["line"]) for one in data["files"][0]["diagnostics"]] == [
        ("untested-vllm", 2), ("shadowed-target", 6),
    ]  # fmt: skip


def test_errors_fail(cli: Command, checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(RULES.replace("*.up_proj", "*.up_prj"))
    ran = cli("lint", file, "-m", checkpoint)
    assert ran.code == 1
    assert f"{file}:6:23: error[dead-target] rules[0].targets[1]: '*.up_prj' matches 0 of 20 modules" in ran.out


def test_a_plan_stands_for_the_checkpoint(cli: Command, bundle: PlanBundle, checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(RULES)
    assert cli("lint", file, "--plan", bundle.origin).out == cli("lint", file, "-m", checkpoint).out
    ran = cli("lint", file, "--plan", bundle.origin, "-m", checkpoint)
    assert (ran.code, "give --model or --plan, not both" in ran.err) == (2, True)


def test_plans_by_folder_file_and_reference(cli: Command, bundle: PlanBundle, checkpoint: Path) -> None:
    cli("push", bundle.origin, "team/toy@1.0.0")
    ran = cli("lint", bundle.origin, f"{bundle.origin}/plan.json", "team/toy", "-m", checkpoint)
    assert (ran.code, ran.out) == (0, "3 linted: 0 errors, 0 warnings\n")


def test_other_kinds_and_unreadable_files_are_errors(cli: Command, bundle: PlanBundle, tmp_path: Path) -> None:
    ran = cli("lint", f"{bundle.origin}/profile.yaml")
    assert (ran.code, "is a profile, which has nothing to lint" in ran.err) == (1, True)
    bad = tmp_path / "bad.yaml"
    bad.write_text("schema_version: flashrl.rules/v1\nrules: []\n")
    assert f"{bad}:2:8: rules: " in cli("lint", bad).err


def test_all_files_are_linted_though_one_cannot_be(cli: Command, tmp_path: Path) -> None:
    good, bad, worse = tmp_path / "good.yaml", tmp_path / "bad.yaml", tmp_path / "worse.yaml"
    good.write_text(RULES)
    bad.write_text("schema_version: flashrl.rules/v1\nrules: []\n")
    worse.write_text("schema_version: flashrl.rules/v1\nrules: [\n")
    ran = cli("lint", bad, good, worse, tmp_path / "none.yaml")
    assert ran.code == 1
    assert f"{good}:2:16: warning[untested-vllm]" in ran.out
    assert ran.out.endswith("1 linted: 0 errors, 1 warnings; 3 could not be linted\n")
    for start in (f"{bad}:2:8: rules: ", f"{worse}:3:1: not YAML", f"no file at {tmp_path}/none.yaml"):
        assert start in ran.err
    data = cli("lint", bad, good, worse, "--json").json
    assert (data["ok"], len(data["files"]), [error["code"] for error in data["errors"]]) == (
        False,
        1,
        ["schema", "parse"],
    )
