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


def numbered(make_checkpoint: Make, *numbers: int, total: int = 3) -> Path:
    """A checkpoint of which some shards are there; no index."""
    folder = make_checkpoint("shards", {"a.weight": (2, 2)})
    (folder / "model.safetensors").unlink()
    for number in numbers:
        part = make_checkpoint(f"part{number}", {f"layers.{number}.weight": (2, 2)})
        (part / "model.safetensors").rename(folder / f"model-{number:05}-of-{total:05}.safetensors")
    return folder


def test_a_download_that_lacks_shards_is_refused_without_an_index_too(make_checkpoint: Make) -> None:
    with pytest.raises(CheckpointError, match=r"shards are missing: model-00002-of-00003\.safetensors\n") as caught:
        read_checkpoint(numbered(make_checkpoint, 1, 3))
    assert caught.value.hint == "the download is incomplete; get the missing files"


def test_many_missing_shards_are_counted(make_checkpoint: Make) -> None:
    with pytest.raises(CheckpointError, match=r"model-00002-of-00120\.safetensors, .* and 114 more\n"):
        read_checkpoint(numbered(make_checkpoint, 1, total=120))


def test_a_shard_beyond_the_last_one_is_refused(make_checkpoint: Make) -> None:
    with pytest.raises(CheckpointError, match=r"model-\*-of-00002\.safetensors: there is no 3 of 00002"):
        read_checkpoint(numbered(make_checkpoint, 1, 2, 3, total=2))


def test_all_shards_without_an_index_are_a_checkpoint(make_checkpoint: Make) -> None:
    assert len(read_checkpoint(numbered(make_checkpoint, 1, 2, 3)).specs) == 3


def test_an_index_that_names_the_wrong_file_of_a_tensor_is_refused(make_checkpoint: Make) -> None:
    """Both files exist and hold what the index names, but not where it says."""
    folder = numbered(make_checkpoint, 1, 2, total=2)
    files = [f"model-{number:05}-of-00002.safetensors" for number in (1, 2)]
    weight_map = {"layers.1.weight": files[1], "layers.2.weight": files[1]}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {**weight_map, "layers.1.weight": files[0]}}))
    assert len(read_checkpoint(folder).specs) == 2
    index.write_text(
        json.dumps({"weight_map": weight_map | {"layers.2.weight": files[0], "layers.1.weight": files[1]}})
    )
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(folder)
    assert "disagree on 2 tensors" in caught.value.message
    assert f"layers.1.weight (in {files[0]}; the index says {files[1]})" in caught.value.message
    assert f"layers.2.weight (in {files[1]}; the index says {files[0]})" in caught.value.message


def test_of_many_tensors_that_an_index_has_wrong_the_first_are_named(make_checkpoint: Make) -> None:
    folder = make_checkpoint("many", {f"layers.{number}.weight": (1,) for number in range(30)})
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"layers.0.weight": "model.safetensors"}})
    )
    with pytest.raises(CheckpointError, match=r"disagree on 29 tensors: layers\.1\.weight \(in model\.safetensors; "
                       r"the index does not name it\).*layers\.5\.weight \([^)]*\), \.\.\.\n"):  # fmt: skip
        read_checkpoint(folder)


BF16 = {"dtype": "BF16", "shape": [1]}


@pytest.mark.parametrize(
    ("header", "tail", "text"),
    [
        ({"a": {**BF16, "data_offsets": [0, 2]}}, b"\0" * 9, "the last 7 bytes belong to no tensor"),
        ({}, b"\0", "the last 1 bytes belong to no tensor"),
        (
            {"a": {**BF16, "data_offsets": [0, 2]}, "b": {**BF16, "data_offsets": [4, 6]}},
            b"\0" * 6,
            "2 bytes between a and b belong to no tensor",
        ),
        ({"a": {**BF16, "data_offsets": [2, 4]}}, b"\0" * 4, "2 bytes between the header and a belong to no tensor"),
        (
            {"a": {**BF16, "shape": [2], "data_offsets": [0, 4]}, "b": {**BF16, "data_offsets": [2, 4]}},
            b"\0" * 4,
            "b begins 2 bytes before the end of a",
        ),
        (
            b'{"a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}, '
            b'"a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}',
            b"\0\0",
            "the header names a twice",
        ),
    ],
    ids=["bytes after the last tensor", "bytes and no tensor", "a hole", "a hole in front", "overlap", "a name twice"],
)
def test_a_file_whose_tensors_do_not_fill_it_is_refused_by_name(
    checkpoint: Path, header: object, tail: bytes, text: str
) -> None:
    header_of(checkpoint, header, tail)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(checkpoint)
    assert text in caught.value.message
    assert caught.value.message.startswith(str(checkpoint / "model.safetensors"))
    assert caught.value.hint


def test_empty_tensors_take_no_room(checkpoint: Path) -> None:
    empty = {"dtype": "BF16", "shape": [0], "data_offsets": [2, 2]}
    header_of(checkpoint, {"b": empty, "a": {**BF16, "data_offsets": [0, 2]}, "c": empty}, b"\0\0")
    assert set(read_checkpoint(checkpoint).specs) == {"a", "b", "c"}


def test_an_index_that_names_a_tensor_twice_is_refused(checkpoint: Path) -> None:
    text = '{"weight_map": {"a": "model.safetensors", "a": "other.safetensors"}}'
    (checkpoint / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json names a twice"):
        read_checkpoint(checkpoint)


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
