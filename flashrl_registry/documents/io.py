"""Files to documents and back.

One path for every document: bytes -> strict YAML -> version check -> strict model, with every fault of the file
reported at once and each with ``file:line:col``.
"""

import json
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from flashrl_registry.documents._base import EDITOR_KEY, Document
from flashrl_registry.documents.characters import json_finding
from flashrl_registry.documents.findings import describe, findings_of, schema_findings
from flashrl_registry.documents.strict_yaml import MAX_BYTES, SIZE_HINT, Parsed, parse_text
from flashrl_registry.documents.watch import FaultWatch
from flashrl_registry.documents.yaml_writer import dump_text
from flashrl_registry.errors import Finding, IntegrityError, ParseError, SchemaError, SchemaVersionError

D = TypeVar("D", bound=Document)

_VERSION = re.compile(r"flashrl\.([a-z-]+)/v([1-9][0-9]{0,5})")
# Machine-written documents list every tensor; a 235B mixture of experts has about 37,000.
_MACHINE_KINDS = {"profile", "resolved-plan"}
_MACHINE_CLAIM = re.compile(rb"flashrl\.(?:profile|resolved-plan)/v[0-9]")
MAX_FILE_BYTES = 64 << 20
"""Size that no document exceeds."""
_MACHINE_NODES = 5_000_000


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
    source = str(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for somebody to write
            what = "is a folder, not a document" if path.is_dir() else "is not a regular file"
            raise ParseError([Finding(source, what, code="parse")])
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise ParseError([Finding(source, f"cannot be read: {exc.strerror}", code="parse")]) from exc
    limit = MAX_FILE_BYTES if _MACHINE_CLAIM.search(data) else MAX_BYTES  # before a decoded copy takes memory
    if len(data) > limit:
        raise ParseError([Finding(source, f"larger than {limit} bytes", code="parse")], hint=SIZE_HINT)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as exc:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise ParseError([Finding(source, "UTF-16; documents are UTF-8", 1, 1, code="parse")]) from exc
        line = data.count(b"\n", 0, exc.start) + 1
        column = exc.start - data.rfind(b"\n", 0, exc.start)
        raise ParseError([Finding(source, f"not UTF-8: {exc.reason}", line, column, code="parse")]) from exc


def parse_document(text: str, source: str, model: type[D]) -> D:
    """Validate document text; see :func:`read_document`."""
    return validate_parsed(parse_as(text, source, model.KIND, model), source, model)


def parse_as(text: str, source: str, kind: str, model: type[Document] | None = None) -> Parsed:
    """Parse text under the limits of a kind of document; what a ``*.json`` file holds must be JSON.

    Args:
        text: The document.
        source: File name for messages.
        kind: Kind of document; one that is none has the limits of what people write.
        model: Class of the document; where given, one with very many faults is not read to its end.

    Raises:
        ParseError: Every fault of the text.
        SchemaError: The first faults of very many.
    """
    limits = {"max_bytes": MAX_FILE_BYTES, "max_nodes": _MACHINE_NODES} if kind in _MACHINE_KINDS else {}
    watch = FaultWatch(model) if model is not None and _claims(text, model) else None
    is_json = source.lower().endswith(".json")
    parsed = parse_text(text, source, stop=watch, is_json=is_json, **limits)
    if model is not None and watch is not None and watch.errors:
        findings = findings_of(watch.errors, parsed, source, model, num_more=None)
        raise SchemaError(findings, hint=_newer_revision(parsed, model))
    if is_json and isinstance(parsed.data, dict) and (finding := json_finding(text, source)):
        raise ParseError([finding])
    return parsed


def _claims(text: str, model: type[Document]) -> bool:
    return re.search(rf"flashrl\.{model.KIND}/v{model.MAJOR}(?![0-9])", text) is not None


def validate_parsed(parsed: Parsed, source: str, model: type[D]) -> D:
    """Parsed data to a document; see :func:`read_document`."""
    _check_version(parsed, source, model)
    try:
        # The JSON path is the only one that stays strict and accepts a list where a tuple is declared.
        document = model.model_validate_json(json.dumps(parsed.data))
    except ValidationError as exc:
        findings = [*_editor_key_findings(parsed, source), *schema_findings(exc, parsed, source, model)]
        raise SchemaError(findings, hint=_newer_revision(parsed, model)) from exc
    if findings := _editor_key_findings(parsed, source):
        raise SchemaError(findings)
    recorded = getattr(document, "digest", None)
    if recorded is not None and recorded != (actual := document.compute_digest()):
        line, column = parsed.places.get(("digest",), (1, 1))
        raise IntegrityError(
            f"{source}:{line}:{column}: digest: the content does not match its digest: "
            f"recorded {recorded}, actual {actual}",
            hint="the file was changed after it was compiled; compile it again from its rules, or restore it",
            context={"expected": recorded, "actual": actual, "line": line, "column": column, "pointer": "digest"},
        )
    return document


def _editor_key_findings(parsed: Parsed, source: str) -> list[Finding]:
    """The one key beyond a document's fields whose value has a type."""
    given = parsed.data.get(EDITOR_KEY, "")
    if isinstance(given, str):
        return []
    place = parsed.places[(EDITOR_KEY,)]
    return [Finding(source, f"must be a string, not {describe(given)}", *place, EDITOR_KEY, "string_type")]


def claimed_version(data: Any) -> tuple[str, int] | None:
    """The kind and the major in a document's ``schema_version``; None where it has none of ours."""
    given = data.get("schema_version") if isinstance(data, dict) else None
    match = _VERSION.fullmatch(given) if isinstance(given, str) else None
    return (match[1], int(match[2])) if match else None


def _noun(kind: str) -> str:
    """A kind of document in a sentence."""
    return "a rules document" if kind == "rules" else f"a {kind}"


def _check_version(parsed: Parsed, source: str, model: type[Document]) -> None:
    wanted = f"flashrl.{model.KIND}/v{model.MAJOR}"
    if not isinstance(parsed.data, dict):
        raise SchemaError([Finding(source, f"{_noun(model.KIND)} is a map with schema_version: {wanted}", 1, 1)])
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
        raise SchemaError([finding(f"this is {_noun(kind)}; {_noun(model.KIND)} was asked for", "kind")])
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
    with written_beside(path, data) as temporary:
        temporary.replace(path)


@contextmanager
def written_beside(path: Path, data: bytes) -> Iterator[Path]:
    """Bytes in a hidden file of the same folder, on disk; inside, it is given its name, and afterwards it is gone.

    Args:
        path: What the file is to become; its folder is made.
        data: All of it.

    Raises:
        OSError: It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        yield Path(temporary)
    except OSError as exc:
        exc.filename = str(path)  # a full disk comes without a name, and people know no temporary file
        raise
    finally:
        Path(temporary).unlink(missing_ok=True)
