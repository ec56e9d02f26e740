"""Safetensors headers to an Inventory.

A safetensors file starts with eight little-endian bytes, the length N of a JSON header, and the header itself;
tensor data follows (https://huggingface.co/docs/safetensors, format section). Names, shapes, dtypes and byte
ranges are all there, so nothing else needs to be read.
"""

import math
import operator
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashrl_registry.checkpoints.json_object import parse_json, read_json
from flashrl_registry.checkpoints.shards import check_weight_map, checkpoint_files
from flashrl_registry.documents import Inventory, TensorSpec
from flashrl_registry.documents.names import natural_key
from flashrl_registry.documents.tensors import ELEMENT_BYTES
from flashrl_registry.errors import CheckpointError

_DTYPES = {
    "BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64", "U8": "uint8",
    "BOOL": "bool",
}  # fmt: skip
_MAX_HEADER = 100 << 20
# Braces would read as families in a plan; a name with a space was never seen.
_NAME = re.compile(r"[^\s{}]{1,512}")
_DAMAGED = "the file is damaged, or safetensors did not write it; get it again"


@dataclass(frozen=True)
class TensorLocation:
    """Where one tensor's bytes lie.

    Attributes:
        file: Safetensors file.
        start: Offset of the first byte in the file.
        num_bytes: Length in bytes.
    """

    file: Path
    start: int
    num_bytes: int


@dataclass(frozen=True)
class CheckpointIndex:
    """A checkpoint folder as its headers describe it.

    Attributes:
        folder: The folder.
        config: Parsed config.json.
        inventory: Names, shapes, dtypes.
        specs: Tensor name to its shape and dtype.
        locations: Tensor name to its bytes.
    """

    folder: Path
    config: dict[str, Any]
    inventory: Inventory
    specs: dict[str, TensorSpec]
    locations: dict[str, TensorLocation]


def read_checkpoint(folder: Path, name: str | None = None) -> CheckpointIndex:
    """Read config.json and every safetensors header of a local checkpoint folder.

    Args:
        folder: Local checkpoint folder, sharded or not.
        name: Name for people; the folder's own by default.

    Returns:
        The index; no weights are read.

    Raises:
        CheckpointError: The folder, its config, its shard index or a header is missing, inconsistent or cut short.
    """
    if not folder.is_dir():
        raise CheckpointError(
            f"no checkpoint folder at {folder}", hint="give a local folder with config.json and *.safetensors"
        )
    config = read_json(folder / "config.json")
    files, weight_map = checkpoint_files(folder)
    specs: dict[str, TensorSpec] = {}
    locations: dict[str, TensorLocation] = {}
    for file in files:
        for tensor, spec, location in _read_header(file):
            if tensor in specs:
                raise CheckpointError(
                    f"{folder}: {tensor} is in two files: {locations[tensor].file.name} and {file.name}",
                    hint="one of them does not belong to the checkpoint; move it away",
                )
            specs[tensor], locations[tensor] = spec, location
    if weight_map is not None:
        check_weight_map(weight_map, {tensor: place.file.name for tensor, place in locations.items()}, str(folder))
    inventory = inventory_from(name or folder.resolve().name, config, specs.values(), str(folder / "config.json"))
    return CheckpointIndex(folder, config, inventory, specs, locations)


def inventory_from(name: str, config: dict[str, Any], specs: Iterable[TensorSpec], where: str) -> Inventory:
    """Names, shapes and dtypes together with what config.json says of the model.

    Args:
        name: Name for people.
        config: Parsed config.json.
        specs: Every tensor.
        where: The config's place, for messages.

    Raises:
        CheckpointError: The config's own fields have types that no config has.
    """
    architectures = config.get("architectures") or ["unknown"]
    text_config = config.get("text_config") or {}
    if not isinstance(architectures, list) or not isinstance(text_config, dict):
        raise CheckpointError(f"{where}: architectures is a list and text_config an object")
    tensors = sorted(specs, key=lambda spec: natural_key(spec.name))
    tied = config.get("tie_word_embeddings", text_config.get("tie_word_embeddings"))
    if tied is None:
        # transformers leaves out what is a class's default, and Gemma's is true; a tied head is not saved.
        tied = any(_leaf(spec) == "embed_tokens" for spec in tensors) and not any(
            _leaf(spec) == "lm_head" for spec in tensors
        )
    return Inventory(
        name=name,
        architecture=str(architectures[0]),
        model_type=str(config.get("model_type", "unknown")),
        tied_embeddings=bool(tied),
        tensors=tensors,
    )


def _leaf(spec: TensorSpec) -> str:
    return spec.name.removesuffix(".weight").rpartition(".")[2]


def _read_header(file: Path) -> list[tuple[str, TensorSpec, TensorLocation]]:
    try:
        size = file.stat().st_size
    except OSError as exc:
        raise CheckpointError(f"{file} cannot be read: {exc.strerror}") from exc
    if not file.is_file():
        raise CheckpointError(f"{file} is not a file")
    with file.open("rb") as handle:
        prefix = handle.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else _MAX_HEADER + 1
        if length > _MAX_HEADER or length + 8 > size:
            raise CheckpointError(f"{file} is not a complete safetensors file")
        header = parse_json(handle.read(length), f"{file}: the header", unique=True)
    return place_tensors(file, str(file), header, 8 + length, size)


def place_tensors(
    file: Path, what: str, header: Mapping[str, Any], data_start: int, size: int | None
) -> list[tuple[str, TensorSpec, TensorLocation]]:
    """Every tensor of a safetensors header, and where its bytes lie.

    Args:
        file: The file.
        what: What it is called in messages.
        header: Its parsed header.
        data_start: Offset of the first byte after the header.
        size: Size of the file; None where it is not known.

    Raises:
        CheckpointError: An entry is not understood, or the tensors do not fill the file one after another, as
            everything that writes safetensors makes them.
    """
    found = []
    for name, entry in header.items():
        if name != "__metadata__":
            spec, start, end = read_entry(what, name, entry)
            if size is not None and end > size - data_start:
                raise CheckpointError(f"{what}: {name} lies outside the file; it was cut short")
            found.append((name, spec, TensorLocation(file, data_start + start, end - start)))
    at, before = data_start, "the header"
    for name, _, place in sorted(found, key=lambda entry: (entry[2].start, entry[2].num_bytes)):
        if place.start != at:
            fault = (
                f"{name} begins {at - place.start} bytes before the end of {before}" if place.start < at
                else f"{place.start - at} bytes between {before} and {name} belong to no tensor"
            )  # fmt: skip
            raise CheckpointError(f"{what}: {fault}", hint=_DAMAGED)
        at, before = place.start + place.num_bytes, name
    if size is not None and size != at:
        raise CheckpointError(f"{what}: the last {size - at} bytes belong to no tensor", hint=_DAMAGED)
    return found


def read_entry(file: str, name: str, entry: Any) -> tuple[TensorSpec, int, int]:
    """One entry of a safetensors header, which is untrusted input.

    Args:
        file: The file, for messages.
        name: Tensor name.
        entry: Its JSON object.

    Returns:
        The tensor, and where its bytes begin and end after the header.

    Raises:
        CheckpointError: The entry is not understood, or its bytes do not fit its shape.
    """
    if not _NAME.fullmatch(name):
        raise CheckpointError(f"{file}: {name[:80]!r} is no tensor name: empty, too long, or with a space or brace")
    try:
        start, end = (operator.index(offset) for offset in entry["data_offsets"])
        spec = TensorSpec(name=name, shape=entry["shape"], dtype=_DTYPES[entry["dtype"]])  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError) as exc:
        raise CheckpointError(f"{file}: {name} has a header entry that is not understood: {str(entry)[:200]}") from exc
    if not 0 <= start <= end:
        raise CheckpointError(f"{file}: {name} lies outside the file; it was cut short")
    if end - start != math.prod(spec.shape) * ELEMENT_BYTES[spec.dtype]:
        raise CheckpointError(f"{file}: {name} has {end - start} bytes, which is not {spec.dtype} {spec.shape}")
    return spec, start, end
