"""Our own logger; the root logger and vLLM's are never touched."""

import logging
import os

from flashrl_registry.errors import RuntimeLoadError
from flashrl_registry.runtime.settings import Settings

logger = logging.getLogger("flashrl")
_RANK = "RANK"  # as torchrun and its like set it


def configure(settings: Settings) -> None:
    """Send the ``flashrl`` logger to a file or to stderr, once per process.

    Raises:
        RuntimeLoadError: The file cannot be written. Folders are not made: a name mistyped, or one that only another
            node has, would otherwise take the lines to where nobody looks.
    """
    logger.setLevel(settings.logging_level)
    if logger.handlers:
        return
    logger.addHandler(_handler(settings))
    _set_format(os.environ.get(_RANK, "-"))
    logger.propagate = False


def _handler(settings: Settings) -> logging.Handler:
    if settings.logging_file is None:
        return logging.StreamHandler()
    try:
        return logging.FileHandler(settings.logging_file)
    except OSError as exc:
        raise RuntimeLoadError(
            f"FLASHRL_LOGGING_FILE={settings.logging_file} cannot be written: {exc.strerror}",
            hint="name a file in a folder that is there, or unset the variable to log to stderr",
        ) from exc


def name_worker(rank: int) -> None:
    """Say which worker the lines of this process are from; a launcher that has said so itself knows better.

    Args:
        rank: Of a worker that vLLM started, which learns it only then.
    """
    if _RANK not in os.environ:
        _set_format(str(rank))


def _set_format(rank: str) -> None:
    form = f"%(levelname)s %(asctime)s [flashrl rank={rank} pid=%(process)d] %(message)s"
    for handler in logger.handlers:
        handler.setFormatter(logging.Formatter(form))
