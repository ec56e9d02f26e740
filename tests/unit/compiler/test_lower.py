"""Lowering: per-tensor operations and the engine's arguments, the same in every process."""

import pytest

from flashrl_registry.compiler import compile_plan, lower, preset_rules
from flashrl_registry.documents import Environment, Inventory, Keep, Plan, QuantizeInt8, Rescale, Rule, Rules
from flashrl_registry.errors import ResolutionError

CPU = Environment(vllm="0.32.0+cpu", device="cpu")


def test_every_tensor_gets_its_operation(smoothed_plan: Plan) -> None:
    ops = {tensor.name: tensor.op for tensor in lower(smoothed_plan, CPU).tensors}
    base = "model.layers.1"
    norm, up = f"{base}.post_attention_layernorm.weight", f"{base}.mlp.up_proj.weight"
    assert ops["model.norm.weight"] == Keep()
    assert ops[norm] == Rescale(rows=norm)
    assert ops[up] == QuantizeInt8(rows=up, columns=norm)
    assert ops[f"{base}.mlp.down_proj.weight"] == QuantizeInt8(columns=up)
    assert ops[f"{base}.self_attn.o_proj.weight"] == QuantizeInt8()
    assert len(ops) == smoothed_plan.base_model.num_tensors


def test_the_digest_is_the_same_in_every_process(smoothed_plan: Plan) -> None:
    assert lower(smoothed_plan, CPU, "here").digest == lower(smoothed_plan, CPU, "there").digest
    other = Environment(vllm="0.32.0+cu130", device="cuda")
    assert lower(smoothed_plan, other).digest != lower(smoothed_plan, CPU).digest


def test_the_engine_is_told_what_stays_unquantized(inventory: Inventory) -> None:
    low = Rule(name="low", scheme="int8", targets=["model.layers.0.*_proj"])
    rest = Rule(name="rest", scheme="bf16", targets=["*"], ignore=["model.layers.0.*_proj"])
    rules = Rules(rules=[low, rest])
    config = lower(compile_plan(rules, inventory).plan, CPU).engine.quantization_config
    assert config is not None
    assert config["quant_method"] == "compressed-tensors"
    group = config["config_groups"]["group_0"]
    assert group["weights"]["num_bits"] == 8
    assert group["weights"]["strategy"] == "channel"
    assert group["input_activations"]["strategy"] == "token"
    assert group["input_activations"]["dynamic"] is True
    layer = [name for name in config["ignore"] if name.startswith("model.layers.1.")]
    assert len(layer) == 7
    assert not [name for name in config["ignore"] if name.startswith("model.layers.0.")]
    assert "lm_head" in config["ignore"]


def test_bf16_asks_for_no_quantization(inventory: Inventory) -> None:
    plan = compile_plan(preset_rules("bf16", inventory), inventory).plan
    assert lower(plan, CPU).engine.quantization_config is None
    assert lower(plan, CPU).engine.logprobs_mode == "processed_logprobs"


@pytest.mark.parametrize("version", ["0.24.0", "0.34.0", "1.0"])
def test_another_vllm_is_refused_with_the_range(plan: Plan, version: str) -> None:
    with pytest.raises(ResolutionError, match=r"is not in the plan's range >=0\.25\.1,<0\.34") as caught:
        lower(plan, Environment(vllm=version, device="cpu"))
    assert not caught.value.decisions[0].accepted


@pytest.mark.parametrize("version", ["0.25.1", "0.32.0+cpu", "0.33.1.dev3+g123"])
def test_builds_and_development_versions_of_an_admitted_release_run(plan: Plan, version: str) -> None:
    assert lower(plan, Environment(vllm=version, device="cuda")).plan_digest == plan.digest
