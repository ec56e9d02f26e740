"""Bytes on their way to and from a store, told to whoever watches.

A command that somebody watches on a terminal runs a store inside :func:`watched`; stores say what they move. Without a
watcher nothing is counted.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Watcher = Callable[[int, int, str], None]
"""Called with (bytes so far, all bytes, name of the file)."""

_watcher: ContextVar[Watcher | None] = ContextVar("flashrl_transfer_watcher", default=None)
_transfer: ContextVar["Transfer | None"] = ContextVar("flashrl_transfer", default=None)


class Transfer:
    """Several files that are moved one after another.

    Args:
        watcher: Who is told.
        total: Bytes of all of them.
    """

    def __init__(self, watcher: Watcher, total: int) -> None:
        self._watcher, self._total, self._before, self._here, self._name = watcher, total, 0, 0, ""
        watcher(0, total, "")

    def start(self, name: str) -> None:
        """A file begins; the one before it is done."""
        self._before, self._here, self._name = self._before + self._here, 0, name
        self._tell()

    def moved(self, num_bytes: int) -> None:
        """So many more bytes of the present file; a repetition may count some twice."""
        self._here += num_bytes
        self._tell()

    def done(self, num_bytes: int) -> None:
        """The present file is there, with so many bytes."""
        self._here = num_bytes
        self._tell()

    def _tell(self) -> None:
        self._watcher(min(self._before + self._here, self._total), self._total, self._name)


@contextmanager
def watched(watcher: Watcher | None) -> Iterator[None]:
    """Stores tell the watcher what they move inside the block."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


@contextmanager
def moving(total: int) -> Iterator[None]:
    """Files are moved inside the block, of so many bytes together."""
    watcher = _watcher.get()
    token = _transfer.set(None if watcher is None or total == 0 else Transfer(watcher, total))
    try:
        yield
    finally:
        _transfer.reset(token)


@contextmanager
def one_file(name: str, num_bytes: int) -> Iterator[None]:
    """One of the files is moved inside the block."""
    transfer = _transfer.get()
    if transfer is not None:
        transfer.start(name)
    yield
    if transfer is not None:
        transfer.done(num_bytes)


def present() -> Transfer | None:
    """What is being moved; None where nobody watches."""
    return _transfer.get()
