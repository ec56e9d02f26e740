"""Names as folders: none leaves the root, and none means another one on some file system."""

import os
from pathlib import Path

from flashrl_registry.errors import IntegrityError, InvalidRefError, StoreUnavailableError
from flashrl_registry.registry.ref import is_name, is_version

MANIFEST_JSON, HISTORY_JSON = "manifest.json", "history.json"
INDEX = ".index.sqlite"

# Windows takes these for devices, whatever follows a dot.
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


def check_name(name: str, version: str = "0.0.0") -> None:
    """Refuse what is not ``namespace/name`` and a version.

    Raises:
        InvalidRefError: Malformed.
    """
    if not is_name(name):
        raise InvalidRefError(
            f"'{name}' is not a plan name",
            hint="write namespace/name: letters, digits, '.', '_' and '-', each starting with a letter or digit",
            context={"ref": name},
        )
    if not is_version(version):
        raise InvalidRefError(
            f"'{version}' is not a version", hint="write a semantic version such as 1.0.0", context={"ref": name}
        )


def version_folder(root: Path, name: str, version: str) -> Path:
    """Where a version lies.

    Raises:
        InvalidRefError: The name or the version is malformed.
        IntegrityError: A link is in the way, which would lead out of the root.
    """
    check_name(name, version)
    folder = root / name / version
    for part in (folder.parent.parent, folder.parent, folder):
        if part.is_symlink():
            raise IntegrityError(
                f"{part} is a link, and a registry holds its plans itself",
                hint="replace the link by what it leads to",
                context={"ref": name},
            )
    return folder


def check_new_name(root: Path, name: str) -> None:
    """Refuse a name that one of the file systems a registry is copied to could not hold beside what is there.

    Raises:
        InvalidRefError: A device of Windows, or a name that differs from another in upper and lower case only.
    """
    above = root
    for part in name.split("/"):
        if part.split(".")[0].lower() in _RESERVED or part.endswith("."):
            raise InvalidRefError(f"'{part}' cannot be a folder on every system", hint="choose another name")
        for entry in entries(above):
            if entry.name != part and entry.name.casefold() == part.casefold():
                raise _same(root, name, entry)
        above /= part


def _same(root: Path, name: str, entry: Path) -> InvalidRefError:
    other = entry.relative_to(root)
    return InvalidRefError(
        f"'{name}' differs from {other} in upper and lower case only",
        hint="some file systems take them for one; choose another name",
        context={"ref": name, "nearest": [str(other)]},
    )


def folder_names(folder: Path) -> list[str]:
    """Names of the sub-folders without a leading dot, in order; none where the folder is missing.

    Raises:
        StoreUnavailableError: It cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            return sorted(entry.name for entry in found if not entry.name.startswith(".") and entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as exc:
        raise StoreUnavailableError(f"{folder} cannot be read: {exc.strerror}", context={"store": str(folder)}) from exc


def entries(folder: Path) -> list[Path]:
    """The same sub-folders' paths.

    Raises:
        StoreUnavailableError: It cannot be read.
    """
    return [folder / name for name in folder_names(folder)]
