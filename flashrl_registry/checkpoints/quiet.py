"""huggingface_hub without its own output: standard error belongs to the command."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_hub(*, retries: bool = True) -> Iterator[None]:
    """No progress bars inside the block.

    Args:
        retries: Keep the log line for each retry; without them, the error says it once.
    """
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, logging

    shown, verbosity = not are_progress_bars_disabled(), logging.get_verbosity()
    disable_progress_bars()
    if not retries:
        logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            enable_progress_bars()
