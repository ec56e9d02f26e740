"""What a checkpoint holds, as data: names, shapes, dtypes; never weights."""

from typing import Annotated, Literal

import rfc8785
from pydantic import AfterValidator, Field

from flashrl_registry.documents._base import Digest, Frozen, sha256
from flashrl_registry.documents.names import family_size

DType = Literal[
    "bfloat16", "float16", "float32", "float64", "float8_e4m3fn", "float8_e5m2",
    "int8", "int16", "int32", "int64", "uint8", "bool",
]  # fmt: skip
"""Element types under torch's names."""

ELEMENT_BYTES: dict[str, int] = {
    "bfloat16": 2, "float16": 2, "float32": 4, "float64": 8, "float8_e4m3fn": 1, "float8_e5m2": 1,
    "int8": 1, "int16": 2, "int32": 4, "int64": 8, "uint8": 1, "bool": 1,
}  # fmt: skip
"""Width of an element in bytes, by :data:`DType`."""

Shape = Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=6)]
"""Sizes per dimension; a linear weight is [out_features, in_features]."""


def _check_family(pattern: str) -> str:
    family_size(pattern)
    return pattern


Family = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_check_family)]
"""A tensor name, or a family such as ``model.layers.{0..29}.mlp.up_proj.weight``."""


class TensorSpec(Frozen):
    """One tensor of a checkpoint."""

    name: str
    """Name in the checkpoint."""
    shape: Shape
    """Sizes per dimension."""
    dtype: DType
    """Element type in the safetensors header."""


class Inventory(Frozen):
    """All tensors of a checkpoint and what its config says of the model."""

    name: str
    """Folder name or Hub id."""
    architecture: str
    """First entry of ``architectures`` in config.json."""
    model_type: str
    """``model_type`` in config.json."""
    tied_embeddings: bool
    """lm_head shares the embedding's weight."""
    tensors: list[TensorSpec]
    """In the order of their names."""

    def fingerprint(self) -> str:
        """Identity of the model's structure: names and shapes, not dtypes and not values."""
        return fingerprint(self.tensors)


def fingerprint(tensors: list[TensorSpec]) -> Digest:
    """SHA-256 over the sorted (name, shape) pairs."""
    return sha256(rfc8785.dumps(sorted([t.name, t.shape] for t in tensors)))


class BaseModelInfo(Frozen):
    """Which model a profile or plan is for."""

    name: str
    """Folder name or Hub id, for people; part of a profile's identity, and not of a plan's."""
    architecture: str
    """First entry of ``architectures`` in config.json."""
    model_type: str
    """``model_type`` in config.json."""
    tied_embeddings: bool
    """lm_head shares the embedding's weight."""
    num_tensors: Annotated[int, Field(ge=1)]
    """Tensors in the checkpoint."""
    fingerprint: Digest
    """SHA-256 over the sorted names and shapes of the checkpoint's tensors; the engine's model must have it."""


def base_model_info(inventory: Inventory) -> BaseModelInfo:
    """The identity part of an inventory."""
    return BaseModelInfo(
        name=inventory.name,
        architecture=inventory.architecture,
        model_type=inventory.model_type,
        tied_embeddings=inventory.tied_embeddings,
        num_tensors=len(inventory.tensors),
        fingerprint=inventory.fingerprint(),
    )
