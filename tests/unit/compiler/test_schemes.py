"""Every scheme: what it decides, what it refuses, and what vLLM is asked for."""

import re
from typing import Any

import pytest

from flashrl_registry.compiler import compile_plan, lower, preset_rules, weight_bytes
from flashrl_registry.compiler.engine_config import online_experts
from flashrl_registry.documents import (
    EngineFp8,
    EngineSettings,
    Environment,
    Inventory,
    Plan,
    Profile,
    QuantizeFp8,
    Rescale,
    Rule,
    Rules,
    SchemeName,
    TensorSpec,
    canonical_scheme,
)
from flashrl_registry.documents.names import expand
from flashrl_registry.documents.quantization import SCHEME_ARGS, QuantArgs
from flashrl_registry.documents.schemes import SCHEMES, SYNONYMS
from flashrl_registry.errors import CompileError, ResolutionError

GPU = Environment(vllm="0.25.1", device="cuda")


def model(hidden: int = 256, layers: int = 2, **more: tuple[int, ...]) -> Inventory:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (512, hidden), "model.norm.weight": (hidden,)}
    for layer in range(layers):
        base = f"model.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            shapes[f"{base}.self_attn.{name}.weight"] = (hidden, hidden)
        for name in ("gate_proj", "up_proj"):
            shapes[f"{base}.mlp.{name}.weight"] = (2 * hidden, hidden)
        shapes[f"{base}.mlp.down_proj.weight"] = (hidden, 2 * hidden)
    shapes |= more
    tensors = [TensorSpec(name=name, shape=list(shape), dtype="bfloat16") for name, shape in shapes.items()]
    return Inventory(
        name="m", architecture="LlamaForCausalLM", model_type="llama", tied_embeddings=True, tensors=tensors
    )


def codes(inventory: Inventory, *rules: Rule, **settings: Any) -> list[tuple[str, str]]:
    with pytest.raises(CompileError) as caught:
        compile_plan(Rules(rules=list(rules), **settings), inventory)
    return [(d.code, d.where) for d in caught.value.diagnostics]


def rule(name: str, scheme: SchemeName, *targets: str, ignore: tuple[str, ...] = ()) -> Rule:
    return Rule(name=name, scheme=scheme, targets=list(targets), ignore=list(ignore))


REST = rule("rest", "bf16", "model.embed_tokens", "model.norm")


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if name != "int8_prune"])
def test_a_scheme_over_a_whole_model_treats_every_linear(scheme: SchemeName) -> None:
    inventory = model()
    plan = compile_plan(preset_rules(scheme, inventory), inventory).plan
    treatment = "keep" if scheme == "bf16" else scheme
    counts = plan.count_by_treatment()
    assert counts == ({"keep": 16} if scheme == "bf16" else {"keep": 2, treatment: 14})
    assert lower(plan, GPU).tensors


def test_flashrls_names_mean_the_scheme_they_behaved_as() -> None:
    assert {name: canonical_scheme(name) for name in SYNONYMS} == {
        "fp8_vllm": "fp8", "fp8_fast": "fp8", "fp8_vllm_fast": "fp8", "int8_fast": "int8", "int8_wo_prune": "int8",
    }  # fmt: skip
    assert canonical_scheme("int4") is None


def test_arguments_spelled_out_are_the_scheme_that_has_them() -> None:
    inventory = model()
    args = SCHEME_ARGS["fp8_channel"]
    spelled = Rule(name="linears", weights=args.weights, input_activations=args.input_activations, targets=["*_proj"])
    plan = compile_plan(Rules(rules=[spelled, REST]), inventory).plan
    named = compile_plan(Rules(rules=[rule("linears", "fp8_channel", "*_proj"), REST]), inventory).plan
    assert plan.tensors == named.tensors


def test_arguments_that_no_kernel_takes_and_groups_that_do_not_divide_are_named_together() -> None:
    weights = QuantArgs(num_bits=4, type="int", symmetric=True, strategy="group", dynamic=False, group_size=96)
    found = codes(model(layers=1), Rule(name="linears", weights=weights, targets=["*_proj"]), REST)
    assert ("unsupported-arguments", "rule 'linears'") in found
    assert ("group-size-does-not-divide", "model.layers.0.mlp.down_proj.weight") in found
    assert len(found) == 8


def test_blocks_must_fill_the_weight() -> None:
    inventory = model(hidden=192)
    found = codes(inventory, rule("linears", "fp8_block", "*_proj"), REST)
    assert {code for code, _ in found} == {"block-does-not-divide"}
    assert len(found) == 14


def test_online_and_coded_schemes_cannot_share_an_engine() -> None:
    found = codes(model(), rule("mlp", "fp8", "*.mlp.*"), rule("attention", "int8", "*.self_attn.*"), REST)
    assert found == [("online-with-codes", "rule 'mlp'")]


def test_experts_of_one_layer_share_one_scheme() -> None:
    inventory = model(
        layers=1,
        **{
            f"model.layers.0.block.experts.{e}.{name}.weight": (256, 256)
            for e in range(2)
            for name in ("gate_proj", "up_proj", "down_proj")
        },
    )
    found = codes(
        inventory,
        rule("low", "fp8_channel", "*.experts.0.*"),
        rule("high", "bf16", "*.experts.1.*", "*.mlp.*", "*.self_attn.*"),
        REST,
    )
    assert found == [("fused-shards-disagree", "model.layers.0.block.experts")]


def test_a_tied_embedding_cannot_be_quantized_and_the_error_says_it_is_the_head() -> None:
    with pytest.raises(CompileError) as caught:
        compile_plan(Rules(rules=[rule("all", "fp8_channel", "*", ignore=("model.norm",)),
                                  rule("norm", "bf16", "model.norm")]), model())  # fmt: skip
    [diagnostic] = caught.value.diagnostics
    assert diagnostic.code == "cannot-quantize"
    assert "output head" in diagnostic.message


def test_encoders_of_images_stay_as_they_are() -> None:
    inventory = model(**{"vision_tower.layers.0.fc1.weight": (256, 256)})
    plan = compile_plan(preset_rules("fp8_channel", inventory), inventory).plan
    kept = [name for family in plan.tensors if family.treatment == "keep" for name in expand(family.names)]
    assert "vision_tower.layers.0.fc1.weight" in kept


def test_predicted_bytes_count_the_scales() -> None:
    inventory = model(layers=1)
    weights = 4 * 256 * 256 + 3 * 512 * 256
    kept = 2 * (512 * 256 + 256)
    rows = 4 * 256 + 2 * 512 + 256
    blocks = 4 * 2 * 2 + 3 * 4 * 2
    for scheme, scales in {"int8": rows, "fp8_channel": rows, "fp8_block": blocks, "fp8_tensor": 7, "fp8": 7}.items():
        plan = compile_plan(preset_rules(scheme, inventory), inventory).plan  # type: ignore[arg-type]
        assert weight_bytes(plan) == kept + weights + 4 * scales, scheme


# -- int8_prune -------------------------------------------------------------------------------------------------------


def test_pruning_needs_the_norms_of_a_profile(inventory: Inventory) -> None:
    with pytest.raises(CompileError) as caught:
        compile_plan(preset_rules("int8_prune", inventory), inventory)
    assert [d.code for d in caught.value.diagnostics] == ["prune-needs-profile"]


def test_pruned_norms_know_their_linears(inventory: Inventory, profile: Profile) -> None:
    plan = compile_plan(preset_rules("int8_prune", inventory, profile), inventory, profile).plan
    ops = {tensor.name: tensor.op for tensor in lower(plan, GPU).tensors}
    norm = "model.layers.1.post_attention_layernorm.weight"
    op = ops[norm]
    assert isinstance(op, Rescale)
    assert op.dead_inputs_of == ["model.layers.1.mlp.gate_proj.weight", "model.layers.1.mlp.up_proj.weight"]
    plain = compile_plan(preset_rules("int8", inventory, profile), inventory, profile).plan
    assert plain.digest != plan.digest
    assert all(entry.prune_dead_inputs is None for entry in plain.smoothing)


# -- lowering ---------------------------------------------------------------------------------------------------------


def mixed() -> Plan:
    inventory = model(layers=4)
    rules = Rules(
        rules=[
            rule("ends", "bf16", "model.layers.0.*", "model.layers.3.*"),
            rule("attention", "int8", "*.self_attn.*", ignore=("model.layers.0.*", "model.layers.3.*")),
            rule("mlp", "fp8_channel", "*.mlp.*", ignore=("model.layers.0.*", "model.layers.3.*")),
            REST,
        ],
        engine=EngineSettings(kv_cache_dtype="fp8"),
    )
    return compile_plan(rules, inventory).plan


def test_a_mixed_plan_names_the_modules_of_each_scheme_and_no_others() -> None:
    engine = lower(mixed(), GPU).engine
    config = engine.quantization_config
    assert config is not None
    groups = list(config["config_groups"].values())
    assert [group["weights"]["type"] for group in groups] == ["float", "int"]
    assert [group["format"] for group in groups] == ["float-quantized", "int-quantized"]
    assert config["format"] == "mixed-precision"
    names = [f"model.layers.{i}.{part}" for i in range(12) for part in ("self_attn.q_proj", "mlp.up_proj")]
    matched = [
        {name for name in names for target in group["targets"] if re.match(target.removeprefix("re:"), name)}
        for group in groups
    ]
    assert matched == [{f"model.layers.{i}.mlp.up_proj" for i in (1, 2)},
                       {f"model.layers.{i}.self_attn.q_proj" for i in (1, 2)}]  # fmt: skip
    assert len([name for name in config["ignore"] if name.startswith("model.layers.")]) == 14
    assert engine.kv_cache_dtype == "fp8"


def test_native_fp8_is_asked_for_in_vllms_words() -> None:
    inventory = model()
    rules = Rules(rules=[
        rule("first", "bf16", "model.layers.0.*"), rule("linears", "fp8", "model.layers.1.*"), REST,
    ])  # fmt: skip
    resolved = lower(compile_plan(rules, inventory).plan, GPU)
    assert resolved.engine.quantization == "fp8_per_tensor"
    assert resolved.engine.quantization_config is None
    assert "model.layers.0.mlp.up_proj" in (resolved.engine.online_ignore or [])
    assert {type(tensor.op) for tensor in resolved.tensors if ".1." in tensor.name} == {EngineFp8}


@pytest.mark.parametrize("scheme", ["fp8", "fp8_tensor", "fp8_channel", "fp8_block"])
def test_float8_on_a_cpu_is_refused_with_what_to_do(scheme: SchemeName) -> None:
    plan = compile_plan(preset_rules(scheme, model()), model()).plan
    with pytest.raises(ResolutionError, match=f"{scheme} needs a GPU") as caught:
        lower(plan, Environment(vllm="0.32.0+cpu", device="cpu"))
    assert "int8" in (caught.value.hint or "")


def test_sharding_may_not_cut_a_block() -> None:
    plan = compile_plan(preset_rules("fp8_block", model()), model()).plan
    two = GPU.model_copy(update={"tensor_parallel_size": 2})
    assert isinstance(lower(plan, two).tensors[1].op, QuantizeFp8)
    with pytest.raises(ResolutionError, match="cuts blocks of 128") as caught:
        lower(plan, GPU.model_copy(update={"tensor_parallel_size": 4}))
    [decision] = caught.value.decisions
    assert "self_attn.q_proj" in decision.reason, "256 rows among 4 workers"
    assert "down_proj" not in decision.reason, "its 512 columns are shared out, not its 256 rows"


def test_a_float32_head_is_refused_where_vllm_ignores_it() -> None:
    inventory = model()
    rules = preset_rules("int8", inventory).model_copy(update={"engine": EngineSettings(lm_head_dtype="float32")})
    plan = compile_plan(rules, inventory).plan
    with pytest.raises(ResolutionError, match="ignores head_dtype"):
        lower(plan, GPU)
    newer = Environment(vllm="0.27.1", device="cuda")
    assert lower(plan, newer).engine.head_dtype == "float32"


def test_experts_do_not_take_one_scale_per_tensor() -> None:
    inventory = model(layers=1, **{f"model.layers.0.block.experts.{e}.up_proj.weight": (256, 256) for e in range(2)})
    found = codes(inventory, rule("all", "fp8_tensor", "*_proj"), REST)
    assert found == [("cannot-quantize", f"model.layers.0.block.experts.{e}.up_proj.weight") for e in range(2)]


def test_experts_that_vllm_quantizes_are_found_for_they_do_not_survive_updates_under_cuda_graphs() -> None:
    inventory = model(layers=1, **{f"model.layers.0.block.experts.{e}.up_proj.weight": (256, 256) for e in range(2)})
    for scheme, found in (("fp8", True), ("fp8_channel", False), ("int8", False), ("bf16", False)):
        plan = compile_plan(preset_rules(scheme, inventory), inventory).plan  # type: ignore[arg-type]
        assert bool(online_experts(plan)) is found, scheme
    assert not online_experts(compile_plan(preset_rules("fp8", model()), model()).plan)
