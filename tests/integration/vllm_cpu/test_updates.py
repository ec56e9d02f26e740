"""After any update the engine is what a fresh engine on the same weights would be, bit for bit."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import Several, job
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.vllm


def same(engine: dict[str, Any], reference: dict[str, Any]) -> bool:
    return bool(engine["resident"] == reference["resident"] and engine["tokens"] == reference["tokens"])


def proven(engine: dict[str, Any], tensors: int) -> bool:
    """Every resident tensor is what the plan made of what was sent."""
    return all(
        report["compared"] == report["equal"] == tensors and not report["different"] and not report["not_compared"]
        for report in engine["verify"]
    )


@pytest.fixture(scope="module")
def nudged(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real model after a change of a few percent in every tensor."""
    folder = tmp_path_factory.mktemp("nudged") / "SmolLM2-135M-Instruct"
    shutil.copytree(pair[0], folder)
    generator = torch.Generator().manual_seed(7)
    for file in folder.glob("*.safetensors"):
        tensors = {
            name: (value.float() * (1 + 0.03 * torch.randn(value.shape, generator=generator))).to(value.dtype)
            for name, value in load_file(file).items()
        }
        save_file(tensors, file, metadata={"format": "pt"})
    return folder


ATTENTION = (
    "rules:\n- {name: attention, scheme: int8, targets: ['*.self_attn.*_proj']}\n"
    "- {name: rest, scheme: bf16, targets: ['*'], ignore: ['*.self_attn.*_proj']}\n"
)
STAGED = "update: {mode: staged}\nrules:\n- {name: all, scheme: bf16, targets: ['*']}\n"
OTHER_ROUTES = ["announced", "fused", "float32", "reused"]
"""Those that test_matrix.py leaves out."""
ROUTES = ["folder", "iterator", "one_by_one", "buckets", "transfer", *OTHER_ROUTES]
ONE_OF_EACH = {"tied": ROUTES, "untied": OTHER_ROUTES, "moe": OTHER_ROUTES}


@pytest.fixture(scope="module")
def mixed(tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first tiny model with a layer of the second."""
    folder = tmp_path_factory.mktemp("mixed") / "model"
    shutil.copytree(tiny(1), folder)
    tensors, newer = (load_file(tiny(seed) / "model.safetensors") for seed in (1, 2))
    tensors |= {name: value for name, value in newer.items() if ".layers.1." in name}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def ran(run_several, tiny, compiled, *, mixed, pair, real_plan, nudged, tmp_path_factory) -> Several:
    """Every program of this file that needs no process of its own; experts first, while vLLM has no dense model."""
    dense, tied, experts = (
        [str(tiny(seed, **kind)) for seed in (1, 2)] for kind in ({}, {"tied": True}, {"moe": True})
    )
    both = {"model": dense[0], "updated": dense[1]}
    both_tied = {"model": tied[0], "updated": tied[1]}

    def routes(config: str, name: str, models: list[str]) -> Any:
        return job("scenarios.every_route", config, pairs={name: models}, routes=ONE_OF_EACH[name])

    return run_several(
        moe=routes(compiled(tiny(1, moe=True), ATTENTION), "moe", experts),
        moe_int8=job("scenarios.fresh", "int8", model=experts[0]),
        **{f"{config}-tied": routes(config, "tied", tied) for config in ("int8", "bf16")},
        **{f"{config}-untied": routes(config, "untied", dense) for config in ("int8", "bf16")},
        lora=job("lora.merged", "int8", model=dense[0], merged=tmp_path_factory.mktemp("lora") / "merged"),
        partial=job("scenarios.partial", "int8", mixed=mixed, **both),
        tied_head=job("scenarios.tied_head", "int8", **both_tied),
        staged_tied_head=job("scenarios.tied_head", compiled(tiny(1, tied=True), STAGED), **both_tied),
        biases=job("scenarios.fresh", "int8", model=tiny(1, bias=True)),
        prefix_cache_while_running=job("scenarios.prefix_cache_while_running", "int8", **both),
        prefix_cache=job("scenarios.prefix_cache", "int8", **both),
        real=job("scenarios.updates", real_plan, model=pair[0], updated=nudged, routes=["folder", "one_by_one"]),
        real_fresh=job("scenarios.fresh", real_plan, model=nudged),
    )


def test_real_model_with_profile_updates_equal_a_fresh_engine(ran) -> None:
    updated, fresh = ran["real"], ran["real_fresh"]
    start = updated["start"]
    assert start["status"]["layers"] == {"int8": 120}, "every planned linear is int8"
    assert start["status"]["tensors"]["int8"] == 210
    assert sum(name.endswith(".codes") for name in start["resident"][0]) == 120
    for route in ("folder", "one_by_one"):
        assert same(updated[route], fresh), f"{route} differs from a fresh engine"
        assert proven(updated[route], 272)
        assert updated[route]["status"]["last_update"]["codes_changed"] > 0.4
        assert same(updated[f"{route}_back"], start), f"{route} does not restore the first weights"
    assert start["tokens"] != fresh["tokens"], "the update must be visible, or the test shows nothing"
    assert start["resident"] != fresh["resident"]


@pytest.mark.parametrize(("name", "tensors"), [("tied", 20), ("untied", 21)])
@pytest.mark.parametrize(("config", "layers"), [("int8", {"int8": 8}), ("bf16", {"unquantized": 8})])
def test_every_route_equals_a_fresh_engine(ran, config, layers, name, tensors) -> None:
    """Untied by the routes that test_matrix.py leaves out."""
    result = ran[f"{config}-{name}"][name]
    start, fresh = result["start"], result["fresh"]
    assert start["status"]["layers"] == layers
    assert start["tokens"] != fresh["tokens"], "the update must be visible, or the test shows nothing"
    assert proven(start, tensors)
    for route in ONE_OF_EACH[name]:
        assert same(result[route], fresh), f"{route}: differs from a fresh engine"
        assert proven(result[route], tensors), result[route]["verify"]
        assert same(result[f"{route}_back"], start), f"{route}: does not restore the first weights"


def test_merged_lora_adapters_arrive_as_full_weights(ran) -> None:
    result = ran["lora"]
    assert same(result["updated"], result["fresh"])
    assert proven(result["updated"], 21)
    assert result["updated"]["tokens"] != result["start"]["tokens"], "the adapters must be visible"


def test_experts_updated_by_any_route_equal_a_fresh_engine(ran) -> None:
    """Experts stay bf16 here: vLLM has no int8 kernel for them on CPU, and the plan says so when asked."""
    result = ran["moe"]["moe"]
    assert result["start"]["status"]["layers"] == {"int8": 4, "unquantized": 4}
    assert result["start"]["tokens"] != result["fresh"]["tokens"]
    for route in ONE_OF_EACH["moe"]:
        assert same(result[route], result["fresh"]), f"{route}: differs from a fresh engine"
        assert same(result[f"{route}_back"], result["start"]), f"{route}: does not restore the first weights"
        assert result[route]["verify"][0]["different"] == []
    assert "int8 experts need a GPU" in ran.error("moe_int8")


def test_some_layers_only_must_be_announced_and_whole(ran) -> None:
    result = ran["partial"]
    fresh = result["fresh"]
    assert same(result["layer"], fresh)
    assert proven(result["layer"], 21)
    assert result["layer"]["status"]["last_update"]["tensors"] == 9
    assert "model.layers.1.self_attn.k_proj.weight" in result["half"], "q and v without k"
    assert "12 of 21 tensors are missing" in result["unannounced"]
    assert "cannot make the engine whole" in result["cannot_heal"]
    assert same(result["healed"], fresh)


def test_engine_core_subprocess_updates_refuses_and_heals(ran, run_scenario, tiny, tmp_path: Path) -> None:
    first, second = tiny(1), tiny(2)
    bad = tmp_path / "bad"
    shutil.copytree(second, bad)
    tensors = load_file(bad / "model.safetensors")
    del tensors["model.layers.1.mlp.down_proj.weight"]
    save_file(tensors, bad / "model.safetensors", metadata={"format": "pt"})
    core = run_scenario("subprocess_core", "int8", in_process=False, model=first, updated=second, bad=bad)
    assert core.returncode == 0, core.log[-3000:]
    fresh = ran["int8-untied"]["untied"]["fresh"]
    assert core.result["start"]["status"]["layers"] == {"int8": 8}
    assert same(core.result["updated"], fresh)
    assert "model.layers.1.mlp.down_proj.weight" in core.result["bad_update"]
    assert "NotServableError" in core.result["bad_generate"]
    assert same(core.result["healed"], fresh)


def test_a_tied_head_may_be_sent_too_but_must_be_the_embedding(ran) -> None:
    result = ran["tied_head"]
    for name in ("equal", "whole_equal", "first"):
        assert same(result[name], result["fresh"]), name
    for name in ("different", "whole_different"):
        assert "lm_head.weight: differs from the embedding that this tied model uses for it" in result[name], name
    for name in ("row", "whole_row", "scalar", "whole_scalar"):
        assert "lm_head.weight: shape [" in result[name], name
        assert "(model.embed_tokens.weight, which this tied model uses for it)" in result[name], name
    assert "lm_head.weight: ndarray, and not a torch.Tensor" in result["whole_numpy"]
    assert "lm_head.weight: dtype torch.int32" in result["whole_int"]
    assert "base_model.model.lm_head.weight: the plan does not decide this tensor" in result["another_name"]
    assert isinstance(result["bucket_first"], dict), result["bucket_first"]


def test_a_tied_head_that_was_refused_spoils_no_later_update(ran) -> None:
    for plan in ("tied_head", "staged_tied_head"):
        after = {name: seen for name, seen in ran[plan].items() if name.startswith("after ")}
        assert len(after) > 10
        for name, seen in after.items():
            assert same(seen, ran[plan]["fresh"]), f"{plan}: {name}"


def test_a_staged_update_with_another_tied_head_leaves_the_old_weights_serving(ran) -> None:
    for name in ("whole_different", "whole_row", "whole_scalar"):
        assert "model.embed_tokens.weight, which this tied model uses for it" in ran["staged_tied_head"][name], name
    assert ran["staged_tied_head"]["state"] == "serving"


def test_biases_of_linears_are_proven_too(ran) -> None:
    assert proven(ran["biases"], 29)


def test_a_request_after_an_update_reads_no_old_prefix_though_another_runs(ran) -> None:
    result = ran["prefix_cache_while_running"]
    assert result["after"] == result["fresh"] != result["old"]


def test_prefixes_cached_under_old_weights_are_dropped(ran) -> None:
    result = ran["prefix_cache"]
    assert result["warm"][0] > 0, "the cache must be hit, or the test shows nothing"
    assert result["updated"][0] == 0
    assert result["updated_warm"][0] > 0, "dropped once, not for every request"
    assert result["updated"] == result["reset_by_hand"]
