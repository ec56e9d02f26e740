"""JSON files of a checkpoint, which are untrusted input."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from flashrl_registry.errors import CheckpointError


def read_json(path: Path, *, unique: bool = False) -> dict[str, Any]:
    """A file that holds a JSON object; as :func:`parse_json`.

    Raises:
        CheckpointError: The file cannot be read, or holds anything else.
    """
    try:
        return parse_json(path.read_bytes(), str(path), unique=unique)
    except OSError as exc:
        raise CheckpointError(f"{path} cannot be read: {exc.strerror}") from exc


def parse_json(data: bytes, what: str, *, unique: bool = False) -> dict[str, Any]:
    """A JSON object.

    Args:
        data: Its text.
        what: What it is, for messages.
        unique: Refuse a key that is there twice; otherwise the last one counts.

    Raises:
        CheckpointError: The bytes are anything else.
    """
    try:
        parsed = json.loads(data, object_pairs_hook=_unique if unique else None)
    except _RepeatedKeyError as exc:
        raise CheckpointError(f"{what} names {str(exc)[:512]} twice", hint="it is damaged; get the file again") from exc
    except (ValueError, RecursionError) as exc:
        raise CheckpointError(f"{what} is not JSON: {exc}") from exc
    if not isinstance(parsed, dict):
        raise CheckpointError(f"{what} is not a JSON object")
    return parsed


class _RepeatedKeyError(ValueError):
    """A JSON object that has a key twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise _RepeatedKeyError(next(name for name, count in counts.items() if count > 1))
    return found
