"""A profile of ours where a FlashRL config names one: ``flashrl profile -o profile.pt`` writes ``profile.yaml``."""

from collections.abc import Sequence
from pathlib import Path

from flashrl_registry.documents import Profile, claimed_kind
from flashrl_registry.documents.io import read_text
from flashrl_registry.registry.plan_folders import PROFILE_YAML

_DOCUMENTS = (".yaml", ".yml", ".json")


def own_profile(text: str, folders: Sequence[Path] = ()) -> Path | None:
    """The Profile document that a place on this machine leads to; None where it leads to something else.

    Args:
        text: The document, a folder that holds ``profile.yaml``, or the ``x.pt`` that a profile run was asked for,
            beside which ``x.yaml`` was written.
        folders: Where relative paths are looked for after the working directory.
    """
    path = Path(text.strip()).expanduser()
    for candidate in (path, *(folder / path for folder in folders)):
        file = candidate / PROFILE_YAML if candidate.is_dir() else candidate
        if file.suffix in {".pt", ".pth"} and not file.exists():
            file = file.with_suffix(".yaml")
        if file.suffix.lower() in _DOCUMENTS and file.is_file() and claimed_kind(read_text(file)) == Profile.KIND:
            return file
        if candidate.exists():
            return None
    return None
