"""compressed-tensors configs and llm-compressor recipes: what they say, and all that we cannot say."""

import json
from pathlib import Path
from typing import Any

import pytest

from flashrl_registry.compiler import compile_plan
from flashrl_registry.documents import Inventory, Rule, Rules
from flashrl_registry.documents.names import expand
from flashrl_registry.documents.strict_yaml import parse_text
from flashrl_registry.errors import SchemaError
from flashrl_registry.interop.compressed_tensors import rules_from_config
from flashrl_registry.interop.exporting import export_config
from flashrl_registry.interop.findings import Findings
from flashrl_registry.interop.llm_compressor import rules_from_recipe
from flashrl_registry.registry import read_bundle, write_bundle

DATA = Path(__file__).parents[2] / "data" / "interop"
INT8 = {"num_bits": 8, "type": "int", "strategy": "channel"}
INT8_INPUTS = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True}


def found_in(text: str, name: str = "f.yaml") -> Findings:
    return Findings(parse_text(text, name), name)


def of_file(name: str) -> Findings:
    return found_in((DATA / name).read_text(), name)


def config(**groups: Any) -> str:
    return json.dumps({"config_groups": groups, "ignore": ["lm_head"]})


def linears(rules: Rules, name: str) -> set[str]:
    (rule,) = [rule for rule in rules.rules if rule.name == name]
    return {module for target in rule.targets for module in expand(target)}


def schemes(rules: Rules) -> dict[str, str | None]:
    return {rule.name: rule.scheme for rule in rules.rules}


def refused(found: Findings, inventory: Inventory, make: Any = rules_from_config) -> list[str]:
    with pytest.raises(SchemaError) as caught:
        make(found, inventory)
    return [f"{finding.pointer}: {finding.message}" for finding in caught.value.findings]


def test_a_whole_model_config(inventory: Inventory) -> None:
    found = found_in(config(group_0={"targets": ["Linear"], "weights": INT8, "input_activations": INT8_INPUTS}))
    rules = rules_from_config(found, inventory)
    assert schemes(rules) == {"group_0": "int8", "rest": "bf16"}
    assert len(linears(rules, "group_0")) == 14
    assert compile_plan(rules, inventory).plan.count_by_treatment() == {"int8": 14, "keep": 6}


def test_names_go_before_classes_and_ignore_before_both(inventory: Inventory) -> None:
    fp8 = {"num_bits": 8, "type": "float", "strategy": "channel"}
    inputs = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True}
    groups = {
        "all": {"targets": ["Linear"], "weights": INT8, "input_activations": INT8_INPUTS},
        "mlp": {"targets": [r"re:.*\.mlp\."], "weights": fp8, "input_activations": inputs},
    }
    text = json.dumps({"quantization_config": {"config_groups": groups, "ignore": [r"re:model\.layers\.1\..*down"]}})
    found = found_in(text)
    rules = rules_from_config(found, inventory)
    assert schemes(rules) == {"all": "int8", "mlp": "fp8_channel", "rest": "bf16"}
    assert linears(rules, "mlp") == {
        f"model.layers.{layer}.mlp.{leaf}"
        for layer in (0, 1)
        for leaf in ("gate_proj", "up_proj", "down_proj")
        if (layer, leaf) != (1, "down_proj")
    }
    assert "model.layers.1.mlp.down_proj" in linears(rules, "rest")


def test_a_preset_s_name_is_a_group(inventory: Inventory) -> None:
    rules = rules_from_config(found_in(config(FP8_DYNAMIC=["Linear"])), inventory)
    assert schemes(rules) == {"fp8_dynamic": "fp8_channel", "rest": "bf16"}


def test_everything_that_no_scheme_says_is_named_with_its_key(inventory: Inventory) -> None:
    assert refused(of_file("config_int4_packed.json"), inventory) == [
        "format: the string 'pack-quantized': weights are packed in a way no scheme here has",
        "kv_cache_scheme: its scales are in the checkpoint; write engine.kv_cache_dtype: fp8 into the rules to use "
        "fp8 without them",
        "config_groups.group_0.output_activations: outputs are not quantized here",
        "config_groups.group_0.weights.actorder: the string 'group' permutes columns, which no scheme here does",
        "config_groups.group_1.input_activations: are not quantized; int8 quantizes them",
    ]


def test_arguments_are_compared_with_the_nearest_scheme(inventory: Inventory) -> None:
    weights = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": 128}
    assert refused(found_in(config(g={"targets": ["Linear"], "weights": weights, "input_activations": INT8_INPUTS})),
                   inventory) == [
        "config_groups.g.weights.num_bits: is the number 4; int8 has the number 8",
        "config_groups.g.weights.symmetric: is false; int8 has true",
        "config_groups.g.weights.group_size: is the number 128; int8 has null",
        "config_groups.g.weights.strategy: is the string 'group'; int8 has the string 'channel'",
    ]  # fmt: skip


def test_calibrated_input_scales_are_refused_unless_the_user_agrees(inventory: Inventory) -> None:
    faults = refused(of_file("config_static_fp8.json"), inventory)
    assert faults == [
        "quantization_config.config_groups.group_0.input_activations.dynamic: is false; fp8_tensor has true",
        "quantization_config.config_groups.group_0.input_activations.strategy: is the string 'tensor'; fp8_tensor has "
        "the string 'token'",
    ]
    found = of_file("config_static_fp8.json")
    assert schemes(rules_from_config(found, inventory, lossy=True))["group_0"] == "fp8_tensor"
    assert len(found.notes) == 2


def test_a_target_that_matches_nothing_names_the_nearest(inventory: Inventory) -> None:
    group = {"targets": ["model.layers.0.self_attn.q_porj", "re:["], "weights": INT8, "input_activations": INT8_INPUTS}
    faults = refused(found_in(config(g=group)), inventory)
    assert faults[0].startswith("config_groups.g.targets[0]: 'model.layers.0.self_attn.q_porj' matches 0 of")
    assert "did you mean 'model.layers.0.self_attn.q_proj'" in faults[0]
    assert faults[1].startswith("config_groups.g.targets[1]: 're:[' is not a regular expression")
    assert len(faults) == 2


def test_an_exception_that_matches_nothing_is_a_note(inventory: Inventory) -> None:
    text = config(W8A8=["Linear"]).replace('"lm_head"', '"lm_head", "re:.*visual.*"')
    found = found_in(text)
    rules_from_config(found, inventory)
    assert found.notes == ["ignore 're:.*visual.*' matches nothing in toy"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "holds no quantization_config"),
        ('{"config_groups": {}}', "must be a map of groups"),
        ('{"config_groups": {"g": {"targets": [], "weights": null}}}', "names no target"),
        ('{"config_groups": {"W4A16": ["Linear"]}}', "no scheme here is 'W4A16'"),
        ('{"quant_method": "gptq", "config_groups": {"W8A8": ["Linear"]}}', "not compressed-tensors"),
        (
            '{"sparsity_config": {"format": "sparse-24"}, "config_groups": {"W8A8": ["Linear"]}}',
            "nothing here is sparse",
        ),
        ('{"transform_config": {"x": 1}, "config_groups": {"W8A8": ["Linear"]}}', "transforms are not applied"),
        ('{"ignored": [], "config_groups": {"W8A8": ["Linear"]}}', "unknown key; did you mean 'ignore'?"),
    ],
)
def test_what_is_no_such_config_is_refused(inventory: Inventory, text: str, message: str) -> None:
    assert any(message in fault for fault in refused(found_in(text), inventory))


def test_a_smoothquant_recipe(inventory: Inventory) -> None:
    found = of_file("recipe_smoothquant_gptq.yaml")
    rules = rules_from_recipe(found, inventory)
    assert schemes(rules) == {"w8a8": "int8", "rest": "bf16"}
    assert len(linears(rules, "w8a8")) == 14
    assert any(note.startswith("SmoothQuantModifier: smoothing is measured") for note in found.notes)
    assert any(note.startswith("GPTQModifier calibrates roundings") for note in found.notes)


def test_a_mixed_recipe(inventory: Inventory) -> None:
    rules = rules_from_recipe(of_file("recipe_mixed.yaml"), inventory)
    assert schemes(rules) == {"attention": "fp8_channel", "mlp": "int8", "rest": "bf16"}
    assert linears(rules, "attention") == {f"model.layers.1.self_attn.{x}_proj" for x in "qkvo"}
    assert linears(rules, "mlp") == {f"model.layers.1.mlp.{x}_proj" for x in ("gate", "up", "down")}
    compile_plan(rules, inventory)


def test_everything_in_a_recipe_that_no_plan_says_is_named(inventory: Inventory) -> None:
    faults = refused(of_file("recipe_not_expressible.yaml"), inventory, rules_from_recipe)
    assert [fault.partition(": ")[0] for fault in faults] == [
        "sparsity_stage.sparsity_modifiers.SparseGPTModifier",
        "quant_stage.quant_modifier",
        "awq_stage.awq_modifiers.AWQModifier",
        "awq_stage.awq_modifiers.QuantizationModifier.bits",
        "awq_stage.awq_modifiers.QuantizationModifier.scheme",
    ]
    assert "does not end in _modifiers, so llm-compressor passes over it" in faults[1]


@pytest.mark.parametrize(
    ("scheme", "wanted"),
    [("W8A8", "int8"), ("FP8_DYNAMIC", "fp8_channel"), ("fp8", "fp8_tensor"), ("{FP8_BLOCK: [Linear]}", "fp8_block")],
)
def test_presets_of_a_recipe(inventory: Inventory, scheme: str, wanted: str) -> None:
    found = found_in(f"s_stage: {{m_modifiers: {{QuantizationModifier: {{scheme: {scheme}, ignore: lm_head}}}}}}")
    (low, _) = rules_from_recipe(found, inventory).rules
    assert low.scheme == wanted
    if wanted == "fp8_tensor":
        assert "takes a scale from every token instead" in found.notes[0]


@pytest.mark.parametrize("scheme", ["int8", "fp8_tensor", "fp8_channel"])
def test_an_exported_config_comes_back_as_the_same_decisions(inventory: Inventory, tmp_path: Path, scheme: str) -> None:
    low = Rule(name="low", scheme=scheme, targets=["model.layers.1.*_proj"])  # type: ignore[arg-type]
    rest = Rule(name="rest", scheme="bf16", targets=["*"], ignore=["model.layers.1.*_proj"])
    plan = compile_plan(Rules(rules=[low, rest]), inventory).plan
    write_bundle(tmp_path / "plan", plan)
    (file,) = export_config(
        read_bundle(tmp_path / "plan"), tmp_path / "out", "compressed-tensors", vllm=None, lossy=False
    ).files
    again = compile_plan(rules_from_config(found_in(file.read_text()), inventory), inventory).plan
    assert {(f.names, f.treatment) for f in again.tensors} == {(f.names, f.treatment) for f in plan.tensors}


def test_a_mixed_plan_comes_back_too(inventory: Inventory, tmp_path: Path) -> None:
    rules = rules_from_recipe(of_file("recipe_mixed.yaml"), inventory)
    plan = compile_plan(rules, inventory).plan
    write_bundle(tmp_path / "plan", plan)
    exported = export_config(
        read_bundle(tmp_path / "plan"), tmp_path / "out", "compressed-tensors", vllm=None, lossy=False
    )
    again = compile_plan(rules_from_config(found_in(exported.files[0].read_text()), inventory), inventory).plan
    assert {(f.names, f.treatment) for f in again.tensors} == {(f.names, f.treatment) for f in plan.tensors}
