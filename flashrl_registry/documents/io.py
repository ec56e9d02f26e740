"""Files to documents and back.

One path for every document: bytes -> strict YAML -> version check -> strict model, with every fault of the file
reported at once and each with ``file:line:col``.
"""

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from flashrl_registry.documents._base import Document
from flashrl_registry.documents.findings import describe, schema_findings
from flashrl_registry.documents.strict_yaml import MAX_BYTES, Parsed, parse_text
from flashrl_registry.documents.yaml_writer import dump_text
from flashrl_registry.errors import Finding, IntegrityError, ParseError, SchemaError, SchemaVersionError

D = TypeVar("D", bound=Document)

_VERSION = re.compile(r"flashrl\.([a-z-]+)/v([1-9][0-9]{0,5})")
# Machine-written documents list every tensor; a 235B mixture of experts has about 37,000.
_MACHINE_KINDS = {"profile", "resolved-plan"}
_MACHINE_CLAIM = re.compile(rb"flashrl\.(?:profile|resolved-plan)/v[0-9]")
_MACHINE_BYTES, _MACHINE_NODES = 64 << 20, 5_000_000


def read_document(path: Path, model: type[D]) -> D:
    """Read and validate one document file.

    Args:
        path: YAML or JSON file.
        model: The document class it must hold.

    Returns:
        The document; where the file carries a ``digest`` it has been checked.

    Raises:
        ParseError, SchemaError, SchemaVersionError: Every fault of the file.
        IntegrityError: The content differs from the ``digest`` in the file.
    """
    return parse_document(read_text(path), str(path), model)


def read_text(path: Path) -> str:
    """Text of a file no larger than any document may be.

    Raises:
        ParseError: It cannot be read, is not UTF-8, or is larger.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MACHINE_BYTES + 1)
    except OSError as exc:
        raise ParseError([Finding(str(path), f"cannot be read: {exc.strerror}", code="parse")]) from exc
    limit = _MACHINE_BYTES if _MACHINE_CLAIM.search(data) else MAX_BYTES  # before a decoded copy takes memory
    if len(data) > limit:
        raise ParseError([Finding(str(path), f"larger than {limit} bytes", code="parse")])
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        column = exc.start - data.rfind(b"\n", 0, exc.start)
        raise ParseError([Finding(str(path), f"not UTF-8: {exc.reason}", line, column, code="parse")]) from exc


def parse_document(text: str, source: str, model: type[D]) -> D:
    """Validate document text; see :func:`read_document`."""
    return validate_parsed(parse_as(text, source, model.KIND), source, model)


def parse_as(text: str, source: str, kind: str) -> Parsed:
    """Parse text under the limits of a kind of document; what a ``*.json`` file holds must be JSON.

    Raises:
        ParseError: Every fault of the text.
    """
    limits = {"max_bytes": _MACHINE_BYTES, "max_nodes": _MACHINE_NODES} if kind in _MACHINE_KINDS else {}
    parsed = parse_text(text, source, **limits)
    if source.endswith(".json"):
        _check_json(text, source)
    return parsed


def _check_json(text: str, source: str) -> None:
    """Refuse YAML under a name by which other programs take it for JSON: a comma too many, a word without quotes."""

    def refuse(word: str) -> None:
        raise json.JSONDecodeError(f"{word} is no value", text, text.index(word))

    try:
        json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as exc:
        message = f"not JSON, though the file's name says so: {exc.msg}"
        raise ParseError([Finding(source, message, exc.lineno, exc.colno, code="parse")]) from exc


def validate_parsed(parsed: Parsed, source: str, model: type[D]) -> D:
    """Parsed data to a document; see :func:`read_document`."""
    _check_version(parsed, source, model)
    try:
        # The JSON path is the only one that stays strict and accepts a list where a tuple is declared.
        document = model.model_validate_json(json.dumps(parsed.data))
    except ValidationError as exc:
        raise SchemaError(schema_findings(exc, parsed, source, model), hint=_newer_revision(parsed, model)) from exc
    recorded = getattr(document, "digest", None)
    if recorded is not None and recorded != (actual := document.compute_digest()):
        raise IntegrityError(
            f"{source}: the content does not match its digest: recorded {recorded}, actual {actual}",
            hint="the file was changed after it was compiled; compile it again from its rules, or restore it",
            context={"expected": recorded, "actual": actual},
        )
    return document


def claimed_version(data: Any) -> tuple[str, int] | None:
    """The kind and the major in a document's ``schema_version``; None where it has none of ours."""
    given = data.get("schema_version") if isinstance(data, dict) else None
    match = _VERSION.fullmatch(given) if isinstance(given, str) else None
    return (match[1], int(match[2])) if match else None


def _check_version(parsed: Parsed, source: str, model: type[Document]) -> None:
    wanted = f"flashrl.{model.KIND}/v{model.MAJOR}"
    if not isinstance(parsed.data, dict):
        raise SchemaError([Finding(source, f"a {model.KIND} is a map with schema_version: {wanted}", 1, 1)])
    line, column = parsed.places.get(("schema_version",), parsed.places[()])

    def finding(message: str, code: str = "schema") -> Finding:
        return Finding(source, message, line, column, "schema_version", code)

    given = parsed.data.get("schema_version")
    version = claimed_version(parsed.data)
    if "schema_version" not in parsed.data:
        raise SchemaError([finding(f"required key 'schema_version' is missing; it is {wanted}", "missing")])
    if version is None:
        raise SchemaError([finding(f"must be {wanted}, not {describe(given)}")])
    kind, major = version
    if kind != model.KIND:
        raise SchemaError([finding(f"this is a {kind}; a {model.KIND} was asked for", "kind")])
    if major > model.MAJOR:
        message = f"schema v{major} is newer than this release reads (v{model.MAJOR})"
        hint = f"pip install --upgrade flashrl-registry, to a release that reads {given}"
        raise SchemaVersionError([finding(message, "schema-version")], hint=hint)
    if major < model.MAJOR:
        message = f"schema v{major} is older than this release reads (v{model.MAJOR})"
        raise SchemaVersionError(
            [finding(message, "schema-version")], hint=f"rewrite the file with: flashrl-registry migrate {source}"
        )


def _newer_revision(parsed: Parsed, model: type[Document]) -> str | None:
    """What to do about a file whose faults may be fields of a newer release."""
    revision = parsed.data.get("schema_revision")
    if not isinstance(revision, int) or revision <= model.REVISION:
        return None
    return (
        f"the file has schema_revision {revision} and this release knows {model.REVISION}: "
        "pip install --upgrade flashrl-registry"
    )


def yaml_text(document: Document) -> str:
    """YAML for people, with the modeline that gives editors the schema."""
    header = f"# yaml-language-server: $schema={document.schema_url()}\n"
    return dump_text(document.model_dump(mode="json", exclude_none=True), header)


def write_document(document: Document, path: Path) -> None:
    """Write YAML (or JSON for ``*.json``) so that a reader sees the old file or the new one."""
    data = document.json_file() if path.suffix == ".json" else yaml_text(document).encode()
    write_atomically(path, data)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file in one step: temporary file in the same folder, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
