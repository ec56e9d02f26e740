"""Writing to a registry folder: one process at a time, and beside what is there until a rename shows it."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from flashrl_registry.errors import StoreUnavailableError
from flashrl_registry.registry.root import REGISTRY_VARIABLE

_STAGING, _LOCK = ".staging", ".lock"
_LOCK_SECONDS = 60.0


@contextmanager
def writing(root: Path) -> Iterator[None]:
    """The lock, and what a file system that cannot be written says."""
    try:
        with _locked(root):
            yield
    except OSError as exc:
        raise StoreUnavailableError(
            f"the registry at {root} cannot be written: {exc}",
            hint=f"make the folder writable, or set {REGISTRY_VARIABLE} to another one",
            context={"store": str(root)},
        ) from exc


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / _LOCK, timeout=_LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout as exc:
        raise StoreUnavailableError(
            f"another process has been publishing to {root} for {_LOCK_SECONDS:.0f} seconds",
            hint="wait for it to end and publish again",
            context={"store": str(root)},
        ) from exc
    try:
        yield
    finally:
        lock.release()


@contextmanager
def staging(root: Path) -> Iterator[Path]:
    """A folder in the registry's own file system; under the lock, whatever else lies there is dead."""
    place = root / _STAGING
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    try:
        folder = Path(tempfile.mkdtemp(dir=place))
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(place, ignore_errors=True)
