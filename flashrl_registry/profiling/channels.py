"""Which rows of one linear may feed which columns of another: identity, halves of a fused weight, repeated heads."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flashrl_registry.documents.profile import ChannelMap
from flashrl_registry.profiling.linear import Linear


@dataclass(frozen=True)
class Heads:
    """Attention heads of a model.

    Attributes:
        num: Query heads.
        num_shared: Heads of keys and values.
        size: Channels of a head.
    """

    num: int
    num_shared: int
    size: int


def read_heads(config: dict[str, Any]) -> Heads | None:
    """Attention heads as config.json counts them; None where it does not."""
    text = config.get("text_config")
    source = text if isinstance(text, dict) else config
    num, shared = source.get("num_attention_heads"), source.get("num_key_value_heads")
    size = source.get("head_dim")
    if size is None and isinstance(num, int) and num > 0 and isinstance(source.get("hidden_size"), int):
        size = source["hidden_size"] // num
    shared = num if shared is None else shared
    if not (isinstance(num, int) and isinstance(shared, int) and isinstance(size, int)):
        return None
    if min(num, shared, size) < 1 or num % shared:
        return None
    return Heads(num, shared, size)


def channel_maps(source: Linear, target: Linear, heads: Heads | None) -> Iterator[ChannelMap | None]:
    """Ways in which the rows of one linear can feed the columns of another; None is one to one."""
    rows, columns, parts = source.part_rows, target.num_columns, source.num_parts
    if parts != target.num_parts:
        return
    if rows == columns:
        yield None if parts == 1 else ChannelMap(start=0, num_rows=columns, num_parts=parts)
    if rows == 2 * columns:
        yield ChannelMap(start=columns, num_rows=columns, num_parts=parts)
        yield ChannelMap(start=0, num_rows=columns, num_parts=parts)
    if heads is None or parts != 1 or columns != heads.num * heads.size:
        return
    values, repeats = heads.num_shared * heads.size, heads.num // heads.num_shared
    size = heads.size if repeats > 1 else None
    if rows == values and repeats > 1:
        yield ChannelMap(start=0, num_rows=values, repeats=repeats, head_size=size)
    if rows == columns + 2 * values:
        yield ChannelMap(start=columns + values, num_rows=values, repeats=repeats, head_size=size)


def mapped(vector_O: NDArray[Any], channels: ChannelMap | None) -> NDArray[Any]:
    """A source's values as its targets' columns see them: shape (E, I)."""
    if channels is None:
        return vector_O.reshape(1, -1)
    parts = channels.num_parts
    rows = vector_O.reshape(parts, -1)[:, channels.start : channels.start + channels.num_rows]
    if channels.repeats > 1 and channels.head_size:
        heads = rows.reshape(parts, -1, channels.head_size)
        rows = np.repeat(heads, channels.repeats, axis=1).reshape(parts, -1)
    return np.ascontiguousarray(rows)


def feeding_rows(num_rows: int, channels: ChannelMap | None) -> NDArray[np.bool_]:
    """Which rows of a source feed its targets."""
    feeds: NDArray[np.bool_] = np.ones(num_rows, np.bool_)
    if channels is not None:
        by_part = feeds.reshape(channels.num_parts, -1)
        by_part[:, : channels.start] = False
        by_part[:, channels.start + channels.num_rows :] = False
    return feeds
