"""Our own logger; the root logger and vLLM's are never touched."""

import logging
import os

from flashrl_registry.runtime.settings import Settings

logger = logging.getLogger("flashrl")
_RANK = "RANK"  # as torchrun and its like set it


def configure(settings: Settings) -> None:
    """Send the ``flashrl`` logger to a file or to stderr, once per process."""
    logger.setLevel(settings.logging_level)
    if logger.handlers:
        return
    handler: logging.Handler
    handler = logging.FileHandler(settings.logging_file) if settings.logging_file else logging.StreamHandler()
    logger.addHandler(handler)
    _set_format(os.environ.get(_RANK, "-"))
    logger.propagate = False


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
