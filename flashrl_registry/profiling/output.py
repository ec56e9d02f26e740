"""Where a profile goes: the document's path, and the sidecar beside it."""

import hashlib
import tempfile
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from flashrl_registry.documents import Sidecar
from flashrl_registry.errors import ProfilingError

PROFILE_YAML = "profile.yaml"
_DOCUMENTS = {".yaml", ".yml", ".json"}
_PICKLES = {".pt", ".pth"}


def document_path(output: Path) -> Path:
    """The file that a profile is written to.

    Args:
        output: ``x.yaml`` (or ``.yml``, ``.json``): that file. ``x.pt``, as FlashRL's README spells it: ``x.yaml``
            beside it; a pickle is never written. Anything else, and any folder that exists: ``profile.yaml`` in
            that folder, so names with dots such as ``Qwen2.5-0.5B`` are folders.

    Returns:
        Path of the document; nothing is created.
    """
    if output.is_dir():
        return output / PROFILE_YAML
    suffix = output.suffix.lower()
    if suffix in _DOCUMENTS:
        return output
    if suffix in _PICKLES:
        return output.with_suffix(".yaml")
    return output / PROFILE_YAML


def write_sidecar(vectors: dict[str, Tensor], folder: Path) -> Sidecar:
    """Write vectors to ``<sha256>.safetensors`` in a folder.

    The same vectors give the same bytes: safetensors orders the entries itself, and no metadata is written.

    Args:
        vectors: Key to a contiguous tensor.
        folder: Created where missing.

    Returns:
        The file's digest and size; a reader sees the whole file or none.
    """
    if (folder / "config.json").exists():
        raise ProfilingError(
            f"{folder} holds a checkpoint; its next reader would take the profile's vectors for weights",
            hint="write to a folder of its own",
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".sidecar.") as scratch:
        temporary = Path(scratch) / "vectors.safetensors"
        save_file(vectors, temporary)
        with temporary.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        sidecar = Sidecar(digest=f"sha256:{digest}", num_bytes=temporary.stat().st_size)
        temporary.chmod(0o644)
        temporary.replace(folder / sidecar.file_name)
    return sidecar
