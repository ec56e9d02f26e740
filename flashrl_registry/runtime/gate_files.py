"""Small files that live as long as the process that made them, however it ends.

Each is locked by its maker, and the system gives a lock up with the process: by a signal, in a crash, in a child that
leaves without its exit handlers. Whoever makes the next one removes those that nobody holds. Unlike a process id, a
lock is never taken for somebody else's, and holds between containers that share a folder.
"""

import fcntl
import os
import stat
import tempfile
from contextlib import suppress
from multiprocessing.util import Finalize
from pathlib import Path


def make_file(folder: Path, name: str, size: int) -> Path:
    """A file of zeros, which is removed when this process ends or after that.

    Args:
        folder: Where it goes.
        name: What its name begins with; files of this user that begin so and that nobody holds are removed.
        size: In bytes.
    """
    prefix = f"{name}-{os.getuid()}-"
    _remove_abandoned(folder, prefix)
    while True:
        handle, text = tempfile.mkstemp(prefix=prefix, dir=folder)
        path = Path(text)
        fcntl.flock(handle, fcntl.LOCK_SH)
        if _is_still(path, handle):  # not where somebody took it for an abandoned one before it was locked
            break
        os.close(handle)
    os.write(handle, bytes(size))
    # Runs at the end of the children of multiprocessing too, which leave without ``atexit``, and in no forked child.
    Finalize(None, _remove, args=(path, handle), exitpriority=-1)
    return path


def _remove(path: Path, handle: int) -> None:
    path.unlink(missing_ok=True)
    os.close(handle)


def _is_still(path: Path, handle: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(path.lstat(), os.fstat(handle))
    return False


def _remove_abandoned(folder: Path, prefix: str) -> None:
    for path in folder.glob(prefix + "*"):
        with suppress(OSError):  # somebody else removed it, or holds it; a link is not followed
            handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                found = os.fstat(handle)
                if stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid():
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
            finally:
                os.close(handle)
