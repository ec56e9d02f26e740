"""Documents among other files: what ``validate`` and ``migrate`` find in a folder."""

from collections.abc import Iterator
from pathlib import Path

from flashrl_registry.documents import claimed_kind
from flashrl_registry.documents.io import read_text
from flashrl_registry.errors import DocumentError, NotFoundError

_SUFFIXES = {".yaml", ".yml", ".json"}


def documents_in(folder: Path) -> list[Path]:
    """Every file under a folder that claims a ``schema_version`` of ours; the others are somebody else's.

    Raises:
        NotFoundError: There is none: a check that looked at nothing must not pass.
    """
    found = list(_search(folder))
    if not found:
        raise NotFoundError(
            f"no documents found in {folder}",
            hint="a document is a .yaml, .yml or .json file with a schema_version such as flashrl.plan/v1",
            context={"folder": str(folder)},
        )
    return found


def _search(folder: Path) -> Iterator[Path]:
    for file in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if file.suffix in _SUFFIXES and not hidden and file.is_file() and _is_ours(file):
            yield file


def _is_ours(file: Path) -> bool:
    try:
        return claimed_kind(read_text(file)) is not None
    except DocumentError:
        return False
