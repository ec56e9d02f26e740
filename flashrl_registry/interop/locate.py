"""FlashRL's rule for where a file is: a local path, or ``owner/repo/path/in/repo`` on the Hugging Face Hub."""

from collections.abc import Callable, Sequence
from pathlib import Path

from flashrl_registry.errors import InteropError, StoreUnavailableError

Fetch = Callable[[str, str], Path]
"""Called with a Hub repository and a file's path in it; returns the local copy."""


def locate(text: str, folders: Sequence[Path] = (), *, fetch: Fetch | None = None) -> Path:
    """Find a file as FlashRL does.

    Args:
        text: As it stands in a config or in FLASHRL_CONFIG.
        folders: Where relative paths are looked for after the working directory.
        fetch: Gets a file from the Hub; the Hub's client by default.

    Raises:
        InteropError: No such local file, and not the form of a place on the Hub.
        StoreUnavailableError: The Hub cannot be reached, or has no such file.
    """
    path = Path(text.strip()).expanduser()
    for candidate in (path, *(folder / path for folder in folders)):
        if candidate.exists():
            return candidate
    parts = text.strip().split("/")
    if len(parts) < 3 or text.strip().startswith(("/", ".", "~")) or not all(parts):
        looked = ", ".join(str(folder) for folder in (Path(), *folders))
        raise InteropError(
            f"no file {text.strip()} in {looked}",
            hint="give a path, or owner/repo/path/in/repo for a file on the Hub; --profile names another profile",
        )
    return (fetch or _from_hub)("/".join(parts[:2]), "/".join(parts[2:]))


def _from_hub(repo: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo_id=repo, filename=file))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as exc:
        raise StoreUnavailableError(
            f"{file} of {repo} cannot be had from the Hub: {str(exc).splitlines()[0]}",
            hint="download it yourself and give its path",
            context={"repo": repo, "file": file},
        ) from exc
