"""Every kind of document, and reading a file without knowing its kind beforehand."""

import re
from pathlib import Path

from flashrl_registry.documents._base import Document
from flashrl_registry.documents.claims import is_claimed, is_nearly_key
from flashrl_registry.documents.evidence import Evidence
from flashrl_registry.documents.findings import describe, did_you_mean
from flashrl_registry.documents.history import History
from flashrl_registry.documents.hybrid import Hybrid
from flashrl_registry.documents.io import MAX_FILE_BYTES, parse_as, read_text, validate_parsed
from flashrl_registry.documents.lock import Lock
from flashrl_registry.documents.manifest import Manifest
from flashrl_registry.documents.plan import Plan
from flashrl_registry.documents.profile import Profile
from flashrl_registry.documents.resolved import ResolvedPlan
from flashrl_registry.documents.rules import Rules
from flashrl_registry.documents.sensitivity import Sensitivity
from flashrl_registry.documents.trusted import Trusted
from flashrl_registry.errors import Finding, SchemaError

KINDS: dict[str, type[Document]] = {
    model.KIND: model
    for model in (Profile, Rules, Plan, ResolvedPlan, Manifest, Lock, Hybrid, History, Evidence, Trusted, Sensitivity)
}
"""Document classes by the word in their ``schema_version``."""

# Words that other files have at their top too.
_COMMON_KEYS = {
    "schema_version",
    "name",
    "version",
    "files",
    "scheme",
    "environment",
    "what",
    "device",
    "text",
    "groups",
    "schemes",
    "versions",
    "method",
    "created_at",
}
_OUR_KEYS = {
    name for model in KINDS.values() for name, field in model.model_fields.items() if field.is_required()
} - _COMMON_KEYS

_CLAIM = re.compile(r"""["']?schema_version["']?\s*:\s*["']?flashrl\.([a-z-]+)/v[0-9]+""")


def claimed_kind(text: str) -> str | None:
    """The kind that a text says it is, by its looks: it need not parse. None where it claims none."""
    match = _CLAIM.search(text)
    return match[1] if match else None


def is_document(path: Path) -> bool:
    """Whether a file looks like a document, well or badly written; see :func:`is_claimed`.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return is_claimed(file.read(MAX_FILE_BYTES), _OUR_KEYS)


def read_any(path: Path) -> Document:
    """Read a document of any kind; its ``schema_version`` says which.

    Raises:
        ParseError, SchemaError, SchemaVersionError: Every fault of the file.
        IntegrityError: The content differs from the ``digest`` in the file.
    """
    text, source = read_text(path), str(path)
    claimed = claimed_kind(text) or ""
    parsed = parse_as(text, source, claimed, KINDS.get(claimed))
    given = parsed.data.get("schema_version") if isinstance(parsed.data, dict) else None
    kind = claimed_kind(f"schema_version: {given}") or ""
    if kind in KINDS:
        return validate_parsed(parsed, source, KINDS[kind])
    known = [f"flashrl.{name}/v{model.MAJOR}" for name, model in KINDS.items()]
    near = [key for key in parsed.data if is_nearly_key(key)] if isinstance(parsed.data, dict) and given is None else []
    if near and "schema_version" not in near:
        message = f"required key 'schema_version' is missing; is it '{near[0]}'?"
        raise SchemaError([Finding(source, message, *parsed.keys[(near[0],)], "schema_version", "kind")])
    if not isinstance(parsed.data, dict):
        message = f"a document is a map with a schema_version: {', '.join(known)}"
    elif given is None:
        message = f"required key 'schema_version' is missing; it is one of {', '.join(known)}"
    else:
        message = f"{describe(given)} names no document of this release" + did_you_mean(str(given), known)
    line, column = parsed.places.get(("schema_version",)) or parsed.places.get((), (1, 1))
    raise SchemaError([Finding(source, message, line, column, "schema_version", "kind")])
