"""After any update the engine is what a fresh engine on the same weights would be, bit for bit."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
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


def test_real_model_with_profile_updates_equal_a_fresh_engine(run_scenario, pair, real_plan, nudged) -> None:
    updated = run_scenario("updates", str(real_plan), model=pair[0], updated=nudged, routes=["folder", "one_by_one"])
    fresh = run_scenario("fresh", str(real_plan), model=nudged)
    assert updated.returncode == 0, updated.log[-3000:]
    assert fresh.returncode == 0, fresh.log[-3000:]
    start = updated.result["start"]
    assert start["status"]["layers"] == {"int8": 120}, "every planned linear is int8"
    assert start["status"]["tensors"]["int8"] == 210
    assert sum(name.endswith(".codes") for name in start["resident"][0]) == 120
    for route in ("folder", "one_by_one"):
        assert same(updated.result[route], fresh.result), f"{route} differs from a fresh engine"
        assert proven(updated.result[route], 272)
        assert updated.result[route]["status"]["last_update"]["codes_changed"] > 0.4
        assert same(updated.result[f"{route}_back"], start), f"{route} does not restore the first weights"
    assert start["tokens"] != fresh.result["tokens"], "the update must be visible, or the test shows nothing"
    assert start["resident"] != fresh.result["resident"]


@pytest.mark.parametrize(("config", "layers"), [("int8", {"int8": 8}), ("bf16", {"unquantized": 8})])
def test_every_route_equals_a_fresh_engine(run_scenario, tiny, config, layers) -> None:
    pairs = {
        name: [str(tiny(1, tied=tied)), str(tiny(2, tied=tied))] for name, tied in (("tied", True), ("untied", False))
    }
    ran = run_scenario("every_route", config, pairs=pairs)
    assert ran.returncode == 0, ran.log[-3000:]
    for name, result in ran.result.items():
        start, fresh = result["start"], result["fresh"]
        assert start["status"]["layers"] == layers
        assert start["tokens"] != fresh["tokens"], "the update must be visible, or the test shows nothing"
        assert proven(start, 20 if name == "tied" else 21)
        for route in ("folder", "iterator", "one_by_one", "buckets", "announced", "fused", "float32", "transfer"):
            assert same(result[route], fresh), f"{name}, {route}: differs from a fresh engine"
            assert proven(result[route], 20 if name == "tied" else 21), result[route]["verify"]
            assert same(result[f"{route}_back"], start), f"{name}, {route}: does not restore the first weights"


def test_merged_lora_adapters_arrive_as_full_weights(run_scenario, tiny, tmp_path) -> None:
    ran = run_scenario("merged", "int8", script="lora.py", model=tiny(1), merged=tmp_path / "merged")
    assert ran.returncode == 0, ran.log[-3000:]
    assert same(ran.result["updated"], ran.result["fresh"])
    assert proven(ran.result["updated"], 21)
    assert ran.result["updated"]["tokens"] != ran.result["start"]["tokens"], "the adapters must be visible"


def test_experts_updated_by_any_route_equal_a_fresh_engine(run_scenario, tiny, compiled) -> None:
    """Experts stay bf16 here: vLLM has no int8 kernel for them on CPU, and the plan says so when asked."""
    first, second = tiny(1, moe=True), tiny(2, moe=True)
    plan = compiled(
        first,
        "rules:\n- {name: attention, scheme: int8, targets: ['*.self_attn.*_proj']}\n"
        "- {name: rest, scheme: bf16, targets: ['*'], ignore: ['*.self_attn.*_proj']}\n",
    )
    ran = run_scenario("every_route", plan, pairs={"moe": [str(first), str(second)]})
    assert ran.returncode == 0, ran.log[-3000:]
    result = ran.result["moe"]
    assert result["start"]["status"]["layers"] == {"int8": 4, "unquantized": 4}
    assert result["start"]["tokens"] != result["fresh"]["tokens"]
    for route in ("folder", "iterator", "one_by_one", "buckets", "announced", "fused", "float32", "transfer"):
        assert same(result[route], result["fresh"]), f"{route}: differs from a fresh engine"
        assert same(result[f"{route}_back"], result["start"]), f"{route}: does not restore the first weights"
        assert result[route]["verify"][0]["different"] == []
    refused = run_scenario("fresh", "int8", model=first)
    assert refused.returncode != 0
    assert "int8 experts need a GPU" in refused.log


def test_a_faulty_update_is_refused_and_the_next_whole_one_heals(run_scenario, tiny) -> None:
    first, second = tiny(1), tiny(2)
    ran = run_scenario("faults", "int8", model=first, updated=second)
    assert ran.returncode == 0, ran.log[-3000:]
    expected = {
        "missing_then_late": ("updating", None),
        "missing_then_again": ("updating", None),
        "duplicate": ("quarantined", "sent twice"),
        "nan_in_linear": ("quarantined", "NaN or infinity"),
        "inf_in_norm": ("quarantined", "NaN or infinity"),
        "wrong_shape": ("quarantined", "the plan says"),
        "wrong_dtype": ("quarantined", "int8"),
        "unknown_name": ("quarantined", "does not decide"),
        "sender_raises": ("quarantined", "went away"),
    }
    for name, (state, text) in expected.items():
        outcome = ran.result[name]
        assert outcome["state"] == state, name
        assert "NotServableError" in (outcome["generate_error"] or ""), f"{name}: it generated"
        if text is None:
            assert outcome["update_error"] is None
            assert "half done" in outcome["generate_error"]
        else:
            assert text in outcome["update_error"], name
        assert same(outcome["healed"], ran.result["fresh"]), f"{name}: not healed bit for bit"


def test_some_layers_only_must_be_announced_and_whole(run_scenario, tiny, tmp_path: Path) -> None:
    first, second = tiny(1), tiny(2)
    mixed = tmp_path / "mixed"
    shutil.copytree(first, mixed)
    tensors, newer = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    tensors |= {name: value for name, value in newer.items() if ".layers.1." in name}
    save_file(tensors, mixed / "model.safetensors", metadata={"format": "pt"})
    ran = run_scenario("partial", "int8", model=first, updated=second, mixed=mixed)
    assert ran.returncode == 0, ran.log[-3000:]
    fresh = ran.result["fresh"]
    assert same(ran.result["layer"], fresh)
    assert proven(ran.result["layer"], 21)
    assert ran.result["layer"]["status"]["last_update"]["tensors"] == 9
    assert "model.layers.1.self_attn.k_proj.weight" in ran.result["half"], "q and v without k"
    assert "12 of 21 tensors are missing" in ran.result["unannounced"]
    assert "cannot make the engine whole" in ran.result["cannot_heal"]
    assert same(ran.result["healed"], fresh)


def test_a_staged_plan_serves_the_old_weights_until_an_update_is_complete(run_scenario, tiny, compiled) -> None:
    first, second = tiny(1), tiny(2)
    plan = compiled(
        first,
        "update: {mode: staged}\nrules:\n- {name: linears, scheme: int8, targets: ['*_proj']}\n"
        "- {name: rest, scheme: bf16, targets: ['*'], ignore: ['*_proj']}\n",
    )
    ran = run_scenario("staged", plan, model=first, updated=second)
    assert ran.returncode == 0, ran.log[-3000:]
    result, fresh = ran.result, ran.result["fresh"]
    assert same(result["half"], result["start"])
    assert same(result["updated"], fresh)
    for fault in ("duplicate", "nan_in_linear", "inf_in_norm", "wrong_shape", "wrong_dtype", "unknown_name",
                  "sender_raises"):  # fmt: skip
        assert result[fault]["error"], fault
        assert result[fault]["status"]["last_failure"], fault
        assert result[fault]["status"]["state"] == "serving", fault
        assert same(result[fault], fresh), f"{fault}: the old weights changed"
    for route in ("folder", "transfer"):
        assert same(result[f"{route}_back"], result["start"])
        assert same(result[route], fresh)
        assert proven(result[route], 21)


def test_engine_core_subprocess_updates_refuses_and_heals(run_scenario, tiny, tmp_path: Path) -> None:
    first, second = tiny(1), tiny(2)
    bad = tmp_path / "bad"
    shutil.copytree(second, bad)
    tensors = load_file(bad / "model.safetensors")
    del tensors["model.layers.1.mlp.down_proj.weight"]
    save_file(tensors, bad / "model.safetensors", metadata={"format": "pt"})
    ran = run_scenario("subprocess_core", "int8", in_process=False, model=first, updated=second, bad=bad)
    fresh = run_scenario("fresh", "int8", in_process=False, model=second)
    assert ran.returncode == 0, ran.log[-3000:]
    assert ran.result["start"]["status"]["layers"] == {"int8": 8}
    assert same(ran.result["updated"], fresh.result)
    assert "model.layers.1.mlp.down_proj.weight" in ran.result["bad_update"]
    assert "NotServableError" in ran.result["bad_generate"]
    assert same(ran.result["healed"], fresh.result)


def test_a_tied_head_may_be_sent_too_but_must_be_the_embedding(run_scenario, tiny) -> None:
    ran = run_scenario("tied_head", "int8", model=tiny(1, tied=True), updated=tiny(2, tied=True))
    assert ran.returncode == 0, ran.log[-3000:]
    assert same(ran.result["equal"], ran.result["fresh"])
    assert same(ran.result["whole_equal"], ran.result["fresh"]), "also heals what came before"
    assert "NotServableError" in ran.result["different"]
    assert "differs from the embedding" in ran.result["whole_different"]


def test_a_staged_update_with_another_tied_head_leaves_the_old_weights_serving(run_scenario, tiny, compiled) -> None:
    model = tiny(1, tied=True)
    plan = compiled(model, "update: {mode: staged}\nrules:\n- {name: all, scheme: bf16, targets: ['*']}\n")
    ran = run_scenario("tied_head", plan, model=model, updated=tiny(2, tied=True))
    assert ran.returncode == 0, ran.log[-3000:]
    assert "differs from" in ran.result["whole_different"]
    assert ran.result["state"] == "serving"


def test_biases_of_linears_are_proven_too(run_scenario, tiny) -> None:
    ran = run_scenario("fresh", "int8", model=tiny(1, bias=True))
    assert ran.returncode == 0, ran.log[-3000:]
    assert proven(ran.result, 29)


def test_a_request_after_an_update_reads_no_old_prefix_though_another_runs(run_scenario, tiny) -> None:
    ran = run_scenario("prefix_cache_while_running", "int8", model=tiny(1), updated=tiny(2))
    assert ran.returncode == 0, ran.log[-3000:]
    assert ran.result["after"] == ran.result["fresh"] != ran.result["old"]


def test_prefixes_cached_under_old_weights_are_dropped(run_scenario, tiny) -> None:
    ran = run_scenario("prefix_cache", "int8", model=tiny(1), updated=tiny(2))
    assert ran.returncode == 0, ran.log[-3000:]
    assert ran.result["warm"][0] > 0, "the cache must be hit, or the test shows nothing"
    assert ran.result["updated"][0] == 0
    assert ran.result["updated_warm"][0] > 0, "dropped once, not for every request"
    assert ran.result["updated"] == ran.result["reset_by_hand"]


def test_kernel_format_reload_is_refused(run_scenario, tiny) -> None:
    ran = run_scenario("kernel_format", "int8", model=tiny(1))
    assert "writes past the plan" in ran.result["error"]
