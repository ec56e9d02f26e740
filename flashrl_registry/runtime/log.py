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
    rank = os.environ.get("RANK", "-")
    handler.setFormatter(
        logging.Formatter(f"%(levelname)s %(asctime)s [flashrl rank={rank} pid=%(process)d] %(message)s")
    )
    logger.addHandler(handler)
    logger.propagate = False
