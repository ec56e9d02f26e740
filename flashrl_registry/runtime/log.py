"""Our own logger; the root logger and vLLM's are never touched."""

import logging
import os

from flashrl_registry.runtime.settings import Settings

logger = logging.getLogger("flashrl")


def configure(settings: Settings) -> None:
    """Send the ``flashrl`` logger to a file or to stderr, once per process."""
    logger.setLevel(settings.logging_level)
    if logger.handlers:
        return
    handler: logging.Handler
    handler = logging.FileHandler(settings.logging_file) if settings.logging_file else logging.StreamHandler()
    logger.addHandler(handler)
    set_rank(os.environ.get("RANK", "-"))
    logger.propagate = False


def set_rank(rank: int | str) -> None:
    """Say which worker the lines of this process are from; vLLM's own workers learn it after they were started."""
    form = f"%(levelname)s %(asctime)s [flashrl rank={rank} pid=%(process)d] %(message)s"
    for handler in logger.handlers:
        handler.setFormatter(logging.Formatter(form))
