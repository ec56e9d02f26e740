"""Folders that travel with the package: in a wheel under ``_bundled``, in a checkout at its top."""

from pathlib import Path
from typing import Literal

from flashrl_registry.errors import NotFoundError


def bundled(kind: Literal["schemas", "profiles"]) -> Path:
    """The folder of committed schemas or of curated profiles.

    Raises:
        NotFoundError: The installation is incomplete.
    """
    package = Path(__file__).resolve().parents[1]
    candidates = (package / "_bundled" / kind, package.parent / kind)
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise NotFoundError(
        f"this installation has no {kind}: searched {' and '.join(str(folder) for folder in candidates)}",
        hint="install flashrl-registry again",
    )
