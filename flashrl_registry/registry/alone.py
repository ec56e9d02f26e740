"""One process at a time with a file that is replaced as a whole, whatever ``TMPDIR`` each of them has.

The guard is a hidden file beside the file, so everybody who can write there meets at it, and it goes again with the
last one: a file that nobody removes would lie in every repository.
"""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flashrl_registry.errors import StoreUnavailableError

WAIT_SECONDS = 60.0
_AGAIN_SECONDS = 0.02


@contextmanager
def alone_with(file: Path) -> Iterator[None]:
    """Wait until no other process has the file, and keep others from it.

    Args:
        file: It need not be there; its folder is made.

    Raises:
        StoreUnavailableError: Another process kept it for a minute.
        OSError: Its folder cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    guard = file.with_name(f".{file.name}.guard")
    handle = _take(guard, file)
    try:
        yield
    finally:
        with suppress(OSError):  # another user's, in a folder such as /tmp: it stays, and is free
            guard.unlink()  # before it is given free: who waits sees that it is gone, and makes another
        os.close(handle)


def _take(guard: Path, file: Path) -> int:
    last = time.monotonic() + WAIT_SECONDS
    while True:
        if (handle := _try(guard)) is not None:
            return handle
        if time.monotonic() > last:
            raise StoreUnavailableError(
                f"another process has been writing {file} for {WAIT_SECONDS:.0f} seconds", hint="try again"
            )
        time.sleep(_AGAIN_SECONDS)


def _try(guard: Path) -> int | None:
    """The guard, open and ours; None while another process has it."""
    handle = _open(guard)
    if handle is None:
        return None
    try:
        if _is_free(handle) and _is_there(handle, guard):
            return handle
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


def _open(guard: Path) -> int | None:
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC  # through a link it would be a file of somebody's
    try:
        return os.open(guard, flags)
    except FileNotFoundError:
        pass
    try:
        handle = os.open(guard, flags | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return None
    with suppress(PermissionError):  # another user's turn may come next, whatever our umask is
        os.fchmod(handle, 0o666)
    return handle


def _is_free(handle: int) -> bool:
    import fcntl  # not on every system; nothing but this needs it

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as exc:
        # A file system without such locks. The file is still replaced as a whole; of what two processes write at the
        # same moment, one may be lost there.
        if exc.errno not in {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}:
            raise
    return True


def _is_there(handle: int, guard: Path) -> bool:
    """Whether it is still the guard that others meet at: who had it before removed it."""
    try:
        return os.path.samestat(os.fstat(handle), guard.lstat())
    except FileNotFoundError:
        return False
