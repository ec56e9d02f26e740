"""Lint: each code once where it belongs, and silence where there is nothing to say."""

from collections.abc import Callable
from typing import Any

import pytest

from flashrl_registry.compiler import compile_plan, preset_rules
from flashrl_registry.compiler.lint import lint_plan, lint_rules
from flashrl_registry.documents import EngineSettings, Inventory, Plan, Profile, Rule, Rules
from flashrl_registry.errors import Diagnostic

REST = {"name": "rest", "scheme": "bf16", "targets": ["*"], "ignore": ["*_proj"]}
LINEARS = {"name": "linears", "scheme": "int8", "targets": ["*_proj"]}


def rules_of(*rules: dict[str, Any], **engine: Any) -> Rules:
    return Rules(rules=[Rule(**rule) for rule in rules], engine=EngineSettings(**engine))


def seen(found: list[Diagnostic]) -> list[tuple[str, str, str]]:
    return [(one.severity, one.code, one.where) for one in found]


def test_good_rules_and_plans_are_silent(inventory: Inventory, smoothed_plan: Plan, profile: Profile) -> None:
    assert lint_rules(rules_of(LINEARS, REST), inventory) == []
    assert lint_rules(rules_of(LINEARS, REST)) == []
    assert lint_plan(smoothed_plan, profile, inventory) == []
    for scheme in ("bf16", "int8"):
        assert lint_plan(compile_plan(preset_rules(scheme, inventory), inventory).plan) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([{**LINEARS, "targets": ["*_proj", "*_proj"]}, REST], ("warning", "duplicate-target", "rules[0].targets[1]")),
        ([{**LINEARS, "ignore": ["*_proj"]}, REST], ("warning", "ignored-target", "rules[0].ignore[0]")),
        ([{**LINEARS, "targets": [r"re:.*\.up_proj"]}, REST], ("warning", "needless-regex", "rules[0].targets[0]")),
        ([{**LINEARS, "targets": ["*.{0..1}.mlp.up_proj"]}], ("error", "glob-in-family", "rules[0].targets[0]")),
        ([LINEARS, {**LINEARS, "name": "again"}], ("error", "conflicting-rules", "rules[1].targets[0]")),
    ],
)
def test_what_the_text_alone_shows(rules: list[dict[str, Any]], expected: tuple[str, str, str]) -> None:
    assert seen(lint_rules(rules_of(*rules))) == [expected]


def test_the_hint_for_a_needless_expression_is_its_glob() -> None:
    (found,) = lint_rules(rules_of({**LINEARS, "targets": [r"re:model\.layers\..*\.mlp"]}))
    assert found.hint == "write 'model.layers.*.mlp'"
    assert lint_rules(rules_of({**LINEARS, "targets": [r"re:model.layers.[0-5].*"]})) == []


@pytest.mark.parametrize(
    ("rules", "expected", "message"),
    [
        (
            [{**LINEARS, "targets": ["*_proj", "*.{0..1}.mlp.up_proj"]}, REST],
            ("error", "glob-in-family", "rules[0].targets[1]"),
            "in a family, * and ? are letters of the name",
        ),
        (
            [{**LINEARS, "targets": ["*_proj", "*.gate_prj"]}, REST],
            ("error", "dead-target", "rules[0].targets[1]"),
            "matches 0 of 20 modules",
        ),
        (
            [LINEARS, {**REST, "ignore": ["*_proj", "*.9.mlp"]}],
            ("error", "dead-target", "rules[1].ignore[1]"),
            "matches 0 of",
        ),
        (
            [{**LINEARS, "ignore": ["*norm"]}, REST],
            ("warning", "shadowed-ignore", "rules[0].ignore[0]"),
            "takes nothing from the targets of rule 'linears'",
        ),
        (
            [{**LINEARS, "targets": ["*.up_proj", "*_proj"]}, REST],
            ("warning", "shadowed-target", "rules[0].targets[0]"),
            "'*.up_proj' is covered by '*_proj'",
        ),
        (
            [{**LINEARS, "targets": ["*_proj", "model*_proj"]}, REST],
            ("warning", "shadowed-target", "rules[0].targets[1]"),
            "'model*_proj' is covered by '*_proj'",
        ),
        (
            [{**LINEARS, "targets": ["*.mlp.*", "*.self_attn.*", "*.layers.1.*_proj"]}, REST],
            ("warning", "shadowed-target", "rules[0].targets[2]"),
            "covered by the other targets of rule 'linears' together",
        ),
        (
            [LINEARS, {**REST, "targets": ["*", "*.k_proj"]}],
            ("warning", "ignored-target", "rules[1].targets[1]"),
            "rule 'rest' ignores all that it matches",
        ),
        (
            [{**LINEARS, "targets": [r"re:.*(up|gate|down)_proj", "*.self_attn.*"]}, REST],
            None,
            "",
        ),
        (
            [{**LINEARS, "targets": [r"re:.*s\.[01]\.mlp\.up_proj", "*.self_attn.*", "*.gate_proj", "*n_proj"]}, REST],
            ("warning", "needless-regex", "rules[0].targets[0]"),
            "is one family",
        ),
        (
            [LINEARS, REST, {"name": "none", "scheme": "bf16", "targets": ["*norm"], "ignore": ["*norm*"]}],
            ("warning", "rule-decides-nothing", "rules[2]"),
            "rule 'none' decides no tensor",
        ),
        (
            [LINEARS, {**REST, "ignore": ["*_proj", "*norm"]}],
            ("error", "uncovered-tensor", "rules"),
            "no rule decides 5 tensors: model.layers.{0..1}.input_layernorm.weight and 2 more",
        ),
        (
            [LINEARS, {**REST, "ignore": ["*.mlp.*", "*.q_proj", "*.k_proj", "*.v_proj"]}],
            ("error", "conflicting-rules", "rules[1]"),
            "rules 'linears' and 'rest' both claim 2 tensors: model.layers.{0..1}.self_attn.o_proj.weight",
        ),
        (
            [{**LINEARS, "targets": ["*_proj", "*embed_tokens"]}, {**REST, "ignore": ["*_proj", "*embed_tokens"]}],
            ("error", "cannot-quantize", "rules[0]"),
            "an embedding",
        ),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)  # fmt: skip
def test_what_a_models_names_show(
    inventory: Inventory, rules: list[dict[str, Any]], expected: tuple[str, str, str] | None, message: str
) -> None:
    found = lint_rules(rules_of(*rules), inventory)
    assert seen(found) == ([expected] if expected else [])
    assert message in " ".join(one.message for one in found)


def test_a_family_is_suggested_for_an_expression_that_is_one(inventory: Inventory) -> None:
    rules = rules_of({**LINEARS, "targets": [r"re:.*\.[01]\.mlp\.up_proj"]})
    hints = [one.hint for one in lint_rules(rules, inventory) if one.code == "needless-regex"]
    assert hints == ["write 'model.layers.{0..1}.mlp.up_proj'"]


@pytest.mark.parametrize(
    ("engine", "expected", "message"),
    [
        ({"vllm": ">=0.25.1"}, ("warning", "untested-vllm", "engine.vllm"), "admits vLLM 0.34.0"),
        ({"vllm": "<0.30"}, ("warning", "untested-vllm", "engine.vllm"), "admits vLLM 0.0.0"),
        ({"vllm": ">=0.50"}, ("error", "empty-vllm-range", "engine.vllm"), "admits no vLLM"),
        ({"vllm": "==0.32.*"}, None, ""),
        ({"lm_head_dtype": "float32"}, ("warning", "engine-field-ignored", "engine.lm_head_dtype"), "vLLM 0.25.1"),
        ({"lm_head_dtype": "float32", "vllm": ">=0.27.1,<0.34"}, None, ""),
        ({"kv_cache_dtype": "fp8", "logprobs_mode": "raw_logprobs"}, None, ""),
    ],
)
def test_engine_settings(engine: dict[str, str], expected: tuple[str, str, str] | None, message: str) -> None:
    found = lint_rules(rules_of(LINEARS, REST, **engine))
    assert seen(found) == ([expected] if expected else [])
    assert message in " ".join(one.message for one in found)


def test_a_plan_says_which_smoothing_of_its_profile_it_leaves_out(inventory: Inventory, profile: Profile) -> None:
    rules = rules_of({**LINEARS, "targets": ["model.layers.0.*_proj"]}, {**REST, "ignore": ["model.layers.0.*_proj"]})
    plan = compile_plan(rules, inventory, profile).plan
    (found,) = lint_plan(plan, profile)
    assert (found.severity, found.code) == ("warning", "smoothing-dropped")
    assert "of the profile's 6 smoothing factors, these are not applied: 3 tensors" in found.message
    assert lint_plan(plan) == []


def test_a_plan_of_another_model(
    make_checkpoint: Callable[..., Any], toy: dict[str, tuple[int, ...]], plan: Plan
) -> None:
    from flashrl_registry.checkpoints import read_checkpoint

    other = read_checkpoint(make_checkpoint("other", {**toy, "model.extra.weight": (2, 2)})).inventory
    assert seen(lint_plan(plan, inventory=other)) == [("error", "plan-of-another-model", "base_model")]
