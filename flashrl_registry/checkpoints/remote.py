"""A Hub checkpoint's headers, read through HTTP ranges: a plan for a 70B model costs a megabyte, not 140 GB.

The revision is resolved to a commit first and everything is read at that commit, so a push in between cannot mix two
checkpoints. The endpoint, the token and offline mode are huggingface_hub's own: ``HF_ENDPOINT``, ``HF_TOKEN``,
``HF_HUB_OFFLINE``.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashrl_registry.checkpoints.headers import inventory_from, read_checkpoint, read_entry
from flashrl_registry.checkpoints.json_object import parse_json
from flashrl_registry.checkpoints.quiet import quiet_hub
from flashrl_registry.checkpoints.shards import check_weight_map
from flashrl_registry.documents import Inventory, TensorSpec
from flashrl_registry.errors import (
    CheckpointError,
    CheckpointGatedError,
    CheckpointNotFoundError,
    CheckpointUnreachableError,
)

_SEGMENT = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_REMOTE = re.compile(rf"(?P<repo_id>{_SEGMENT}/{_SEGMENT})(?:@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]{{0,127}}))?")


@dataclass(frozen=True)
class RemoteCheckpoint:
    """A checkpoint on the Hub as its headers describe it.

    Attributes:
        repo_id: ``owner/name``.
        revision: The commit that everything was read at.
        config: Parsed config.json.
        inventory: Names, shapes, dtypes.
        shards: Safetensors files, in order of their names.
    """

    repo_id: str
    revision: str
    config: dict[str, Any]
    inventory: Inventory
    shards: tuple[str, ...] = ()


def read_inventory(model: str, name: str | None = None) -> Inventory:
    """Names, shapes and dtypes of a model that a user named.

    Args:
        model: A local folder, or ``owner/name[@revision]`` on the Hub. What exists as a path is a path.
        name: Name for people; the folder's own or the Hub id by default.

    Raises:
        CheckpointError: As :func:`read_checkpoint` and :func:`read_remote_checkpoint`.
    """
    remote = hub_id(model)
    if remote is None:
        return read_checkpoint(Path(model).expanduser(), name).inventory
    return read_remote_checkpoint(*remote, name=name).inventory


def hub_id(model: str) -> tuple[str, str | None] | None:
    """Repository and revision where a user's text names a model on the Hub; None where it is a folder."""
    match = _REMOTE.fullmatch(model)
    if match is None or Path(model).expanduser().exists():
        return None
    return match["repo_id"], match["revision"]


def read_remote_checkpoint(
    repo_id: str, revision: str | None = None, *, name: str | None = None, endpoint: str | None = None
) -> RemoteCheckpoint:
    """Read config.json and every safetensors header of a checkpoint on the Hub.

    Args:
        repo_id: ``owner/name``.
        revision: Branch, tag or commit; the default branch where None.
        name: Name for people; the Hub id by default.
        endpoint: Address of the Hub; ``HF_ENDPOINT`` where None.

    Returns:
        The same inventory as :func:`read_checkpoint` gives of a download; no weights are fetched.

    Raises:
        CheckpointNotFoundError: No such model or revision, or it is private.
        CheckpointGatedError: Access has to be granted first.
        CheckpointUnreachableError: Offline, or the Hub does not answer.
        CheckpointError: No safetensors, no config.json, or headers that are not understood.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint)
    what = f"{repo_id}@{revision}" if revision else repo_id
    with typed_errors(what, api.endpoint), quiet_hub():
        commit = api.model_info(repo_id, revision=revision).sha
        if commit is None:
            raise CheckpointError(f"{what}: {api.endpoint} names no commit")
        file = api.hf_hub_download(repo_id, "config.json", revision=commit)
        config = parse_json(Path(file).read_bytes(), f"{what}: config.json")
        metadata = api.get_safetensors_metadata(repo_id, revision=commit)
    specs: dict[str, TensorSpec] = {}
    files: dict[str, str] = {}
    for shard in sorted(metadata.files_metadata):
        for tensor, info in metadata.files_metadata[shard].tensors.items():
            if tensor in specs:
                raise CheckpointError(f"{what}: {tensor} is in two files: {files[tensor]} and {shard}")
            entry = {"dtype": info.dtype, "shape": info.shape, "data_offsets": info.data_offsets}
            specs[tensor], files[tensor] = read_entry(f"{what}/{shard}", tensor, entry)[0], shard
    check_weight_map(metadata.weight_map, files, what)
    inventory = inventory_from(name or repo_id, config, specs.values(), f"{what}: config.json")
    return RemoteCheckpoint(repo_id, commit, config, inventory, tuple(sorted(metadata.files_metadata)))


@contextmanager
def typed_errors(what: str, endpoint: str) -> Iterator[None]:
    """huggingface_hub's errors in our words; its HTTP client's errors have one base class with its own."""
    from huggingface_hub import errors

    context = {"model": what, "endpoint": endpoint}
    try:
        yield
    except errors.GatedRepoError as exc:  # a subclass of the next
        hint = f"ask for access at {endpoint}/{what.partition('@')[0]}, then: hf auth login"
        raise CheckpointGatedError(f"{what} is gated on {endpoint}", hint=hint, context=context) from exc
    except errors.RepositoryNotFoundError as exc:
        hint = "check the spelling; for a private model: hf auth login; for a folder: give a path that exists"
        message = f"{what} is neither a folder here nor a model on {endpoint} that you may read"
        raise CheckpointNotFoundError(message, hint=hint, context=context) from exc
    except errors.RevisionNotFoundError as exc:
        raise CheckpointNotFoundError(f"{what}: no such revision on {endpoint}", context=context) from exc
    except errors.NotASafetensorsRepoError as exc:
        message = f"{what} has neither model.safetensors nor model.safetensors.index.json"
        raise CheckpointError(message, hint="convert the checkpoint to safetensors", context=context) from exc
    except errors.SafetensorsParsingError as exc:
        raise CheckpointError(f"{what}: {exc}", context=context) from exc
    except errors.OfflineModeIsEnabled as exc:
        hint = "unset HF_HUB_OFFLINE, or download the model and give its folder"
        raise CheckpointUnreachableError(f"{what} is not a folder here, and the Hub is offline",
                                         hint=hint, context=context) from exc  # fmt: skip
    except errors.EntryNotFoundError as exc:
        if isinstance(exc, errors.LocalEntryNotFoundError):  # the file was not cached, and the request failed
            raise _unreachable(what, endpoint, exc, context) from exc
        raise CheckpointError(f"{what} has no config.json", context=context) from exc
    except (errors.HTTPError, OSError) as exc:
        raise _unreachable(what, endpoint, exc, context) from exc
    except (ValueError, AttributeError, TypeError, RecursionError) as exc:  # how huggingface_hub trips over bad files
        message = f"{what}: its index or a header is not understood: {exc}"
        raise CheckpointError(message, context=context) from exc


def _unreachable(what: str, endpoint: str, exc: Exception, context: dict[str, str]) -> CheckpointUnreachableError:
    response = getattr(exc, "response", None)
    why = f"answers {response.status_code}" if response is not None else f"cannot be reached: {exc}"
    hint = "try again, or download the model and give its folder"
    return CheckpointUnreachableError(f"{what}: {endpoint} {why}", hint=hint, context=context)
