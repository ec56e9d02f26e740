"""Files of an older schema major to files of the one that this release reads."""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flashrl_registry.documents._base import Document
from flashrl_registry.documents.io import (
    claimed_version,
    parse_as,
    parse_document,
    read_text,
    validate_parsed,
    write_atomically,
    yaml_text,
)
from flashrl_registry.documents.kinds import KINDS, claimed_kind, read_any
from flashrl_registry.documents.migrations import STEPS, Step, migrate
from flashrl_registry.errors import Finding, IntegrityError, SchemaVersionError

_MODELINE = "# yaml-language-server:"
_COMMENT = re.compile(r"(^|\s)#")


@dataclass(frozen=True)
class Migration:
    """One file, before anything is written.

    Attributes:
        path: The file.
        kind: Its kind of document.
        from_major: The major that it has.
        to_major: The major that this release reads.
        steps: What has to be done; empty where nothing has.
        old_digest: The digest that it carries, or None.
        new_digest: The digest that it will carry, or None.
        loses_comments: It seems to have comments that the rewritten file will not have.
        content: What it will hold; None where nothing has to be done.
    """

    path: Path
    kind: str
    from_major: int
    to_major: int
    steps: tuple[Step, ...] = ()
    old_digest: str | None = None
    new_digest: str | None = None
    loses_comments: bool = False
    content: bytes | None = None


def plan_migration(
    path: Path, models: Mapping[str, type[Document]] = KINDS, steps: Sequence[Step] = STEPS
) -> Migration:
    """Work out what a file becomes; writes nothing.

    Args:
        path: A YAML or JSON document.
        models: Kinds and the classes that read them.
        steps: The table of steps.

    Raises:
        DocumentError: The file is no document, of a newer major, of one that no step takes, or not valid.
        IntegrityError: It is part of a published version, or its content differs from its digest.
    """
    text, source = read_text(path), str(path)
    kind = claimed_kind(text) or ""
    parsed = parse_as(text, source, kind, models.get(kind))
    found = claimed_version(parsed.data)
    if found is None or found[0] not in models:
        document = read_any(path)  # says what is wrong with it
        return Migration(path, document.KIND, document.MAJOR, document.MAJOR)
    kind, major = found
    model = models[kind]
    if major >= model.MAJOR:
        validate_parsed(parsed, source, model)
        return Migration(path, kind, major, model.MAJOR)
    _check_not_published(path)
    if missing := set(range(major, model.MAJOR)) - {step.from_major for step in steps if step.kind == kind}:
        message = f"no release migrates {kind} v{min(missing)}"
        raise SchemaVersionError([Finding(source, message, *parsed.places[()], "schema_version", "schema-version")])
    data, done = migrate(parsed.data, kind, major=major, target=model.MAJOR, steps=steps)
    document = parse_document(json.dumps(data), f"{source}, migrated to v{model.MAJOR}", model)
    old = parsed.data.get("digest")
    if old is not None:
        document = document.sealed()
    new = document.compute_digest() if old is not None else None
    if path.suffix == ".json":
        return Migration(path, kind, major, model.MAJOR, done, old, new, content=document.json_file())
    rewritten, lost = _rewritten(text, document)
    return Migration(path, kind, major, model.MAJOR, done, old, new, lost, rewritten.encode())


def write_migration(migration: Migration) -> None:
    """Replace the file in one step, where there is anything to do."""
    if migration.content is not None:
        write_atomically(migration.path, migration.content)


def _check_not_published(path: Path) -> None:
    if (path.parent / "manifest.json").is_file():
        raise IntegrityError(
            f"{path} is part of a published version, which never changes",
            hint="pull the plan into a folder, migrate it there and publish it as a new version",
        )


def _leading_comments(lines: list[str]) -> list[str]:
    """What stands before the first value, such as a licence; the modeline is written anew."""
    return list(itertools.takewhile(lambda line: line.startswith("#"), (li for li in lines if _MODELINE not in li)))


def _rewritten(text: str, document: Document) -> tuple[str, bool]:
    """YAML with the comments at the top of the old text, and whether others may be lost."""
    lines = text.replace("\r\n", "\n").split("\n")
    head = _leading_comments(lines)
    num_comments = sum(1 for line in lines if _COMMENT.search(line) and _MODELINE not in line)
    modeline, _, body = yaml_text(document).partition("\n")
    return "\n".join([modeline, *head, body]), num_comments > len(head)
