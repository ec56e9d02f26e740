"""FlashRL's rule for where a file is: a local path, or ``owner/repo/path/in/repo`` on the Hugging Face Hub."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from flashrl_registry.checkpoints.quiet import quiet_hub
from flashrl_registry.errors import InteropError, StoreUnavailableError

Fetch = Callable[[str, str], Path]
"""Called with a Hub repository and a file's path in it; returns the local copy."""


_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}")


def locate(text: str, folders: Sequence[Path] = (), *, fetch: Fetch | None = None) -> Path:
    """Find a file as FlashRL does.

    Args:
        text: As it stands in a config or in FLASHRL_CONFIG.
        folders: Where relative paths are looked for after the working directory.
        fetch: Gets a file from the Hub; the Hub's client by default.

    Raises:
        InteropError: No such local file, and not the form of a place on the Hub; or its first folder is here, so that
            a local file was meant.
        StoreUnavailableError: The Hub cannot be reached, or has no such file.
    """
    path = Path(text.strip()).expanduser()
    for candidate in (path, *(folder / path for folder in folders)):
        if candidate.exists():
            return candidate
    parts = text.strip().split("/")
    if len(parts) < 3 or not all(map(_REPO.fullmatch, parts[:2])) or {"", ".", ".."} & set(parts[2:]):
        looked = ", ".join(dict.fromkeys(str(folder) for folder in (Path(), *folders)))
        raise InteropError(
            f"no file {text.strip()} in {looked}",
            hint="give a path, or owner/repo/path/in/repo for a file on the Hub; --profile names another profile",
        )
    repo, file = "/".join(parts[:2]), "/".join(parts[2:])
    here = next((folder / parts[0] for folder in (Path(), *folders) if (folder / parts[0]).exists()), None)
    if here is not None:
        raise InteropError(
            f"no such file: {text.strip()}",
            hint=f"{here} is here, so the Hub was not asked; if {file} of {repo} on the Hub is meant, "
            "download it and give its path",
        )
    return (fetch or _from_hub)(repo, file)


def _from_hub(repo: str, file: str) -> Path:
    from huggingface_hub import HfApi, hf_hub_download, is_offline_mode
    from huggingface_hub.errors import HFValidationError, HTTPError, LocalEntryNotFoundError

    try:
        with quiet_hub(retries=False):
            path = Path(hf_hub_download(repo_id=repo, filename=file))
            # The client answers from its cache when the Hub fails, and does not say so; what main is now does.
            head = None if is_offline_mode() else HfApi().model_info(repo).sha
        if head is not None and head not in path.parts:
            raise StoreUnavailableError(
                f"{file} of {repo} cannot be had from the Hub: it did not give {head[:12]}, and an older one is cached",
                hint="try again, or set HF_HUB_OFFLINE=1 to take the cached one",
                context={"repo": repo, "file": file},
            )
    except (HTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as exc:
        raise StoreUnavailableError(
            f"{file} of {repo} cannot be had from the Hub: {str(exc).splitlines()[0]}",
            hint="download it yourself and give its path",
            context={"repo": repo, "file": file},
        ) from exc
    return path
