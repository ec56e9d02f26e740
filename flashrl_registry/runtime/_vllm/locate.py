"""The tensors of the model that a program named: a local folder, or a Hub id in vLLM's own cache."""

from pathlib import Path
from typing import Any

from flashrl_registry.checkpoints import CheckpointIndex, read_checkpoint
from flashrl_registry.documents import Inventory
from flashrl_registry.errors import CheckpointError
from flashrl_registry.runtime.log import logger


def read_model(args: Any) -> Inventory | None:
    """Names and shapes of the engine's model, from safetensors headers.

    Args:
        args: ``vllm.EngineArgs``.

    Returns:
        The inventory; None for a model without safetensors files (dummy weights, GGUF).

    Raises:
        CheckpointError: The files are there and inconsistent.
    """
    folder = Path(args.model)
    if not folder.is_dir():
        folder = _download(args, args.model, args.revision)
    if not any(folder.glob("*.safetensors")):
        logger.info("%s has no safetensors files; the workers check the weights as they arrive", args.model)
        return None
    return read_checkpoint(folder, name=str(args.model) if not Path(args.model).is_dir() else None).inventory


def read_start_model(args: Any, model: str) -> tuple[CheckpointIndex, str, str | None]:
    """Headers of the checkpoint that a plan's engine starts with.

    Args:
        args: ``vllm.EngineArgs``.
        model: A folder, or ``owner/name[@revision]`` on the Hub.

    Returns:
        The index, and the model and its commit as every worker's loader finds the same bytes.

    Raises:
        CheckpointError: It is neither a folder nor on the Hub, or inconsistent.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return read_checkpoint(folder), str(folder.resolve()), None
    repo, _, revision = model.partition("@")
    folder = _download(args, repo, revision or None)
    return read_checkpoint(folder, name=model), repo, folder.name  # a cached snapshot's folder is its commit


def _download(args: Any, model: str, revision: str | None) -> Path:
    """Fetch what vLLM fetches itself a moment later, into the same cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(
            model,
            revision=revision,
            cache_dir=args.download_dir,
            allow_patterns=["*.json", "*.safetensors"] if args.load_format != "dummy" else ["*.json"],
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, ValueError, OSError) as exc:
        raise CheckpointError(
            f"model {model} is neither a local folder nor on the Hub: {exc}".splitlines()[0],
            hint="a plan is checked against the model's tensor names before the engine starts",
        ) from exc
    return Path(folder)
