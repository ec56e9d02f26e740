"""Explain says which rule decided and why; diff compares by meaning."""

import pytest

from flashrl_registry.compiler import (
    checkpoint_bytes,
    compile_plan,
    diff_plans,
    explain,
    preset_rules,
    tensor_bytes,
    weight_bytes,
)
from flashrl_registry.documents import Inventory, Plan, Rule, Rules
from flashrl_registry.errors import CompileError


def test_a_tensor_is_explained_by_its_rule_target_smoothing_and_bytes(smoothed_plan: Plan) -> None:
    (entry,) = explain(smoothed_plan, "model.layers.1.mlp.up_proj")
    assert entry.names == "model.layers.1.mlp.up_proj.weight"
    assert (entry.rule, entry.scheme, entry.treatment) == ("linears", "int8", "int8")
    assert entry.target == "model.layers.{0..1}.mlp.up_proj"
    assert entry.rows == "model.layers.1.mlp.up_proj.weight"
    assert entry.columns == "model.layers.1.post_attention_layernorm.weight"
    assert "row absmax at every update" in entry.reason
    assert (entry.bytes_before, entry.bytes_after) == (24 * 16 * 2, 24 * 16 + 24 * 4)


def test_a_rescaled_norm_says_whose_factor_it_takes(smoothed_plan: Plan) -> None:
    (entry,) = explain(smoothed_plan, "model.layers.0.input_layernorm.weight")
    assert entry.treatment == "rescale"
    assert "the linears behind it divide out" in entry.reason
    assert entry.bytes_before == entry.bytes_after == 32


def test_without_a_name_every_family_is_explained(smoothed_plan: Plan) -> None:
    entries = explain(smoothed_plan)
    assert sum(entry.num_tensors for entry in entries) == smoothed_plan.base_model.num_tensors
    assert all(entry.target for entry in entries)


@pytest.mark.parametrize(
    ("target", "count"),
    [("*.q_proj", 2), ("re:.*norm.*", 5), ("model.layers.{0..1}.mlp.up_proj", 2), ("model.norm", 1)],
)
def test_globs_families_and_expressions_name_several(smoothed_plan: Plan, target: str, count: int) -> None:
    entries = explain(smoothed_plan, target)
    assert sum(entry.num_tensors for entry in entries) == count
    assert len(entries) <= 3, "one entry per family, not one per layer"


def test_a_family_is_explained_with_the_factors_of_all_its_members(smoothed_plan: Plan) -> None:
    [entry] = explain(smoothed_plan, "*.down_proj")
    assert entry.columns == "model.layers.{0..1}.mlp.up_proj.weight"
    assert "model.layers.{0..1}.mlp.up_proj.weight" in entry.reason


def test_a_renamed_rule_changes_no_tensor(plan: Plan) -> None:
    rules = [rule.model_copy(update={"name": "new-" + rule.name}) for rule in plan.rules]
    tensors = [family.model_copy(update={"rule": "new-" + family.rule}) for family in plan.tensors]
    renamed = plan.model_copy(update={"rules": rules, "tensors": tensors})
    found = diff_plans(plan, renamed)
    assert not found.tensors
    assert not found.same
    assert found.settings


def test_an_unknown_tensor_is_answered_with_the_nearest(smoothed_plan: Plan) -> None:
    with pytest.raises(CompileError, match=r"did you mean 'model\.layers\.0\.mlp\.up_proj"):
        explain(smoothed_plan, "model.layers.0.mlp.up_prj")
    with pytest.raises(CompileError, match="not a regular expression"):
        explain(smoothed_plan, "re:(")


def test_a_bias_in_an_int8_rule_is_explained(inventory: Inventory) -> None:
    tensor = inventory.tensors[0].model_copy(update={"name": "model.layers.0.self_attn.q_proj.bias", "shape": [16]})
    biased = inventory.model_copy(update={"tensors": [*inventory.tensors, tensor]})
    plan = compile_plan(preset_rules("int8", biased), biased).plan
    (entry,) = explain(plan, tensor.name)
    assert (entry.scheme, entry.treatment) == ("int8", "keep")
    assert "a bias stays as it is" in entry.reason


def test_bytes_follow_from_the_shapes(plan: Plan) -> None:
    linears = 2 * (16 * 16 * 2 + 8 * 16 * 2 + 24 * 16 * 2 + 16 * 24)
    rows = 2 * (16 + 8 + 8 + 16 + 24 + 24 + 16)
    rest = 2 * (32 * 16 + 16 + 2 * 2 * 16)
    assert weight_bytes(plan) == linears + 4 * rows + rest
    assert checkpoint_bytes(plan) == 2 * linears + rest
    assert tensor_bytes([3, 5], "float32") == 60


def test_a_plan_equals_itself(smoothed_plan: Plan) -> None:
    found = diff_plans(smoothed_plan, smoothed_plan)
    assert (found.same, found.settings, found.tensors) == (True, (), ())


def test_a_description_is_no_difference(plan: Plan) -> None:
    assert diff_plans(plan, plan.model_copy(update={"description": "other"})).same


def test_changed_decisions_are_grouped_by_family(inventory: Inventory, plan: Plan) -> None:
    low, rest = plan.rules
    kept = [target for target in low.targets if "down_proj" not in target]
    moved = [target for target in low.targets if "down_proj" in target]
    rules = Rules(
        rules=[low.model_copy(update={"targets": kept}), rest.model_copy(update={"targets": [*rest.targets, *moved]})]
    )
    found = diff_plans(plan, compile_plan(rules, inventory).plan)
    assert [(change.names, change.num_tensors) for change in found.tensors] == [
        ("model.layers.{0..1}.mlp.down_proj.weight", 2)
    ]
    assert (found.tensors[0].before, found.tensors[0].after) == ("int8 (rule linears)", "keep (rule rest)")
    assert [(change.where, change.before, change.after) for change in found.settings] == [
        ("rules.linears.targets", moved[0], "absent"),
        ("rules.rest.targets", "absent", moved[0]),
    ]
    assert found.bytes_after - found.bytes_before == 2 * (16 * 24 - 16 * 4)
    assert not found.same


def test_smoothing_that_comes_or_goes_is_a_difference(plan: Plan, smoothed_plan: Plan) -> None:
    found = diff_plans(plan, smoothed_plan)
    changed = {change.names: change.after for change in found.tensors}
    assert changed["model.layers.{0..1}.input_layernorm.weight"].startswith("rescale")
    assert "columns / model.layers.*.mlp.up_proj.weight" in changed["model.layers.{0..1}.mlp.down_proj.weight"]
    assert "model.layers.{0..1}.self_attn.o_proj.weight" not in changed
    assert {change.where for change in found.settings} == {
        "profile.digest",
        "profile.sidecar.digest",
        "profile.sidecar.num_bytes",
    }


def test_rules_that_are_gone_or_new_are_one_line_each(inventory: Inventory, plan: Plan) -> None:
    other = compile_plan(Rules(rules=[Rule(name="all", scheme="bf16", targets=["*"])]), inventory).plan
    found = {change.where: (change.before, change.after) for change in diff_plans(plan, other).settings}
    assert found["rules.all"] == ("absent", "bf16 on *")
    assert found["rules.linears"][1] == "absent"


def test_setting_changes_are_named_by_their_key(plan: Plan) -> None:
    engine = plan.engine.model_copy(update={"logprobs_mode": "raw_logprobs"})
    (change,) = diff_plans(plan, plan.model_copy(update={"engine": engine})).settings
    assert (change.where, change.before, change.after) == (
        "engine.logprobs_mode", "processed_logprobs", "raw_logprobs",
    )  # fmt: skip
