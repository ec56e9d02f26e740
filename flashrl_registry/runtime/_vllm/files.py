"""Whether a checkpoint's files stayed as they were while they were read.

Tensors of a safetensors file are memory-mapped: a file that is written over while an update reads it changes tensors
that were looked at already, and an update would be a mixture of two checkpoints.
"""

from collections.abc import Callable
from pathlib import Path

from flashrl_registry.errors import RuntimeLoadError

_WEIGHTS = {".safetensors", ".bin", ".pt"}
_SHOWN = 3


def unchanged_files(model: str) -> Callable[[], None]:
    """Take note of the files of weights in a folder.

    Args:
        model: A folder; anything else is a name on a Hub, whose files are not written over.

    Returns:
        Raises :class:`RuntimeLoadError` once one of them is another file, has another size, or was written to.
    """
    folder = Path(model)
    before = _stamps(folder)

    def check() -> None:
        now = _stamps(folder)
        changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
        if changed:
            raise RuntimeLoadError(
                f"files of {folder} changed while they were read: {', '.join(changed[:_SHOWN])}"
                + (" ..." if len(changed) > _SHOWN else ""),
                hint="write a checkpoint to a folder of its own, or rename it into place, and load it then",
            )

    return check


def _stamps(folder: Path) -> dict[str, tuple[int, int, int]]:
    if not folder.is_dir():
        return {}
    stamps = {}
    for file in folder.iterdir():
        if file.suffix in _WEIGHTS and file.is_file():
            stat = file.stat()
            stamps[file.name] = stat.st_ino, stat.st_size, stat.st_mtime_ns
    return stamps
