"""Documents among other files: what ``validate`` and ``migrate`` find in a folder.

A check that leaves a file out must say so: a folder or a file that cannot be read is an error, and files that are not
ours are counted.
"""

import errno
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from flashrl_registry.documents import is_document
from flashrl_registry.errors import FlashRLError, NotFoundError, StoreUnavailableError

_SUFFIXES = {".yaml", ".yml", ".json"}
_HINT = "a document is a .yaml, .yml or .json file with a schema_version such as flashrl.plan/v1"


@dataclass
class Found:
    """What is to be read.

    Attributes:
        files: Documents, those that cannot be read included, and whether a folder was searched for them; in order.
        errors: By path: folders without any document, and what cannot be searched.
        others: Files with a document's extension that are somebody else's.
    """

    files: dict[Path, bool] = field(default_factory=dict)
    errors: dict[Path, FlashRLError] = field(default_factory=dict)
    others: list[Path] = field(default_factory=list)


def find_documents(paths: Iterable[Path]) -> Found:
    """Look for documents.

    Args:
        paths: Files, which must be documents; and folders, in which files that look like nothing of ours are somebody
            else's. Hidden files are left alone; links to folders are not followed.
    """
    found = Found()
    for path in paths:
        if _is_folder(path):
            _search(path, found)
        else:
            found.files[path] = False
    return found


def _search(folder: Path, found: Found) -> None:
    """Every document under a folder.

    None is an error: a check that looked at nothing must not pass.
    """
    before = len(found.files) + len(found.errors)

    def unreadable(exc: OSError) -> None:
        error = StoreUnavailableError(f"{exc.filename} cannot be searched: {exc.strerror}")
        found.errors[Path(exc.filename)] = error

    entries = []
    for place, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        entries += [Path(place, name) for name in names if not name.startswith(".")]
    for file in sorted(entries):
        if file.suffix.lower() not in _SUFFIXES and not _is_loop(file):
            continue
        if _is_ours(file):
            found.files[file] = True
        else:
            found.others.append(file)
    if len(found.files) + len(found.errors) == before:
        message = f"no documents found in {folder}"
        found.errors[folder] = NotFoundError(message, hint=_HINT, context={"folder": str(folder)})


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a folder above it may not be looked into; reading the file will say so
        return False


def _is_loop(file: Path) -> bool:
    """A link that leads to itself: nobody can tell what it was to be, so it is read as a document and refused."""
    if not file.is_symlink():
        return False
    try:
        file.stat()
    except OSError as exc:
        return exc.errno == errno.ELOOP
    return False


def _is_ours(file: Path) -> bool:
    """Whether a file has to be read as a document; what cannot be looked at has to, so that reading says why."""
    try:
        return not stat.S_ISREG(file.stat().st_mode) or is_document(file)
    except OSError:
        return True
