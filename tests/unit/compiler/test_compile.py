"""Compile: every tensor has one decision, or every reason why not is in one error."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flashrl_registry.checkpoints import read_checkpoint
from flashrl_registry.compiler import compile_plan, preset_rules
from flashrl_registry.documents import Inventory, Plan, Profile, Rule, Rules, TensorSpec, UpdateSettings
from flashrl_registry.documents.names import expand
from flashrl_registry.errors import CompileError, Diagnostic


def rules(*given: tuple[str, list[str]] | tuple[str, list[str], list[str]], **settings: Any) -> Rules:
    return Rules(
        rules=[
            Rule(name=f"rule{i}", scheme=scheme, targets=targets, ignore=list(*rest))  # type: ignore[arg-type]
            for i, (scheme, targets, *rest) in enumerate(given)
        ],
        **settings,
    )


def refused(rules: Rules, inventory: Inventory, profile: Profile | None = None) -> list[Diagnostic]:
    with pytest.raises(CompileError) as caught:
        compile_plan(rules, inventory, profile)
    return list(caught.value.diagnostics)


def treatments(plan: Plan) -> dict[str, str]:
    return {name: family.treatment for family in plan.tensors for name in expand(family.names)}


REST = ["model.embed_tokens", "model.norm", "*layernorm"]


def test_int8_over_a_model_quantizes_the_linears_and_keeps_the_rest(plan: Plan) -> None:
    decided = treatments(plan)
    assert {name for name, how in decided.items() if how == "int8"} == {n for n in decided if "_proj" in n}
    assert plan.count_by_treatment() == {"int8": 14, "keep": 6}
    assert len(plan.tensors) == 11, "two layers of nine families, the embedding and the last norm"


def test_bf16_keeps_everything(inventory: Inventory) -> None:
    plan = compile_plan(preset_rules("bf16", inventory), inventory).plan
    assert plan.count_by_treatment() == {"keep": 20}


def test_a_tensor_that_no_rule_decides_is_named(inventory: Inventory) -> None:
    found = refused(rules(("int8", ["*_proj"]), ("bf16", ["*layernorm", "model.norm"])), inventory)
    assert [(d.code, d.where) for d in found] == [("uncovered-tensor", "model.embed_tokens.weight")]


def test_two_rules_may_not_claim_one_tensor(inventory: Inventory) -> None:
    found = refused(rules(("int8", ["*_proj"]), ("bf16", REST), ("bf16", ["model.layers.0.mlp.up_proj"])), inventory)
    assert ("claimed-twice", "model.layers.0.mlp.up_proj.weight") in [(d.code, d.where) for d in found]
    assert "rule 'rule0' and rule 'rule2'" in str(found[0])


def test_ignore_makes_room_for_another_rule(inventory: Inventory) -> None:
    made = rules(("int8", ["*_proj"], ["model.layers.1.*"]), ("bf16", [*REST, "model.layers.1.*_proj"]))
    decided = treatments(compile_plan(made, inventory).plan)
    assert decided["model.layers.0.mlp.up_proj.weight"] == "int8"
    assert decided["model.layers.1.mlp.up_proj.weight"] == "keep"


@pytest.mark.parametrize("key", ["targets", "ignore"])
def test_a_target_that_matches_nothing_is_an_error_with_the_nearest_name(inventory: Inventory, key: str) -> None:
    dead = "model.layers.0.self_atn.q_proj"
    more: dict[str, list[str]] = {"targets": ["*"], "ignore": []}
    more[key] = [*more[key], dead]
    found = refused(Rules(rules=[Rule(name="all", scheme="bf16", **more)]), inventory)
    assert [d.code for d in found] == ["dead-target"]
    assert found[0].hint == "did you mean 'model.layers.0.self_attn.q_proj'?"


@pytest.mark.parametrize("target", ["model.layers.{0..2}.mlp.up_proj", "re:model\\.layers\\.[0-9]+", "model.layers.?"])
def test_families_regular_expressions_and_globs_match_whole_names(inventory: Inventory, target: str) -> None:
    codes = {d.code for d in refused(Rules(rules=[Rule(name="r", scheme="bf16", targets=[target])]), inventory)}
    assert ("dead-target" in codes) == ("{" not in target)
    assert "uncovered-tensor" in codes


def test_shards_that_the_engine_fuses_must_agree(inventory: Inventory) -> None:
    shards = rules(("int8", ["*_proj"], ["*.k_proj", "*.gate_proj"]), ("bf16", [*REST, "*.k_proj", "*.gate_proj"]))
    found = refused(shards, inventory)
    assert {d.code for d in found} == {"fused-shards-disagree"}
    assert [d.where for d in found if "layers.0" in d.where] == [
        "model.layers.0.mlp.gate_up_proj", "model.layers.0.self_attn.qkv_proj",
    ]  # fmt: skip
    assert "q_proj=int8" in str(found)
    assert "k_proj=bf16" in str(found)


def test_int8_is_not_for_norms_and_embeddings(inventory: Inventory) -> None:
    found = refused(rules(("int8", ["*"])), inventory)
    assert {d.code for d in found} == {"cannot-quantize"}
    assert {d.where for d in found if "layers" not in d.where} == {"model.embed_tokens.weight", "model.norm.weight"}
    assert "it is an embedding" in str(found)


def test_a_low_bit_weight_is_not_quantized_again(make_checkpoint: Callable[..., Path]) -> None:
    inventory = read_checkpoint(make_checkpoint("low", {"a.up_proj.weight": (4, 4)}, dtype="I8")).inventory
    found = refused(preset_rules("int8", inventory), inventory)
    assert [d.code for d in found] == ["quantized-checkpoint"], "one error, not one per tensor and scale"
    assert "a.up_proj.weight is int8" in found[0].message


def test_what_is_no_float_is_not_quantized(make_checkpoint: Callable[..., Path]) -> None:
    inventory = read_checkpoint(make_checkpoint("table")).inventory
    tensors = [tensor.model_copy(update={"dtype": "int64"}) for tensor in inventory.tensors]
    odd = inventory.model_copy(update={"tensors": tensors})
    assert {d.code for d in refused(preset_rules("int8", odd), odd)} == {"not-a-float"}


def test_an_incomplete_stack_of_experts_is_named(make_checkpoint: Callable[..., Path]) -> None:
    shapes = {f"m.experts.{e}.{leaf}.weight": (8, 8) for e in range(3) for leaf in ("up_proj", "down_proj")}
    del shapes["m.experts.1.up_proj.weight"]
    inventory = read_checkpoint(make_checkpoint("moe", shapes)).inventory
    found = refused(preset_rules("int8", inventory), inventory)
    assert [(d.code, d.where) for d in found] == [("incomplete-experts", "m.experts.1.up_proj.weight")]


def test_a_family_beyond_the_last_layer_is_named(inventory: Inventory) -> None:
    last = "model.layers.{1..3}.mlp.up_proj"
    found = refused(rules(("bf16", ["*"], [last]), ("int8", [last])), inventory)
    assert ("partly-dead-family", "rule 'rule1' targets") in [(d.code, d.where) for d in found]
    assert "model.layers.{2..3}.mlp.up_proj" in found[0].message


def test_an_expression_that_runs_for_ever_is_stopped(inventory: Inventory) -> None:
    began = time.perf_counter()
    # Of the expressions that hang Python's own engine, most are answered at once.
    assert refused(rules(("bf16", ["*", "re:(([a-z._0-9]+)+)+!"])), inventory)[0].code == "dead-target"
    found = refused(rules(("bf16", ["*", "re:(?:.|..|...)+(?<!t)"])), inventory)
    assert time.perf_counter() - began < 15
    assert [d.code for d in found] == ["bad-target"]
    assert "takes more than" in found[0].message


def test_one_fault_of_many_layers_is_one_line(inventory: Inventory) -> None:
    with pytest.raises(CompileError) as caught:
        compile_plan(rules(("int8", ["*_proj"]), ("bf16", REST), ("bf16", ["*mlp*"])), inventory)
    assert len(caught.value.diagnostics) == 6
    assert str(caught.value).splitlines() == [
        "error[claimed-twice] model.layers.{0..1}.mlp.down_proj.weight, model.layers.{0..1}.mlp.gate_proj.weight, "
        "model.layers.{0..1}.mlp.up_proj.weight: claimed by rule 'rule0' and rule 'rule2'; "
        "narrow one target or add it to 'ignore'"
    ]


@pytest.mark.parametrize(
    ("target", "hint"),
    [("*_porj", "did you mean"), ("Linear", "not classes"), ("model.layers.{0..1}.*", "letters of the name")],
)
def test_a_slip_in_a_target_is_answered(inventory: Inventory, target: str, hint: str) -> None:
    found = refused(rules(("bf16", ["*", target])), inventory)
    assert hint in (found[0].hint or "")


def test_a_profile_of_another_model_is_refused(make_checkpoint: Callable[..., Path], profile: Profile) -> None:
    other = read_checkpoint(make_checkpoint("other", {"a.up_proj.weight": (4, 4)})).inventory
    found = refused(preset_rules("bf16", other), other, profile)
    assert [d.code for d in found] == ["profile-of-another-model"]


def test_frozen_scales_need_a_profile(inventory: Inventory) -> None:
    made = preset_rules("int8", inventory).model_copy(update={"update": UpdateSettings(scales="frozen")})
    assert [d.code for d in refused(made, inventory)] == ["frozen-needs-profile"]


def test_frozen_scales_need_the_profile_to_have_them(inventory: Inventory, profile: Profile) -> None:
    """o_proj is int8 by the rules, but the profile's pair kept it: there is no scale to freeze."""
    kept = [
        family.model_copy(update={"role": "unchanged"}) if "o_proj" in family.names else family
        for family in profile.tensors
    ]
    made = preset_rules("int8", inventory).model_copy(update={"update": UpdateSettings(scales="frozen")})
    found = refused(made, inventory, profile.model_copy(update={"tensors": kept}))
    assert {d.code for d in found} == {"frozen-needs-scales"}
    assert len(found) == 2


def test_frozen_scales_do_not_outlive_their_factors(inventory: Inventory, profile: Profile) -> None:
    """up_proj's scales were measured with its rows scaled; with down_proj in bf16 the rows stay as they are."""
    made = rules(
        ("int8", ["*_proj"], ["*.down_proj"]), ("bf16", [*REST, "*.down_proj"]), update=UpdateSettings(scales="frozen")
    )
    found = refused(made, inventory, profile)
    assert [(d.code, d.where) for d in found] == [
        ("frozen-needs-smoothing", f"model.layers.{layer}.mlp.up_proj.weight") for layer in range(2)
    ]


def test_frozen_scales_carry_the_profile_even_without_smoothing(inventory: Inventory, profile: Profile) -> None:
    plain = profile.model_copy(update={"smoothing": []})
    made = preset_rules("int8", inventory).model_copy(update={"update": UpdateSettings(scales="frozen")})
    plan = compile_plan(made, inventory, plain).plan
    assert plan.profile is not None
    assert plan.profile.digest == plain.compute_digest()


def test_all_errors_come_at_once(inventory: Inventory) -> None:
    made = rules(("int8", ["*.q_proj", "model.norm", "nothing.here"]), update=UpdateSettings(scales="frozen"))
    codes = {d.code for d in refused(made, inventory)}
    assert codes == {
        "dead-target", "uncovered-tensor", "cannot-quantize", "frozen-needs-profile",
    }  # fmt: skip


def test_smoothing_is_written_once_per_family(smoothed_plan: Plan) -> None:
    assert [(entry.source, entry.targets) for entry in smoothed_plan.smoothing] == [
        (
            "model.layers.{0..1}.input_layernorm.weight",
            [f"model.layers.{{0..1}}.self_attn.{leaf}_proj.weight" for leaf in "qkv"],
        ),
        ("model.layers.{0..1}.mlp.up_proj.weight", ["model.layers.{0..1}.mlp.down_proj.weight"]),
        (
            "model.layers.{0..1}.post_attention_layernorm.weight",
            [f"model.layers.{{0..1}}.mlp.{leaf}_proj.weight" for leaf in ("gate", "up")],
        ),
    ]
    assert smoothed_plan.count_by_treatment() == {"keep": 2, "rescale": 4, "int8": 14}


def test_a_factor_is_applied_whole_or_not_at_all(inventory: Inventory, profile: Profile) -> None:
    """Layer 1 stays bf16: its norms must stay as they are, and the author is told."""
    made = rules(("int8", ["*_proj"], ["model.layers.1.*"]), ("bf16", [*REST, "model.layers.1.*_proj"]))
    compiled = compile_plan(made, inventory, profile)
    decided = treatments(compiled.plan)
    assert decided["model.layers.0.input_layernorm.weight"] == "rescale"
    assert decided["model.layers.1.input_layernorm.weight"] == "keep"
    assert [entry.source for entry in compiled.plan.smoothing if "layers.1" in entry.source] == []
    assert [(note.code, note.severity) for note in compiled.notes] == [("smoothing-dropped", "note")] * 3


def test_a_down_proj_in_bf16_undoes_the_factor_of_its_up_proj(inventory: Inventory, profile: Profile) -> None:
    made = rules(("int8", ["*_proj"], ["*.down_proj"]), ("bf16", [*REST, "*.down_proj"]))
    compiled = compile_plan(made, inventory, profile)
    assert {entry.source.rpartition(".0..1")[0] or entry.source for entry in compiled.plan.smoothing} == {
        "model.layers.{0..1}.input_layernorm.weight", "model.layers.{0..1}.post_attention_layernorm.weight",
    }  # fmt: skip


def test_a_profile_that_nothing_uses_is_not_named(inventory: Inventory, profile: Profile) -> None:
    assert compile_plan(preset_rules("bf16", inventory), inventory, profile).plan.profile is None


def test_a_bias_of_a_rescaled_linear_is_rescaled_too(
    make_checkpoint: Callable[..., Path], profile: Profile, toy: Mapping[str, tuple[int, ...]]
) -> None:
    shapes = {**toy, **{f"model.layers.{i}.mlp.up_proj.bias": (24,) for i in range(2)}}
    inventory = read_checkpoint(make_checkpoint("biased", shapes)).inventory
    reference = profile.reference.model_copy(update={"fingerprint": inventory.fingerprint(), "num_tensors": 22})
    biases = profile.tensors[0].model_copy(update={"names": "model.layers.{0..1}.mlp.up_proj.bias", "shape": [24]})
    biased = profile.model_copy(update={"reference": reference, "tensors": [*profile.tensors, biases]})
    decided = treatments(compile_plan(preset_rules("int8", inventory, biased), inventory, biased).plan)
    assert decided["model.layers.0.mlp.up_proj.bias"] == "rescale"
    plain = treatments(compile_plan(preset_rules("int8", inventory), inventory).plan)
    assert plain["model.layers.0.mlp.up_proj.bias"] == "keep"


@given(st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_order_of_a_header_does_not_change_a_byte(
    smoothed_plan: Plan, profile: Profile, inventory: Inventory, random: Any
) -> None:
    shuffled: list[TensorSpec] = list(inventory.tensors)
    random.shuffle(shuffled)
    again = inventory.model_copy(update={"tensors": shuffled})
    made = preset_rules("int8", again, profile)
    assert compile_plan(made, again, profile).plan.canonical_json() == smoothed_plan.canonical_json()


def test_a_large_mixture_of_experts_is_a_few_lines() -> None:
    names = [
        f"model.layers.{i}.mlp.experts.{j}.{leaf}.weight"
        for i in range(20) for j in range(64) for leaf in ("gate_proj", "up_proj", "down_proj")
    ]  # fmt: skip
    tensors = [TensorSpec(name=name, shape=[8, 8], dtype="bfloat16") for name in names]
    inventory = Inventory(name="moe", architecture="M", model_type="m", tied_embeddings=False, tensors=tensors)
    plan = compile_plan(preset_rules("int8", inventory), inventory).plan
    assert [family.names for family in plan.tensors] == [
        f"model.layers.{{0..19}}.mlp.experts.{{0..63}}.{leaf}.weight" for leaf in ("down_proj", "gate_proj", "up_proj")
    ]


def test_a_wrong_target_in_a_large_model_is_answered_at_once() -> None:
    names = [f"model.layers.{i}.mlp.experts.{j}.up_proj.weight" for i in range(60) for j in range(200)]
    tensors = [TensorSpec(name=name, shape=[8, 8], dtype="bfloat16") for name in names]
    inventory = Inventory(name="moe", architecture="M", model_type="m", tied_embeddings=False, tensors=tensors)
    start = time.process_time()
    found = refused(rules(("bf16", ["*", "model.layers.7.mlp.expert.199.up_prj"])), inventory)
    assert time.process_time() - start < 2.0
    assert found[0].hint == "did you mean 'model.layers.7.mlp.experts.199.up_proj'?"
