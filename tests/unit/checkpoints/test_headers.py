"""Headers of checkpoints: names, shapes and places without reading weights, and every way a download is broken."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from flashrl_registry.checkpoints import read_checkpoint
from flashrl_registry.errors import CheckpointError

Make = Callable[..., Path]


def header_of(folder: Path, header: object, tail: bytes = b"") -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + tail)


def test_names_shapes_dtypes_and_places(checkpoint: Path) -> None:
    index = read_checkpoint(checkpoint)
    assert index.inventory.name == "toy"
    assert index.inventory.architecture == "LlamaForCausalLM"
    assert index.inventory.tied_embeddings
    assert len(index.inventory.tensors) == 20
    spec = index.specs["model.layers.1.mlp.up_proj.weight"]
    assert (spec.shape, spec.dtype) == ([24, 16], "bfloat16")
    location = index.locations[spec.name]
    assert location.num_bytes == 24 * 16 * 2
    data = location.file.read_bytes()
    assert 8 < location.start < location.start + location.num_bytes <= len(data)
    names = [tensor.name for tensor in index.inventory.tensors]
    assert names[0] == "model.embed_tokens.weight"
    assert names[-1] == "model.norm.weight"


def test_the_name_can_be_given(checkpoint: Path) -> None:
    assert read_checkpoint(checkpoint, "org/model").inventory.name == "org/model"


def test_values_and_dtypes_do_not_change_the_fingerprint(make_checkpoint: Make) -> None:
    prints = {
        read_checkpoint(make_checkpoint(name, {"a.weight": (2, 2)}, dtype=dtype)).inventory.fingerprint()
        for name, dtype in (("a", "BF16"), ("b", "F32"))
    }
    other = read_checkpoint(make_checkpoint("c", {"a.weight": (2, 3)})).inventory.fingerprint()
    assert len(prints) == 1
    assert other not in prints


def test_shards_are_one_checkpoint(make_checkpoint: Make) -> None:
    folder = make_checkpoint("one", {"a.weight": (2, 2)})
    second = make_checkpoint("two", {"b.weight": (3,)})
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    (second / "model.safetensors").rename(folder / "model-2.safetensors")
    index = folder / "model.safetensors.index.json"
    weight_map = {"a.weight": "model-1.safetensors", "b.weight": "model-2.safetensors"}
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert [tensor.name for tensor in read_checkpoint(folder).inventory.tensors] == ["a.weight", "b.weight"]

    index.write_text(json.dumps({"weight_map": {**weight_map, "c.weight": "model-2.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"disagree on 1 tensors: c\.weight"):
        read_checkpoint(folder)
    index.write_text(json.dumps({"weight_map": {**weight_map, "c.weight": "model-3.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"shards are missing: model-3\.safetensors"):
        read_checkpoint(folder)
    index.write_text(json.dumps({"weight_map": {"a.weight": "../secret.safetensors"}}))
    with pytest.raises(CheckpointError, match="outside the folder"):
        read_checkpoint(folder)
    index.write_text("{}")
    with pytest.raises(CheckpointError, match="has no weight_map"):
        read_checkpoint(folder)


def test_a_tensor_in_two_files_is_refused(make_checkpoint: Make) -> None:
    folder = make_checkpoint("one", {"a.weight": (2, 2)})
    (folder / "copy.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"a\.weight is in two files: copy.safetensors and model.safetensors"):
        read_checkpoint(folder)


def test_what_is_missing_is_named(tmp_path: Path, make_checkpoint: Make) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint folder at"):
        read_checkpoint(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read: No such file"):
        read_checkpoint(tmp_path / "empty")
    folder = make_checkpoint("bare")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no \*\.safetensors file"):
        read_checkpoint(folder)


@pytest.mark.parametrize("text", ["", "[1]", "{", "\xff"])
def test_a_broken_config_is_refused(checkpoint: Path, text: str) -> None:
    (checkpoint / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match="JSON"):
        read_checkpoint(checkpoint)


@pytest.mark.parametrize("size", [0, 4, 8, 100])
def test_a_file_cut_short_in_its_header_is_refused(checkpoint: Path, size: int) -> None:
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(CheckpointError, match="is not a complete safetensors file"):
        read_checkpoint(checkpoint)


def test_a_file_cut_short_in_its_data_is_refused(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="it was cut short"):
        read_checkpoint(checkpoint)


@pytest.mark.parametrize(
    "header",
    [
        b"{", b"\xff\xfe", b"[" * 100_000, b"[]", b"1", {"a": 1}, {"a": {"dtype": "BF16", "shape": [1]}},
        {"a": {"dtype": "Q4", "shape": [1], "data_offsets": [0, 2]}},
        {"a": {"dtype": "BF16", "shape": [-1], "data_offsets": [0, 2]}},
        {"a": {"dtype": "BF16", "shape": ["1"], "data_offsets": [0, 2]}},
        {"a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, "2"]}},
        {"a": {"dtype": "BF16", "shape": [1], "data_offsets": [0]}},
        {"a": {"dtype": "BF16", "shape": [1], "data_offsets": [2, 0]}},
        {"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 2]}},
        {"a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 900]}},
        {"a.{0..1}.weight": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}},
        {"": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}},
    ],
    ids=lambda header: repr(header)[:70],
)  # fmt: skip
def test_a_header_that_is_not_understood_is_refused(checkpoint: Path, header: object) -> None:
    header_of(checkpoint, header, b"\0\0")
    with pytest.raises(CheckpointError):
        read_checkpoint(checkpoint)


def test_metadata_is_no_tensor(checkpoint: Path) -> None:
    entry = {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}
    header_of(checkpoint, {"__metadata__": {"format": "pt"}, "a": entry}, b"\0\0")
    assert list(read_checkpoint(checkpoint).specs) == ["a"]


def test_tied_embeddings_are_found_in_a_text_config(make_checkpoint: Make) -> None:
    folder = make_checkpoint("nested", {"a": (1,)})
    (folder / "config.json").write_text(json.dumps({"text_config": {"tie_word_embeddings": True}}))
    inventory = read_checkpoint(folder).inventory
    assert inventory.tied_embeddings
    assert inventory.architecture == "unknown"


def test_a_head_that_the_config_does_not_mention_is_tied_where_no_tensor_is_it(make_checkpoint: Make) -> None:
    embedding = {"model.embed_tokens.weight": (8, 4)}
    for name, shapes, tied in (("gemma", embedding, True), ("phi", {**embedding, "lm_head.weight": (8, 4)}, False)):
        folder = make_checkpoint(name, shapes)
        (folder / "config.json").write_text(json.dumps({"architectures": ["SomeForCausalLM"]}))
        assert read_checkpoint(folder).inventory.tied_embeddings is tied
