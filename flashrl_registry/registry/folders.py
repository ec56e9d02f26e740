"""Names as folders: none leaves the root, and none means another one on some file system."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from flashrl_registry.errors import IntegrityError, InvalidRefError, StoreUnavailableError
from flashrl_registry.registry.ref import is_name, is_version, masked

MANIFEST_JSON, HISTORY_JSON = "manifest.json", "history.json"
INDEX = ".index.sqlite"

# Windows takes these for devices, whatever follows a dot.
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
_MORE_THAN_A_VERSION = re.compile(r"([0-9.]+)[-+][0-9A-Za-z.+-]+")


def check_name(name: str, version: str = "0.0.0") -> None:
    """Refuse what is not ``namespace/name`` and a version.

    Raises:
        InvalidRefError: Malformed.
    """
    if not is_name(name):
        raise InvalidRefError(
            f"'{masked(name)}' is not a plan name",
            hint="write namespace/name: letters, digits, '.', '_' and '-', each starting with a letter or digit",
            context={"ref": masked(name)},
        )
    check_version(version, name)


def check_version(version: str, name: str) -> None:
    """Refuse what is no version of a plan.

    Raises:
        InvalidRefError: Malformed, or a pre-release.
    """
    if is_version(version):
        return
    what, hint = f"'{version}' is not a version", "write three numbers, such as 1.0.0"
    plain = _MORE_THAN_A_VERSION.fullmatch(version)
    if plain is not None and is_version(plain[1]):
        what += ": it is a pre-release or a build, and plans have neither"
        hint = f"write {plain[1]}, and let a channel such as 'candidate' point at it until it is proven"
    raise InvalidRefError(what, hint=hint, context={"ref": name, "version": version})


def refuse_links(root: Path, parts: Sequence[str], name: str) -> None:
    """Refuse a link in the way of a name, which would lead out of the root.

    Raises:
        IntegrityError: There is one.
    """
    folder = root
    for part in parts:
        folder /= part
        if folder.is_symlink():
            raise IntegrityError(
                f"{folder} is a link, and a registry holds its plans itself",
                hint="replace the link by what it leads to",
                context={"ref": name},
            )


def version_folder(root: Path, name: str, version: str) -> Path:
    """Where a version lies.

    Raises:
        InvalidRefError: The name or the version is malformed.
        IntegrityError: A link is in the way, which would lead out of the root.
    """
    check_name(name, version)
    refuse_links(root, [*name.split("/"), version], name)
    return root / name / version


def check_new_name(root: Path, name: str) -> None:
    """Refuse a name that one of the file systems a registry is copied to could not hold beside what is there.

    Raises:
        InvalidRefError: A device of Windows, or a name that differs from another in upper and lower case only.
    """
    check_new_name_among(name, lambda above: folder_names(root / above))


def check_new_name_among(name: str, names_in: Callable[[str], Iterable[str]]) -> None:
    """The same, for a store of any kind.

    Args:
        name: ``namespace/name``.
        names_in: Names in a namespace; the namespaces for the empty one.
    """
    above = ""
    for part in name.split("/"):
        if part.split(".")[0].lower() in _RESERVED or part.endswith("."):
            raise InvalidRefError(f"'{part}' cannot be a folder on every system", hint="choose another name")
        for other in names_in(above):
            if other != part and other.casefold() == part.casefold():
                raise _same(name, f"{above}/{other}" if above else other)
        above = part


def _same(name: str, other: str) -> InvalidRefError:
    return InvalidRefError(
        f"'{name}' differs from {other} in upper and lower case only",
        hint="some file systems take them for one; choose another name",
        context={"ref": name, "nearest": [other]},
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
