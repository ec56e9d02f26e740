"""Each command once as text and once as JSON, and what it says when it cannot."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flashrl_registry.registry import PlanBundle, read_bundle

RULES = """\
schema_version: flashrl.rules/v1
description: first layer in int8
rules:
- {name: low, scheme: int8, targets: ["model.layers.0.*_proj"]}
- {name: rest, scheme: bf16, targets: ["*"], ignore: ["model.layers.0.*_proj"]}
"""

Command = Callable[..., Any]


def test_compile_writes_a_bundle_and_shows_the_treatments(cli: Command, checkpoint: Path, tmp_path: Path) -> None:
    ran = cli("compile", "-m", checkpoint, "-o", tmp_path / "out")
    assert (ran.code, ran.err) == (0, "")
    bundle = read_bundle(tmp_path / "out")
    assert str(bundle.plan.digest) in ran.out
    assert [line.split() for line in ran.out.splitlines() if line.startswith(("int8", "keep"))] == [
        ["int8", "14", "7.7", "kB", "4.7", "kB"],
        ["keep", "6", "1.2", "kB", "1.2", "kB"],
    ]


def test_compile_with_a_profile(cli: Command, checkpoint: Path, bundle: PlanBundle, tmp_path: Path) -> None:
    ran = cli("compile", "-m", checkpoint, "-o", tmp_path / "out", "--profile", bundle.origin, "--json")
    assert ran.code == 0
    assert ran.json["digest"] == bundle.plan.digest
    assert ran.json["treatments"] == {"int8": 14, "keep": 2, "rescale": 4}
    assert len(ran.json["files"]) == 4
    assert read_bundle(tmp_path / "out").profile == bundle.profile


def test_compile_with_rules_says_what_of_the_profile_is_not_used(
    cli: Command, checkpoint: Path, bundle: PlanBundle, tmp_path: Path
) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    given = ("compile", "-m", checkpoint, "--rules", rules, "-p", bundle.origin, "-o", tmp_path / "out")
    ran = cli(*given)
    assert ran.code == 0
    assert ran.out.count("note[smoothing-dropped]") == 3
    assert read_bundle(tmp_path / "out").plan.description == "first layer in int8"
    assert [note["code"] for note in cli(*given, "--json").json["notes"]] == ["smoothing-dropped"] * 3


def test_compile_records_another_name(cli: Command, checkpoint: Path, tmp_path: Path) -> None:
    cli("compile", "-m", checkpoint, "--fn", "bf16", "--name", "org/model", "-o", tmp_path / "out")
    assert read_bundle(tmp_path / "out").plan.base_model.name == "org/model"


def test_compile_lists_every_reason_and_writes_nothing(cli: Command, checkpoint: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES.replace('ignore: ["model.layers.0.*_proj"]', 'ignore: ["model.layers.9"]'))
    ran = cli("compile", "-m", checkpoint, "--rules", rules, "-o", tmp_path / "out")
    assert ran.code == 1
    assert ran.out == ""
    assert f"{rules}:5:3: error[dead-target] rule 'rest': 'model.layers.9' matches 0 of 20 modules" in ran.err
    assert ran.err.count("error[claimed-twice]") == 1, "seven tensors, one fault"
    assert not (tmp_path / "out").exists()
    failed = cli("compile", "-m", checkpoint, "--rules", rules, "-o", tmp_path / "out", "--json").json
    assert (failed["ok"], failed["error"]["code"]) == (False, "compile")
    assert len(failed["error"]["context"]["diagnostics"]) == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scheme", "int8", "--rules", "x"], "give one of --scheme, --rules and --auto"),
        (["--scheme", "int9"], "'int9' is not one of bf16, fp8, "),
    ],
)
def test_compile_refuses_wrong_usage(cli: Command, tmp_path: Path, options: list[str], message: str) -> None:
    ran = cli("compile", "-m", tmp_path, "-o", tmp_path / "out", *options)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err


def test_a_rules_file_with_faults_is_shown_with_places(cli: Command, checkpoint: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES.replace("scheme: int8", "scheme: int4").replace("targets", "target", 1))
    ran = cli("compile", "-m", checkpoint, "--rules", rules, "-o", tmp_path / "out")
    assert ran.code == 1
    assert f"{rules}:4:23: rules[0].scheme: must be 'bf16', 'fp8', " in ran.err
    assert f"{rules}:4:29: rules[0].target: unknown key; did you mean 'targets'?" in ran.err


def test_a_plan_goes_to_the_registry_and_back(cli: Command, bundle: PlanBundle, tmp_path: Path) -> None:
    first = cli("push", bundle.origin, "team/toy@1.0.0")
    assert (first.code, first.err) == (0, "")
    assert first.out.startswith("published team/toy@1.0.0\n")
    again = cli("push", bundle.origin, "team/toy@1.0.0")
    assert (again.code, "was published already with the same content" in again.out) == (0, True)
    pushed = cli("push", bundle.origin, "team/toy@1.1.0", "--json").json
    assert (pushed["ok"], pushed["created"], pushed["digest"]) == (True, True, bundle.plan.digest)

    listed = cli("list")
    assert [line.split()[0] for line in listed.out.splitlines()] == ["PLAN", "team/toy@1.0.0", "team/toy@1.1.0"]
    assert [plan["ref"] for plan in cli("list", "--json").json["plans"]] == ["team/toy@1.0.0", "team/toy@1.1.0"]

    pulled = cli("pull", "team/toy", "-o", tmp_path / "pulled", "--json").json
    assert pulled["digest"] == bundle.plan.digest
    assert read_bundle(tmp_path / "pulled").plan == bundle.plan
    assert "team/toy@1.0.0" in cli("pull", "team/toy@1.0.0", "-o", tmp_path / "pulled").out


def test_a_pinned_reference_is_honoured(
    cli: Command, bundle: PlanBundle, other_bundle: PlanBundle, tmp_path: Path
) -> None:
    cli("push", bundle.origin, "team/toy@1.0.0")
    pin = str(bundle.plan.digest).replace(":", "=")
    assert cli("pull", f"team/toy#{pin}", "-o", tmp_path / "a").code == 0
    wrong = str(other_bundle.plan.digest)
    ran = cli("pull", f"team/toy#{wrong}", "-o", tmp_path / "b", "--json")
    assert (ran.code, ran.json["error"]["code"]) == (1, "integrity")
    assert ran.json["error"]["context"]["expected"] == wrong
    assert not (tmp_path / "b").exists()


def test_push_refuses_other_content_altered_bytes_and_no_version(
    cli: Command, bundle: PlanBundle, other_bundle: PlanBundle, registry: Path
) -> None:
    cli("push", bundle.origin, "team/toy@1.0.0")
    ran = cli("push", other_bundle.origin, "team/toy@1.0.0")
    assert ran.code == 1
    assert "team/toy@1.0.0 is published already and holds another plan" in ran.err
    assert "hint: a published version never changes" in ran.err
    file = Path(other_bundle.origin) / "plan.yaml"
    file.write_text(file.read_text().replace("processed_logprobs", "raw_logprobs"))
    altered = cli("push", other_bundle.origin, "team/toy@2.0.0")
    assert altered.code == 1
    assert "does not match its digest" in altered.err
    assert not (registry / "team" / "toy" / "2.0.0").exists()
    assert cli("push", bundle.origin, "team/toy").code == 2


def test_list_of_an_empty_registry(cli: Command, registry: Path) -> None:
    assert cli("list").out == f"nothing is published in {registry}\n"
    assert cli("list", "--json").json["plans"] == []


def test_list_shows_the_sound_ones_and_fails_for_the_damaged(cli: Command, bundle: PlanBundle, registry: Path) -> None:
    cli("push", bundle.origin, "team/toy@1.0.0")
    cli("push", bundle.origin, "team/toy@2.0.0")
    manifest = registry / "team" / "toy" / "1.0.0" / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text("{}")
    ran = cli("list")
    assert ran.code == 1
    assert "team/toy@2.0.0" in ran.out
    assert "team/toy@1.0.0: the manifest was changed or is missing" in ran.err
    data = cli("list", "--json").json
    assert (data["ok"], len(data["plans"]), len(data["damaged"])) == (False, 1, 1)


def test_show_is_the_plan_at_a_glance(cli: Command, bundle: PlanBundle) -> None:
    ran = cli("show", bundle.origin)
    assert ran.code == 0
    for part in (
        str(bundle.plan.digest), "toy (LlamaForCausalLM, 20 tensors)", "vLLM >=0.25.1,<0.34",
        "rule 'linears': int8", "model.layers.{0..1}.mlp.down_proj.weight", "rescale", "plan.yaml",
    ):  # fmt: skip
        assert part in ran.out
    data = cli("show", bundle.origin, "--json").json
    assert data["document"]["schema_version"] == "flashrl.plan/v1"
    assert bundle.plan.profile is not None
    assert data["profile"] == bundle.plan.profile.digest


def test_explain_a_tensor(cli: Command, bundle: PlanBundle) -> None:
    ran = cli("explain", bundle.origin, "model.layers.0.mlp.down_proj")
    assert ran.code == 0
    assert "rule 'linears' (int8) by target 'model.layers.{0..1}.mlp.down_proj'" in ran.out
    assert "columns divided by inv_smoothing of model.layers.0.mlp.up_proj.weight" in ran.out
    assert len(cli("explain", bundle.origin, "--json").json["tensors"]) == 11
    wrong = cli("explain", bundle.origin, "model.layers.0.mlp.down_prj")
    assert (wrong.code, "did you mean 'model.layers.0.mlp.down_proj'" in wrong.err) == (1, True)


def test_diff_two_plans(cli: Command, bundle: PlanBundle, other_bundle: PlanBundle) -> None:
    ran = cli("diff", bundle.origin, other_bundle.origin)
    assert ran.code == 0
    assert "model.layers.{0..1}.mlp.up_proj.weight (2):" in ran.out
    assert "weights: 5.9 kB -> 8.9 kB (+2.9 kB)" in ran.out
    assert "the plans are the same" in cli("diff", bundle.origin, bundle.origin).out
    assert cli("diff", bundle.origin, bundle.origin, "--json").json["same"] is True


def test_validate_says_all_of_all_files(cli: Command, bundle: PlanBundle, tmp_path: Path) -> None:
    ran = cli("validate", bundle.origin)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.endswith("3 valid, 0 invalid\n")
    bad = tmp_path / "bad.yaml"
    bad.write_text("schema_version: flashrl.rules/v1\nrules: []\nruls: 1\n")
    worse = tmp_path / "worse.yaml"
    worse.write_text("a: [\n")
    ran = cli("validate", bundle.origin, bad, worse)
    assert ran.code == 1
    assert f"{bad}:2:8: rules: " in ran.err
    assert f"{bad}:3:1: ruls: unknown key; did you mean 'rules'?" in ran.err
    assert f"{worse}:2:1: not YAML" in ran.err
    assert ran.out.endswith("3 valid, 2 invalid\n")
    data = cli("validate", bad, bundle.origin, "--json").json
    assert data["ok"] is False
    assert [file["ok"] for file in data["files"]] == [False, True, True, True]
    assert [finding["line"] for finding in data["files"][0]["error"]["context"]["findings"]] == [2, 3]


def test_schemas_can_be_printed_checked_and_written(cli: Command, tmp_path: Path) -> None:
    assert json.loads(cli("schema", "plan").out)["$id"].endswith("/plan/v1.json")
    assert cli("schema", "--check").code == 0
    assert cli("schema", "--check", "--folder", tmp_path).code == 1
    assert cli("schema", "--write", "--folder", tmp_path).code == 0
    assert cli("schema", "--check", "--folder", tmp_path).code == 0
    (tmp_path / "plan" / "v1.json").write_text("{}")
    ran = cli("schema", "--check", "--folder", tmp_path)
    assert (ran.code, "differs from the plan model" in ran.err) == (1, True)
    assert cli("schema", "plam").code == 2
    assert cli("schema", "--check", "--write").code == 2
    assert "rules" in cli("schema", "--json").json["schemas"]
