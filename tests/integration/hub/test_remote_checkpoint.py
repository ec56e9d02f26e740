"""Plans for models on the Hub, from their headers alone; and every way a Hub says no."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from server import Hub

pytestmark = pytest.mark.hub
Command = Callable[..., Any]
Publish = Callable[..., Path]
MODEL = "acme/tiny-7b"
HIDDEN, MLP = 512, 1024


def layers(*indices: int) -> dict[str, tuple[int, ...]]:
    return {
        f"model.layers.{index}.{name}.weight": shape
        for index in indices
        for name, shape in {
            "input_layernorm": (HIDDEN,),
            "mlp.down_proj": (HIDDEN, MLP),
            "mlp.gate_proj": (MLP, HIDDEN),
            "mlp.up_proj": (MLP, HIDDEN),
        }.items()
    }


ENDS = {"model.embed_tokens.weight": (1000, HIDDEN), "lm_head.weight": (1000, HIDDEN)}


def test_a_sharded_model_compiles_to_the_plan_of_its_download(hub: Hub, command: Command, publish: Publish) -> None:
    folder = publish(MODEL, layers(0, 1), {**layers(2), **ENDS})
    remote = command("compile", "-m", MODEL, "--scheme", "int8", "-o", "remote", "--json")
    assert (remote.code, remote.err) == (0, "")
    assert remote.json["model"]["name"] == MODEL
    local = command("compile", "-m", folder, "--scheme", "int8", "-o", "local", "--json")
    assert remote.json["digest"] == local.json["digest"]
    # Headers, not weights: less than half of the smallest shard, and never a whole one.
    sizes = [file.stat().st_size for file in folder.glob("*.safetensors")]
    sent = [request for request in hub.requests if request.path.endswith(".safetensors")]
    assert sum(request.sent_bytes for request in sent) < min(sizes) / 2
    assert {request.range for request in sent if request.method == "GET"} == {"bytes=0-100000"}


def test_everything_is_read_at_one_commit(hub: Hub, command: Command, publish: Publish) -> None:
    publish(MODEL, {**layers(0), **ENDS})
    assert command("compile", "-m", MODEL, "-o", "plan").code == 0
    revisions = {
        request.path.split("/resolve/")[1].split("/")[0] for request in hub.requests if "/resolve/" in request.path
    }
    assert revisions == {hub.commit(MODEL)}


def test_a_revision_can_be_named(hub: Hub, command: Command, publish: Publish) -> None:
    publish(MODEL, {**layers(0), **ENDS})
    hub.tags[MODEL, "v1"] = hub.commit(MODEL)
    assert command("compile", "-m", f"{MODEL}@v1", "-o", "plan").code == 0
    ran = command("compile", "-m", f"{MODEL}@v2", "-o", "plan", "--json")
    assert (ran.code, ran.json["error"]["code"]) == (1, "checkpoint-not-found")
    assert f"{MODEL}@v2: no such revision" in ran.json["error"]["message"]


def test_a_header_longer_than_the_first_range_is_read_whole(hub: Hub, command: Command, publish: Publish) -> None:
    folder = publish(MODEL, {f"model.layers.{index}.mlp.up_proj.weight": (8, 8) for index in range(2000)})
    assert (folder / "model.safetensors").stat().st_size > 300_000
    ran = command("compile", "-m", MODEL, "--scheme", "bf16", "-o", "plan", "--json")
    assert ran.json["model"]["num_tensors"] == 2000
    assert len([request for request in hub.requests if request.range is not None]) == 2


def test_a_folder_of_that_name_wins(tmp_path: Path, hub: Hub, command: Command, publish: Publish) -> None:
    folder = publish("elsewhere/x", {**layers(0), **ENDS})
    (tmp_path / MODEL).parent.mkdir()
    (tmp_path / MODEL).symlink_to(folder)
    assert command("compile", "-m", MODEL, "-o", "plan").code == 0
    assert hub.requests == []


def test_a_head_that_the_config_does_not_mention_is_tied_where_no_file_holds_it(
    command: Command, publish: Publish
) -> None:
    silent = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    publish("acme/tied", {**layers(0), "model.embed_tokens.weight": (1000, HIDDEN)}, config=silent)
    publish("acme/untied", {**layers(0), **ENDS}, config=silent)
    for name, tied in (("tied", True), ("untied", False)):
        assert command("compile", "-m", f"acme/{name}", "-o", name).code == 0
        shown = command("show", f"./{name}", "--json").json["document"]
        assert shown["base_model"]["tied_embeddings"] is tied


def test_a_model_that_is_not_there(command: Command, hub: Hub) -> None:
    ran = command("compile", "-m", "acme/none", "-o", "plan", "--json")
    assert (ran.code, ran.json["error"]["code"]) == (1, "checkpoint-not-found")
    assert f"acme/none is neither a folder here nor a model on {hub.endpoint}" in ran.json["error"]["message"]
    assert ran.err == ""


def test_a_gated_model_says_where_to_ask(hub: Hub, command: Command, publish: Publish) -> None:
    publish(MODEL, {**layers(0), **ENDS})
    hub.faults.gated.add(MODEL)
    ran = command("compile", "-m", MODEL, "-o", "plan", "--json")
    assert (ran.code, ran.json["error"]["code"]) == (1, "checkpoint-gated")
    assert f"{hub.endpoint}/{MODEL}" in ran.json["error"]["hint"]


def test_offline_is_said_and_nothing_is_asked(hub: Hub, command: Command, publish: Publish) -> None:
    publish(MODEL, {**layers(0), **ENDS})
    ran = command("compile", "-m", MODEL, "-o", "plan", "--json", HF_HUB_OFFLINE="1")
    assert (ran.code, ran.json["error"]["code"]) == (1, "checkpoint-unreachable")
    assert "offline" in ran.json["error"]["message"]
    assert hub.requests == []


def test_a_hub_that_does_not_answer(command: Command) -> None:
    ran = command("compile", "-m", MODEL, "-o", "plan", "--json", HF_ENDPOINT="http://127.0.0.1:9")
    assert (ran.code, ran.json["error"]["code"]) == (1, "checkpoint-unreachable")
    assert "http://127.0.0.1:9 cannot be reached" in ran.json["error"]["message"]


def test_a_hub_that_is_out_of_order(hub: Hub, command: Command) -> None:
    hub.faults.status = 418
    ran = command("compile", "-m", MODEL, "-o", "plan", "--json")
    assert (ran.code, ran.json["error"]["code"]) == (1, "checkpoint-unreachable")
    assert "answers 418" in ran.json["error"]["message"]


def test_a_model_without_safetensors_or_config(command: Command, publish: Publish) -> None:
    pickled = publish("acme/pickled", {**layers(0), **ENDS})
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    ran = command("compile", "-m", "acme/pickled", "-o", "plan", "--json")
    assert (ran.code, ran.json["error"]["code"]) == (1, "checkpoint")
    assert "neither model.safetensors nor" in ran.json["error"]["message"]
    bare = publish("acme/bare", {**layers(0), **ENDS})
    (bare / "config.json").unlink()
    assert "acme/bare has no config.json" in command("compile", "-m", "acme/bare", "-o", "plan").err


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"not JSON", "acme/bad"),
        (b"[]", "not understood"),
        (json.dumps({"a": {"dtype": "BF16", "shape": [4], "data_offsets": [0, 2]}}).encode(), "not bfloat16"),
        (json.dumps({"a": {"dtype": "Q4", "shape": [1], "data_offsets": [0, 2]}}).encode(), "not understood"),
        (json.dumps({"a {0..9}": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode(), "no tensor name"),
    ],
)
def test_a_header_that_is_not_understood_is_refused(
    command: Command, publish: Publish, header: bytes, message: str
) -> None:
    file = publish("acme/bad", ENDS) / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    ran = command("compile", "-m", "acme/bad", "-o", "plan", "--json")
    assert (ran.code, ran.json["error"]["code"]) == (1, "checkpoint"), ran.out
    assert message in ran.json["error"]["message"]


def test_an_index_that_belongs_to_another_upload_is_refused(command: Command, publish: Publish) -> None:
    folder = publish(MODEL, layers(0), ENDS)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.norm.weight"] = "model-00001-of-00002.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    ran = command("compile", "-m", MODEL, "-o", "plan", "--json")
    assert "disagree on 1 tensors: model.norm.weight" in ran.json["error"]["message"]
