"""Schemas that have been released: they never change, and a list of their hashes holds that.

An additive change of a document makes a file of its own (``v1.1.json``), any other change another major
(``v2.json``), so an editor or a check that names a released schema gets the same verdicts for ever.
"""

import hashlib
import json
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from flashrl_registry.documents._base import Frozen
from flashrl_registry.documents.io import read_text, write_atomically
from flashrl_registry.errors import Finding, SchemaError

RELEASED = "released.json"
_HINT = "raise REVISION of the document for an additive change, or MAJOR for any other; see schemas/README.md"


class ReleasedSchema(Frozen):
    """One line of the list."""

    sha256: str
    """Of the file's bytes, 64 hexadecimal digits."""
    release: str
    """The first release that shipped it."""


_LIST = TypeAdapter(dict[str, ReleasedSchema])


def read_released(folder: Path) -> dict[str, ReleasedSchema]:
    """The list in a folder of schemas, by path inside it; empty where there is none.

    Raises:
        SchemaError: It is not such a list.
    """
    file = folder / RELEASED
    if not file.is_file():
        return {}
    try:
        return _LIST.validate_json(read_text(file))
    except ValidationError as exc:
        raise SchemaError([Finding(str(file), "is no list of released schemas", code="schema-released")]) from exc


def changed_since_release(folder: Path, contents: dict[str, bytes] | None = None) -> list[Finding]:
    """Released schemas whose bytes are not those that were released.

    Args:
        folder: The folder of schemas.
        contents: Bytes by path that are about to be written; None looks at the files.
    """
    findings = []
    for path, entry in read_released(folder).items():
        file = folder / path
        data = (contents or {}).get(path, file.read_bytes() if file.is_file() else None)
        if data is None:
            findings.append(Finding(str(file), f"was released in {entry.release} and is gone", code="schema-released"))
        elif hashlib.sha256(data).hexdigest() != entry.sha256:
            message = f"was released in {entry.release} and must not change"
            findings.append(Finding(str(file), message, code="schema-released"))
    return findings


def refuse_changes(folder: Path, contents: dict[str, bytes] | None = None) -> None:
    """Raise if a released schema has changed, or is about to.

    Raises:
        SchemaError: Names each of them.
    """
    if findings := changed_since_release(folder, contents):
        raise SchemaError(findings, hint=_HINT)


def add_to_released(folder: Path, paths: list[str], release: str) -> list[str]:
    """Freeze schemas; returns the paths that were not frozen before.

    Args:
        folder: The folder of schemas.
        paths: Files in it that the release ships.
        release: Its version.
    """
    entries = read_released(folder)
    added = [path for path in paths if path not in entries]
    for path in added:
        digest = hashlib.sha256((folder / path).read_bytes()).hexdigest()
        entries[path] = ReleasedSchema(sha256=digest, release=release)
    data = {path: entries[path].model_dump() for path in sorted(entries)}
    write_atomically(folder / RELEASED, (json.dumps(data, indent=2) + "\n").encode())
    return added
