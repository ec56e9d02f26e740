"""Files to documents and back.

One path for every document: bytes -> strict YAML -> version check -> strict model, with every fault of the file
reported at once and each with ``file:line:col``.
"""

import difflib
import json
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from flashrl_registry.documents._base import Document
from flashrl_registry.documents.strict_yaml import Parsed, parse_text, pointer_text
from flashrl_registry.documents.strict_yaml import Path as KeyPath
from flashrl_registry.documents.yaml_writer import dump_text
from flashrl_registry.errors import Finding, IntegrityError, ParseError, SchemaError, SchemaVersionError

D = TypeVar("D", bound=Document)

_VERSION = re.compile(r"flashrl\.([a-z-]+)/v([1-9][0-9]*)")
# Machine-written documents list every tensor; a 235B mixture of experts has about 37,000.
_MACHINE_KINDS = {"profile", "resolved-plan"}
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
    if len(data) > _MACHINE_BYTES:
        raise ParseError([Finding(str(path), f"larger than {_MACHINE_BYTES} bytes", code="parse")])
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
    """Parse text under the limits of a kind of document.

    Raises:
        ParseError: Every fault of the text.
    """
    if kind in _MACHINE_KINDS:
        return parse_text(text, source, max_bytes=_MACHINE_BYTES, max_nodes=_MACHINE_NODES)
    return parse_text(text, source)


def validate_parsed(parsed: Parsed, source: str, model: type[D]) -> D:
    """Parsed data to a document; see :func:`read_document`."""
    _check_version(parsed, source, model)
    try:
        # The JSON path is the only one that stays strict and accepts a list where a tuple is declared.
        document = model.model_validate_json(json.dumps(parsed.data))
    except ValidationError as exc:
        raise SchemaError(_findings(exc, parsed, source, model)) from exc
    recorded = getattr(document, "digest", None)
    if recorded is not None and recorded != (actual := document.compute_digest()):
        raise IntegrityError(
            f"{source}: the content does not match its digest: recorded {recorded}, actual {actual}",
            hint="the file was changed after it was compiled; compile it again from its rules, or restore it",
            context={"expected": recorded, "actual": actual},
        )
    return document


def _check_version(parsed: Parsed, source: str, model: type[Document]) -> None:
    wanted = f"flashrl.{model.KIND}/v{model.MAJOR}"
    if not isinstance(parsed.data, dict):
        raise SchemaError([Finding(source, f"a {model.KIND} is a map with schema_version: {wanted}", 1, 1)])
    given = parsed.data.get("schema_version")
    line, column = parsed.places.get(("schema_version",), (1, 1))
    match = _VERSION.fullmatch(given) if isinstance(given, str) else None
    if match is None:
        raise SchemaError([Finding(source, f"must be {wanted}, not {given!r}", line, column, "schema_version")])
    kind, major = match[1], int(match[2])
    if kind != model.KIND:
        raise SchemaError([Finding(source, f"this is a {kind}; a {model.KIND} was asked for", line, column)])
    if major > model.MAJOR:
        message = f"schema v{major} is newer than this release reads (v{model.MAJOR})"
        finding = Finding(source, message, line, column, "schema_version", "schema-version")
        raise SchemaVersionError([finding], hint="upgrade flashrl-registry to the release that wrote the file")


def _findings(exc: ValidationError, parsed: Parsed, source: str, model: type[BaseModel]) -> list[Finding]:
    findings = []
    for error in exc.errors(include_url=False, include_context=False):
        path = _data_path(error["loc"], parsed.data)
        message = error["msg"]
        place = parsed.places.get(path)
        if error["type"] == "extra_forbidden":
            place = parsed.keys.get(path, place)
            message = "unknown key" + _did_you_mean(str(path[-1]), _field_names(model, path[:-1]))
        elif error["type"] == "missing":
            place = parsed.places.get(path[:-1], (1, 1))
            message = f"required key '{path[-1]}' is missing"
        elif error["type"] == "literal_error":
            message += _did_you_mean(str(error["input"]), re.findall(r"'([^']+)'", error["msg"]))
        while place is None and path:
            path = path[:-1]
            place = parsed.places.get(path)
        line, column = place or (1, 1)
        findings.append(Finding(source, message, line, column, pointer_text(path), error["type"]))
    return findings


def _data_path(loc: Iterable[str | int], data: Any) -> KeyPath:
    """Drop the union tags that pydantic puts into ``loc`` and that the data does not have."""
    path: list[str | int] = []
    here = data
    items = list(loc)
    for index, part in enumerate(items):
        if isinstance(here, dict):
            if part not in here and index + 1 < len(items) and items[index + 1] in here:
                continue
            path.append(part)
            here = here.get(part)
        elif isinstance(here, list):
            path.append(part)
            here = here[part] if isinstance(part, int) and part < len(here) else None
        else:
            break
    return tuple(path)


def _field_names(model: type[BaseModel], path: KeyPath) -> list[str]:
    """Names that are valid where ``path`` points, following nested models, lists and unions."""
    models = [model]
    for part in path:
        if isinstance(part, int):
            continue
        found: list[type[BaseModel]] = []
        for candidate in models:
            info = candidate.model_fields.get(part)
            if info is not None:
                found += _models_in(info.annotation)
        models = found
    return [name for candidate in models for name in candidate.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for arg in get_args(annotation) for model in _models_in(arg)]


def _did_you_mean(given: str, valid: list[str]) -> str:
    near = difflib.get_close_matches(given, valid, n=1)
    return f"; did you mean '{near[0]}'?" if near else (f"; valid: {', '.join(sorted(set(valid)))}" if valid else "")


def yaml_text(document: Document) -> str:
    """YAML for people, with the modeline that gives editors the schema."""
    header = f"# yaml-language-server: $schema={document.schema_url()}\n"
    return dump_text(document.model_dump(mode="json", exclude_none=True), header)


def write_document(document: Document, path: Path) -> None:
    """Write YAML (or canonical JSON for ``*.json``) so that a reader sees the old file or the new one."""
    data = document.canonical_json() if path.suffix == ".json" else yaml_text(document).encode()
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
