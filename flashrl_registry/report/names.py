"""Where a tensor or a module stands in a model's heat map: its layer is a row, the rest of its name a column."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flashrl_registry.documents.names import natural_key, split_indices

_EVERY = "*"


@dataclass(frozen=True)
class Place:
    """Row and column.

    Attributes:
        layer: First index in the name; None where there is none.
        projection: The name without the layer, ``mlp.experts.*.up_proj``: all experts stand in one place.
    """

    layer: int | None
    projection: str


def places(names: Iterable[str]) -> dict[str, Place]:
    """The place of each name; what all indexed names begin with is left out of the columns."""
    split = {name: split_indices(name) for name in names}
    beginnings = {shape.partition("{}")[0] for shape, indices in split.values() if indices}
    common = beginnings.pop() if len(beginnings) == 1 else None
    return {name: _place(shape, indices, common) for name, (shape, indices) in split.items()}


def _place(shape: str, indices: Sequence[str], common: str | None) -> Place:
    shape = shape.removesuffix(".weight")
    if not indices:
        return Place(None, shape)
    before, _, after = shape.partition("{}")
    projection = after.removeprefix(".") if before == common else before + after.removeprefix(".")
    return Place(int(indices[0]), projection.replace("{}", _EVERY))


def columns(found: Iterable[Place]) -> list[str]:
    """Projections in the order in which they first come, those of layers before others."""
    ordered = sorted(found, key=lambda place: place.layer is None)
    return list(dict.fromkeys(place.projection for place in ordered))


def layers(found: Iterable[Place]) -> list[int | None]:
    """Layers in ascending order; what is in none of them comes last."""
    every = {place.layer for place in found}
    numbered = sorted(layer for layer in every if layer is not None)
    return [*numbered, None] if None in every else [*numbered]


def in_order(names: Iterable[str]) -> list[str]:
    """Names with layer 9 before layer 10."""
    return sorted(names, key=natural_key)


def wrapped(name: str, most: int) -> str:
    """A name in lines of at most some letters, broken before its last part and after ``.`` or ``_``."""
    head, dot, leaf = name.rpartition(".")
    lines = []
    for part in (head + dot, leaf):
        line = ""
        for piece in re.findall(r"[^._]*[._]?", part):
            if line and len(line) + len(piece) > most:
                lines.append(line)
                line = ""
            line += piece
        lines.append(line)
    return "\n".join(line for line in lines if line)
