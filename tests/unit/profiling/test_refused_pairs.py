"""Pairs that do not correspond, and checkpoints that cannot be profiled: nothing is skipped in silence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from flashrl_registry.errors import CheckpointError, CheckpointMismatchError, ProfilingError
from flashrl_registry.profiling import profile_pair, verify_profile

L0 = "model.layers.0."
UP, DOWN, GATE = (f"{L0}mlp.{name}_proj.weight" for name in ("up", "down", "gate"))
Q, K, OUT = (f"{L0}self_attn.{name}_proj.weight" for name in "qko")
NORM = f"{L0}input_layernorm.weight"


def change(name: str, index: int = 0, value: float = 3.0) -> Callable[[Any], None]:
    def apply(pair: Any) -> None:
        pair.quantized[name] = pair.quantized[name].clone()
        pair.quantized[name].view(-1)[index] = value

    return apply


def drop(name: str) -> Callable[[Any], None]:
    return lambda pair: pair.quantized.pop(name)


def replace(name: str, make: Callable[[Any], torch.Tensor]) -> Callable[[Any], None]:
    return lambda pair: pair.quantized.update({name: make(pair)})


def set_reference(name: str, value: float) -> Callable[[Any], None]:
    def apply(pair: Any) -> None:
        pair.reference[name].view(-1)[2] = value

    return apply


def add_wrong_bias(pair: Any) -> None:
    """A bias of a linear whose rows were smoothed must be rescaled with them, and not otherwise."""
    pair.reference[f"{L0}mlp.up_proj.bias"] = torch.ones(48)
    pair.quantized[f"{L0}mlp.up_proj.bias"] = torch.ones(48) * pair.inv_smoothing[UP] * 1.5


def keep_k_proj_in_bf16(pair: Any) -> None:
    pair.quantized[K] = pair.reference[K]
    del pair.quantized[f"{K}_scale"]


def keep_smoothed_gate_in_bf16(pair: Any) -> None:
    factor = pair.inv_smoothing[f"{L0}post_attention_layernorm.weight"]
    pair.quantized[GATE] = (pair.reference[GATE].float() / factor).to(torch.bfloat16)
    del pair.quantized[f"{GATE}_scale"]


def quantize_an_expert_of_unknown_source(pair: Any) -> None:
    """Columns that carry a factor which nothing else in the layer carries."""
    weight = f"{L0}block_sparse_moe.experts.0.w1.weight"
    factor = torch.exp2(torch.arange(32) % 5 - 2.0)
    scaled = pair.reference[Q].float() * factor
    scale = scaled.abs().amax(dim=1, keepdim=True) / 127
    pair.reference[weight] = pair.reference[Q]
    pair.quantized[weight] = (scaled / scale).round().to(torch.int8)
    pair.quantized[f"{weight}_scale"] = scale


def scale_rows_of_v(pair: Any) -> None:
    """Rows that carry a factor which no linear divides out: the model computes something else."""
    name = f"{L0}self_attn.v_proj.weight"
    pair.quantized[f"{name}_scale"] = pair.quantized[f"{name}_scale"] * torch.exp2(torch.arange(16) % 3)[:, None]


def quantize_the_embedding(pair: Any) -> None:
    name = "model.embed_tokens.weight"
    pair.quantized[name] = torch.zeros(20, 32, dtype=torch.int8)
    pair.quantized[f"{name}_scale"] = torch.ones(20, 1)


def swap_layers(pair: Any) -> None:
    """Codes of another layer: names and shapes fit, values do not."""
    other = Q.replace("layers.0", "layers.1")
    for suffix in ("", "_scale"):
        pair.quantized[Q + suffix] = pair.quantized[other + suffix]


def smooth_up_columns_wrongly(pair: Any) -> None:
    """The up_proj was smoothed with another norm than the one that the name table says."""
    norm = f"{L0}post_attention_layernorm.weight"
    pair.quantized[norm] = (pair.quantized[norm].float().flip(0)).to(torch.bfloat16)
    pair.reference[norm] = pair.reference[norm].abs() + 1
    pair.quantized[norm] = pair.quantized[norm].abs() + 1


@pytest.mark.parametrize(
    ("spoil", "names", "reason"),
    [
        (drop(f"{Q}_scale"), [f"{Q}_scale"], "missing"),
        (drop("lm_head.weight"), ["lm_head.weight"], "missing from the quantized"),
        (drop(Q), [Q, f"{Q}_scale"], "missing from the quantized"),
        (replace("extra.weight", lambda _: torch.ones(2)), ["extra.weight"], "not in the reference"),
        (replace(f"{Q}_zero_point", lambda _: torch.zeros(32, 1)), [f"{Q}_zero_point"], "symmetric"),
        (replace(f"{L0}self_attn.q_proj.input_scale", lambda _: torch.ones(1)), ["input_scale"], "static activation"),
        (replace(f"{Q}_scale", lambda _: torch.ones(32, 2)), [f"{Q}_scale"], "one scale per output channel"),
        (replace(f"{Q}_scale", lambda _: torch.ones(1)), [f"{Q}_scale"], "one scale per output channel"),
        (replace(f"{Q}_scale", lambda _: torch.ones(32, 1).int()), [f"{Q}_scale"], "floating-point"),
        (replace(Q, lambda p: p.quantized[Q][:, :16].contiguous()), [Q], "shape"),
        (replace(Q, lambda p: p.quantized[Q].to(torch.int32)), [Q], "int32"),
        (replace(Q, lambda p: p.quantized[Q].float().to(torch.float8_e4m3fn)), [Q], "float8"),
        (replace("model.norm.weight", lambda _: torch.ones(31)), ["model.norm.weight"], "shape"),
        (replace("model.norm.weight", lambda _: torch.ones(32).to(torch.int8)), ["model.norm.weight"], "int8"),
        (
            quantize_an_expert_of_unknown_source,
            [f"{L0}block_sparse_moe.experts.0.w1"],
            "no tensor of its layer carries",
        ),
        (scale_rows_of_v, [f"{L0}self_attn.v_proj.weight"], "has rows that carry a factor"),
        (quantize_the_embedding, ["model.embed_tokens.weight"], "all zero"),
        (change("model.embed_tokens.weight", 600), ["model.embed_tokens.weight"], "differs"),
        (change("lm_head.weight", 639), ["lm_head.weight"], "differs"),
        (change("model.norm.weight"), ["model.norm.weight"], "differs"),
        (replace("model.norm.weight", lambda p: p.reference["model.norm.weight"].float() + 1), ["norm"], "differs"),
        (replace("lm_head.weight", lambda p: p.reference["lm_head.weight"].float() + 1), ["lm_head"], "differs"),
        (add_wrong_bias, [f"{L0}mlp.up_proj.bias"], "differs"),
        (keep_smoothed_gate_in_bf16, [GATE], "differs"),
        (keep_k_proj_in_bf16, [NORM], "feeds unquantized"),
        (change(NORM, value=0.0), [NORM], "no positive, finite factor in 1 of 32"),
        (change(NORM, value=float("nan")), [NORM], "no positive, finite factor"),
        (change(NORM, value=float("inf")), [NORM], "no positive, finite factor"),
        (set_reference(NORM, 0.0), [NORM], "no positive, finite factor"),
        (change(f"{Q}_scale", value=0.0), [f"{Q}_scale"], "not positive and finite in 1 rows"),
        (change(f"{Q}_scale", value=float("nan")), [f"{Q}_scale"], "not positive and finite"),
        (replace(UP, lambda p: -p.quantized[UP].clamp(min=-127)), [UP], "it is another weight"),
        (replace(UP, lambda p: torch.zeros_like(p.quantized[UP])), [UP], "all zero"),
        (set_reference(UP, float("nan")), [UP], "not finite"),
        (set_reference(OUT, float("nan")), [OUT], "not finite"),
        (set_reference(OUT, float("inf")), [OUT], "not finite"),
        (swap_layers, [Q], "input_layernorm"),
        (smooth_up_columns_wrongly, [GATE], "post_attention_layernorm"),
        (replace(OUT, lambda p: p.quantized[OUT].flip(1)), [OUT], "(nothing)"),
        (replace(DOWN, lambda p: p.quantized[DOWN].flip(1)), [DOWN], "(up_proj)"),
    ],
)
def test_a_pair_that_does_not_correspond_is_refused_by_name(
    pair: Any, tmp_path: Path, spoil: Callable[[Any], None], names: list[str], reason: str
) -> None:
    spoil(pair)
    with pytest.raises(CheckpointMismatchError) as caught:
        profile_pair(*pair.write(), tmp_path / "out")
    for name in names:
        assert name in str(caught.value)
        assert any(name in fault["name"] for fault in caught.value.context["faults"])
    assert reason in str(caught.value)
    assert caught.value.hint
    assert not (tmp_path / "out").exists()


WIDE = 8192
"""Rows of a linear of which most are in no sample, and whose average hides one."""


def widen(pair: Any) -> None:
    """Give both layers an mlp of many channels, with factors as before."""
    generator = torch.Generator().manual_seed(11)
    for layer in range(2):
        prefix = f"model.layers.{layer}."
        norm = pair.inv_smoothing[f"{prefix}post_attention_layernorm.weight"]
        rows = torch.exp2(torch.randint(-1, 2, (WIDE,), generator=generator).float())
        pair.inv_smoothing[f"{prefix}mlp.up_proj.weight"] = rows
        for leaf, shape in (("gate", (WIDE, 32)), ("up", (WIDE, 32)), ("down", (32, WIDE))):
            name = f"{prefix}mlp.{leaf}_proj.weight"
            pair.reference[name] = torch.randn(*shape, generator=generator).to(torch.bfloat16)
            folded = pair.reference[name].float() / (rows if leaf == "down" else norm)
            folded = folded * rows[:, None] if leaf == "up" else folded
            scale = (folded.abs().amax(dim=1, keepdim=True) / 127).to(torch.bfloat16)
            pair.quantized[name] = (folded / scale.float()).round().clamp(-128, 127).to(torch.int8)
            pair.quantized[f"{name}_scale"] = scale


def scale_by(name: str, row: int, factor: float) -> Callable[[Any], None]:
    def apply(pair: Any) -> None:
        pair.quantized[f"{name}_scale"] = pair.quantized[f"{name}_scale"].clone()
        pair.quantized[f"{name}_scale"][row] *= factor

    return apply


@pytest.mark.parametrize("factor", [1e30, 1e6, 1e3, 1e-3, 1e-6, 1e-30])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (UP, f"gives rows a factor that the columns of {DOWN} do not carry: 1 of 8192 channels (the first is 100)"),
        (GATE, "does not fit the weights and the codes: 1 of 8192 rows (the first is 100)"),
    ],
    ids=["up_proj, whose rows are fitted", "gate_proj"],
)
def test_a_scale_that_is_absurd_in_one_row_is_refused_by_name_although_the_average_is_good(
    pair: Any, tmp_path: Path, name: str, reason: str, factor: float
) -> None:
    """The row is in no sample, and one of thousands."""
    widen(pair)
    profile_pair(*pair.write(), tmp_path / "good")
    scale_by(name, 100, factor)(pair)
    with pytest.raises(CheckpointMismatchError) as caught:
        profile_pair(*pair.write(), tmp_path / "out")
    assert caught.value.context["faults"] == [{"name": f"{name}_scale", "reason": reason}]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [UP, GATE])
@pytest.mark.parametrize("factor", [1e30, 1e3, 1e-3, 1e-30])
def test_an_absurd_scale_is_refused_where_every_row_is_looked_at_too(
    pair: Any, tmp_path: Path, name: str, factor: float
) -> None:
    widen(pair)
    scale_by(name, 100, factor)(pair)
    with pytest.raises(CheckpointMismatchError) as caught:
        profile_pair(*pair.write(), tmp_path / "out", every_row=True)
    (fault,) = caught.value.context["faults"]
    assert fault["name"] in {name, f"{name}_scale"}


@pytest.mark.parametrize("factor", [3.0, 1 / 3])
def test_a_row_whose_scale_is_somewhat_wrong_is_found_where_every_row_is_looked_at(
    pair: Any, tmp_path: Path, factor: float
) -> None:
    widen(pair)
    good = pair.write()
    document, _ = profile_pair(*good, tmp_path / "good")
    scale = pair.quantized[f"{GATE}_scale"]
    scale_by(GATE, 100, factor)(pair)
    folders = pair.write()
    profile_pair(*folders, tmp_path / "sampled")
    with pytest.raises(CheckpointMismatchError) as caught:
        profile_pair(*folders, tmp_path / "out", every_row=True)
    reason = "has rows whose codes are not its weights: 1 of 8192 rows (the first is 100)"
    assert caught.value.context["faults"] == [{"name": GATE, "reason": reason}]
    with pytest.raises(CheckpointMismatchError, match="has rows that are not explained by the profile's vectors: 1 of"):
        verify_profile(tmp_path / "sampled", *folders)
    pair.quantized[f"{GATE}_scale"] = scale
    verify_profile(document, *pair.write())


def requantize(pair: Any, name: str, columns: torch.Tensor) -> None:
    folded = pair.reference[name].float() / columns
    scale = folded.abs().amax(dim=1, keepdim=True) / 127
    pair.quantized[name], pair.quantized[f"{name}_scale"] = (folded / scale).round().to(torch.int8), scale


@pytest.mark.parametrize("wrong", [8.0, 1 / 4])
def test_a_linear_that_lacks_the_factor_of_one_channel_of_its_norm_is_refused_by_name(
    pair: Any, tmp_path: Path, wrong: float
) -> None:
    """One of a thousand columns, which the average over them hides."""
    generator = torch.Generator().manual_seed(5)
    factor = torch.exp2(torch.randint(-3, 4, (1024,), generator=generator).float())
    norm = torch.randn(1024, generator=generator).to(torch.bfloat16)
    weight = torch.randn(64, 1024, generator=generator) * factor
    weight[:, 700] = weight[:, 700] / 14
    pair.reference = {NORM: norm, Q: weight.to(torch.bfloat16)}
    pair.quantized = {NORM: (norm.float() * factor).to(torch.bfloat16)}
    requantize(pair, Q, factor)
    profile_pair(*pair.write(), tmp_path / "good")
    factor[700] *= wrong
    pair.quantized[NORM] = (norm.float() * factor).to(torch.bfloat16)
    with pytest.raises(CheckpointMismatchError) as caught:
        profile_pair(*pair.write(), tmp_path / "out")
    reason = f"has columns that do not carry the factor of {NORM}: 1 of 1024 channels (the first is 700)"
    assert caught.value.context["faults"] == [{"name": Q, "reason": reason}]


def test_a_linear_that_was_not_smoothed_behind_a_norm_that_was_is_refused_by_name(pair: Any, tmp_path: Path) -> None:
    requantize(pair, GATE, torch.ones(32))
    with pytest.raises(CheckpointMismatchError) as caught:
        profile_pair(*pair.write(), tmp_path / "out")
    norm = f"{L0}post_attention_layernorm.weight"
    reason = f"does not carry the factor of {norm}, which feeds it by its name and was changed"
    assert caught.value.context["faults"] == [{"name": GATE, "reason": reason}]


def test_rows_that_are_almost_zero_are_no_fault(pair: Any, tmp_path: Path) -> None:
    """Their scales are far from the others', and fit."""
    widen(pair)
    for name in (GATE, DOWN):
        rows = slice(20, 24)
        pair.reference[name][rows] = (pair.reference[name][rows].float() * 1e-6).to(torch.bfloat16)
        pair.quantized[f"{name}_scale"][rows] *= 1e-6
    pair.reference[GATE][40], pair.quantized[GATE][40], pair.quantized[f"{GATE}_scale"][40] = 0, 0, 1e-10
    profile_pair(*pair.write(), tmp_path / "out")
    profile_pair(*pair.write(), tmp_path / "every", every_row=True)


@pytest.mark.parametrize("value", ["nan", "-nan", "inf", "-inf"])
@pytest.mark.parametrize("dtypes", ["bfloat16", "float16", "float32", "bfloat16 float32", "float32 float16"])
@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.norm.weight"])
def test_what_is_no_number_in_both_checkpoints_is_refused_by_name(
    pair: Any, tmp_path: Path, name: str, dtypes: str, value: str
) -> None:
    """Equal bits are no proof of a usable model."""
    ours, theirs = (getattr(torch, dtype) for dtype in (dtypes.split() * 2)[:2])
    weight = pair.reference[name].to(ours)
    weight.view(-1)[-3] = float(value)
    pair.reference[name], pair.quantized[name] = weight, weight.to(theirs)
    with pytest.raises(CheckpointMismatchError) as caught:
        profile_pair(*pair.write(), tmp_path / "out")
    assert caught.value.context["faults"] == [
        {"name": name, "reason": "holds values that are not finite: NaN or infinity"}
    ]
    assert not (tmp_path / "out").exists()


def test_what_became_infinite_in_a_smaller_dtype_is_refused_by_name(pair: Any, tmp_path: Path) -> None:
    name = "model.embed_tokens.weight"
    pair.reference[name] = pair.reference[name].float()
    pair.reference[name][0, 0] = 1e6
    pair.quantized[name] = pair.reference[name].half()
    with pytest.raises(CheckpointMismatchError, match=f"{name}: holds values that are not finite"):
        profile_pair(*pair.write(), tmp_path / "out")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_largest_numbers_of_a_dtype_are_numbers(pair: Any, tmp_path: Path, dtype: torch.dtype) -> None:
    name, limits = "model.embed_tokens.weight", torch.finfo(dtype)
    weight = pair.reference[name].to(dtype)
    weight.view(-1)[:4] = torch.tensor([limits.max, limits.min, -0.0, limits.smallest_normal / 2])
    pair.reference[name] = pair.quantized[name] = weight
    profile_pair(*pair.write(), tmp_path / "out")


def test_all_faults_are_listed_at_once_and_alike_ones_as_a_family(pair: Any, tmp_path: Path) -> None:
    for layer in range(2):
        pair.quantized[f"model.layers.{layer}.self_attn.rotary.inv_freq"] = torch.ones(4)
    drop(f"{Q}_scale")(pair)
    drop("lm_head.weight")(pair)
    with pytest.raises(CheckpointMismatchError) as caught:
        profile_pair(*pair.write(), tmp_path / "out")
    assert len(caught.value.context["faults"]) == 4
    assert "model.layers.{0..1}.self_attn.rotary.inv_freq: is not in the reference checkpoint" in str(caught.value)
    assert "4 faults" in str(caught.value)


def test_wrong_values_are_all_listed(pair: Any, tmp_path: Path) -> None:
    change("model.norm.weight")(pair)
    change("lm_head.weight")(pair)
    change(f"{Q}_scale", value=-1.0)(pair)
    with pytest.raises(CheckpointMismatchError) as caught:
        profile_pair(*pair.write(), tmp_path / "out")
    names = [fault["name"] for fault in caught.value.context["faults"]]
    assert names == ["lm_head.weight", f"{Q}_scale", "model.norm.weight"]


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        (("config", "quant_method", "gptq"), "quant_method is 'gptq'"),
        (("config", "quant_method", "awq"), "quant_method is 'awq'"),
        (("config", "format", "pack-quantized"), "format is 'pack-quantized'"),
        (("config", "kv_cache_scheme", {"num_bits": 8}), "kv_cache_scheme is set"),
        (("config", "transform_config", {"config_groups": {"R1": {}}}), "transform_config is set"),
        (("config", "sparsity_config", {"format": "sparse-bitmask"}), "sparsity_config.format is 'sparse-bitmask'"),
        (("config", "sparsity_config", "sparse"), "sparsity_config is 'sparse', not an object"),
        (("config", "sparsity_config", [1]), "sparsity_config is [1], not an object"),
        (("config", "sparsity_config", {"format": {}}), "sparsity_config.format is {}, not 'dense'"),
        (("config", "format", ["int-quantized"]), "format is ['int-quantized'], not one of"),
        (("config", "quant_method", {}), "quant_method is {}"),
        (("config", "config_groups", {}), "config_groups is empty"),
        (("config", "config_groups", [1]), "config_groups is [1], not an object"),
        (("config", "config_groups", {"a": 3}), "config_groups.a is 3, not an object"),
        (("group", "weights", "int8"), "group_0.weights is 'int8', not an object"),
        (("weights", "num_bits", {}), "weights.num_bits is {}, not 8"),
        (("weights", "type", [1]), "group_0.weights.type is [1]: input should be 'int' or 'float'"),
        (("weights", "symmetric", "yes"), "group_0.weights.symmetric is 'yes': input should be a valid boolean"),
        (("group", "weights", None), "group_0.weights is missing"),
        (("group", "output_activations", {"num_bits": 8}), "group_0.output_activations is set"),
        (("group", "format", "pack-quantized"), "group_0.format is 'pack-quantized'"),
        (("weights", "num_bits", 4), "weights.num_bits is 4, not 8"),
        (("weights", "dynamic", True), "weights.dynamic is True"),
        (("weights", "strategy", "tensor_group"), "weights.strategy is 'tensor_group'"),
        (("weights", "strategy", "group"), "weights: group_size belongs to strategy 'group'"),
        (("weights", "strategy", "block"), "weights: block_structure belongs to strategy 'block'"),
        (("input_activations", "dynamic", "local"), "input_activations.dynamic is 'local'"),
    ],
)
def test_another_quantization_is_refused_by_setting(
    pair: Any, tmp_path: Path, setting: tuple[str, str, Any], text: str
) -> None:
    where, key, value = setting
    config = pair.quantized_config["quantization_config"]
    {"config": config, "group": pair.group}.get(where, pair.group.get(where))[key] = value
    with pytest.raises(ProfilingError) as caught:
        profile_pair(*pair.write(), tmp_path / "out")
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("strategy", "size", "text"),
    [
        ("group", {"group_size": 0}, "group_size is 0: "),
        ("group", {"group_size": -1}, "group_size is -1: "),
        ("group", {"group_size": "32"}, "group_size is '32': "),
        ("block", {"block_structure": [0, 16]}, "block_structure.0 is 0: "),
        ("block", {"block_structure": [16]}, "block_structure is [16]: "),
        ("block", {"block_structure": "16"}, "block_structure is '16': "),
        ("block", {"block_structure": "-16x16"}, "block_structure is '-16x16': "),
        ("block", {"block_structure": {"rows": 16}}, "block_structure is {'rows': 16}: "),
    ],
)
def test_sizes_that_are_none_are_refused_by_setting(
    pair: Any, tmp_path: Path, strategy: str, size: dict[str, Any], text: str
) -> None:
    pair.group["weights"] |= {"strategy": strategy, **size}
    with pytest.raises(ProfilingError) as caught:
        profile_pair(*pair.write(), tmp_path / "out")
    assert f"config_groups.group_0.weights.{text}" in str(caught.value)


@pytest.mark.parametrize(
    "size", [[0, 16], [16, 0], [-16, 16], [16], [16, 16, 16], [], "16", {}, 16, [True, 16], [16.0, 16]]
)
def test_blocks_of_no_size_are_refused_with_the_setting(pair: Any, tmp_path: Path, size: Any) -> None:
    pair.quantized_config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": size}
    with pytest.raises(ProfilingError) as caught:
        profile_pair(*pair.write(), tmp_path / "out", scheme="fp8_block")
    assert f"weight_block_size is {size!r}, not two whole numbers above 0" in caught.value.message


def test_all_settings_that_differ_are_listed(pair: Any, tmp_path: Path) -> None:
    pair.quantized_config["quantization_config"]["format"] = "pack-quantized"
    pair.group["weights"] |= {"num_bits": 4, "strategy": "tensor_group"}
    with pytest.raises(ProfilingError) as caught:
        profile_pair(*pair.write(), tmp_path / "out")
    assert len(caught.value.context["faults"]) == 3


def test_groups_that_disagree_on_activations_are_refused(pair: Any, tmp_path: Path) -> None:
    groups = pair.quantized_config["quantization_config"]["config_groups"]
    groups["group_1"] = {**groups["group_0"], "input_activations": None}
    with pytest.raises(ProfilingError, match="disagree on input_activations"):
        profile_pair(*pair.write(), tmp_path / "out")


def test_the_key_of_older_checkpoints_is_read(pair: Any, tmp_path: Path) -> None:
    pair.quantized_config["compression_config"] = pair.quantized_config.pop("quantization_config")
    profile_pair(*pair.write(), tmp_path / "out")


def test_the_two_checkpoints_in_the_wrong_order_are_refused(pair: Any, tmp_path: Path) -> None:
    reference, quantized = pair.write()
    with pytest.raises(ProfilingError, match="given as the reference"):
        profile_pair(quantized, reference, tmp_path / "out")


def test_a_second_bf16_checkpoint_is_refused(pair: Any, tmp_path: Path) -> None:
    reference, _ = pair.write()
    with pytest.raises(ProfilingError, match="not a quantized checkpoint"):
        profile_pair(reference, reference, tmp_path / "out")


def test_a_config_that_promises_int8_without_any_is_refused(pair: Any, tmp_path: Path) -> None:
    pair.quantized = dict(pair.reference)
    with pytest.raises(CheckpointMismatchError, match="holds no int8 weight"):
        profile_pair(*pair.write(), tmp_path / "out")


def test_an_integer_reference_is_refused(pair: Any, tmp_path: Path) -> None:
    pair.reference[Q] = pair.quantized[Q]
    with pytest.raises(CheckpointMismatchError, match="is int8 in the reference"):
        profile_pair(*pair.write(), tmp_path / "out")


def test_an_unknown_scheme_is_refused(pair: Any, tmp_path: Path) -> None:
    with pytest.raises(ProfilingError, match="'int4'"):
        profile_pair(*pair.write(), tmp_path / "out", scheme="int4")


def test_a_pair_of_another_scheme_than_asked_for_is_refused(pair: Any, tmp_path: Path) -> None:
    with pytest.raises(ProfilingError, match="holds int8 with one scale per channel") as caught:
        profile_pair(*pair.write(), tmp_path / "out", scheme="fp8")
    assert caught.value.hint == "--fn int8"


def test_a_missing_folder_and_a_file_that_was_cut_short_are_refused(pair: Any, tmp_path: Path) -> None:
    reference, quantized = pair.write()
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        profile_pair(tmp_path / "absent", quantized, tmp_path / "out")
    file = reference / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cut short"):
        profile_pair(reference, quantized, tmp_path / "out")


def test_a_file_that_is_cut_short_while_it_is_read_is_refused(pair: Any, tmp_path: Path) -> None:
    reference, quantized = pair.write()
    file = reference / "model.safetensors"
    with pytest.raises(CheckpointError, match="while it was read"):
        profile_pair(reference, quantized, tmp_path / "out", progress=lambda *_: file.write_bytes(b""))


def test_what_an_unusable_source_feeds_is_not_blamed(pair: Any, tmp_path: Path) -> None:
    replace(UP, lambda p: torch.zeros_like(p.quantized[UP]))(pair)
    with pytest.raises(CheckpointMismatchError) as caught:
        profile_pair(*pair.write(), tmp_path / "out")
    assert [fault["name"] for fault in caught.value.context["faults"]] == [UP]
