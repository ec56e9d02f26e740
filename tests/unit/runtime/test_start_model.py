"""The checkpoint that an engine starts with: fits the plan by its headers, or every reason why not."""

from typing import Any

import pytest

from flashrl_registry.compiler import compile_plan, lower, preset_rules
from flashrl_registry.documents import EngineSettings, Environment, Inventory, ResolvedPlan, TensorSpec
from flashrl_registry.documents.quantization import SCHEME_ARGS
from flashrl_registry.documents.schemes import SchemeName
from flashrl_registry.errors import ResolutionError
from flashrl_registry.runtime.start_model import check_start_model, ready_made

GPU = Environment(vllm="0.32.0", device="cuda")


def resolved(inventory: Inventory, scheme: SchemeName = "int8") -> ResolvedPlan:
    rules = preset_rules(scheme, inventory).model_copy(update={"engine": EngineSettings(model="org/start")})
    return lower(compile_plan(rules, inventory).plan, GPU)


def config(scheme: SchemeName, **changes: Any) -> dict[str, Any]:
    args = SCHEME_ARGS[scheme]
    group = {
        "targets": ["Linear"],
        "weights": args.weights.model_dump(exclude_none=True),
        "input_activations": args.input_activations.model_dump(exclude_none=True),
    }
    form = "int-quantized" if scheme == "int8" else "float-quantized"
    whole = {"quant_method": "compressed-tensors", "format": form, "ignore": ["lm_head"]}
    return {"quantization_config": {**whole, "config_groups": {"group_0": {**group, **changes}}}}


def checkpoint(plan: ResolvedPlan) -> dict[str, TensorSpec]:
    """Headers of a checkpoint in the plan's format; scales in bf16, as llm-compressor writes them."""
    return {
        name: TensorSpec(name=name, shape=list(ready.shapes[0]),
                         dtype="bfloat16" if "bfloat16" in ready.dtypes else next(iter(ready.dtypes)))
        for name, ready in ready_made(plan).items()
    }  # fmt: skip


@pytest.mark.parametrize("scheme", ["int8", "fp8_channel", "fp8_tensor", "fp8_block"])
def test_a_checkpoint_in_the_plan_s_own_format_goes_in_as_it_is(scheme: SchemeName) -> None:
    sizes = {"model.embed_tokens": (512, 256), "model.layers.0.self_attn.o_proj": (256, 256), "model.norm": (256,)}
    specs = [TensorSpec(name=f"{name}.weight", shape=list(shape), dtype="bfloat16") for name, shape in sizes.items()]
    wide = Inventory(name="w", architecture="A", model_type="a", tied_embeddings=True, tensors=specs)
    plan = resolved(wide, scheme)
    assert check_start_model(plan, config(scheme), checkpoint(plan))


def test_a_bf16_model_goes_through_the_plan(inventory: Inventory) -> None:
    specs = {tensor.name: tensor for tensor in inventory.tensors}
    assert not check_start_model(resolved(inventory), {}, specs)


@pytest.mark.parametrize(
    ("given", "says"),
    [("fp8_channel", "it holds fp8_channel, and the plan makes int8"), ("int8", "quant_method")],
)  # fmt: skip
def test_another_format_is_refused(inventory: Inventory, given: SchemeName, says: str) -> None:
    plan = resolved(inventory)
    data = config(given)
    if given == "int8":
        data["quantization_config"]["quant_method"] = "gptq"
    with pytest.raises(ResolutionError, match=says):
        check_start_model(plan, data, checkpoint(plan))


def test_inputs_that_are_quantized_in_another_way_are_refused(inventory: Inventory) -> None:
    plan = resolved(inventory)
    with pytest.raises(ResolutionError, match="quantized in another way"):
        check_start_model(plan, config("int8", input_activations=None), checkpoint(plan))


def test_every_tensor_that_does_not_fit_is_named(inventory: Inventory) -> None:
    plan = resolved(inventory)
    specs = checkpoint(plan)
    first, second, third = sorted(name for name in specs if name.endswith(".weight_scale"))[:3]
    del specs[first]
    specs[second] = TensorSpec(name=second, shape=[1], dtype="bfloat16")
    weight = third.removesuffix("_scale")
    specs[weight] = TensorSpec(name=weight, shape=list(specs[weight].shape), dtype="bfloat16")
    specs["extra.input_scale"] = TensorSpec(name="extra.input_scale", shape=[1], dtype="bfloat16")
    with pytest.raises(ResolutionError) as caught:
        check_start_model(plan, config("int8"), specs)
    text = str(caught.value)
    for part in (first, f"{second}: shape [1]", f"{weight}: bfloat16, the plan's format has int8", "extra.input_scale"):
        assert part in text


def test_another_model_is_refused(inventory: Inventory) -> None:
    specs = {tensor.name: tensor for tensor in inventory.tensors[1:]}
    with pytest.raises(ResolutionError, match="not the plan's model"):
        check_start_model(resolved(inventory), {}, specs)


def test_what_vllm_quantizes_itself_takes_no_codes(inventory: Inventory) -> None:
    plan = resolved(inventory, "fp8")
    with pytest.raises(ResolutionError, match="takes no codes"):
        check_start_model(plan, config("fp8_channel"), checkpoint(resolved(inventory, "fp8_channel")))
