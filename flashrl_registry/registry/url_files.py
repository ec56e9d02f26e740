"""Files at an fsspec address: listed, read up to a limit, and created where nothing is. Every failure is a typed error.

A file system that cannot create exclusively is read and never written: with it, two writers could both believe that
they won.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from flashrl_registry.documents.io import written_beside
from flashrl_registry.errors import (
    AccessDeniedError,
    FlashRLError,
    IntegrityError,
    InvalidRefError,
    MissingDependencyError,
    NotFoundError,
    StoreUnavailableError,
)
from flashrl_registry.registry.folders import refuse_links

# fsspec's own `mode="create"` looks and then writes, unless a file system does better; these do.
_EXCLUSIVE = {"memory", "s3", "s3a", "gs", "gcs", "abfs", "az"}
_LOCAL = {"file", "local"}
_MAX_DOCUMENT_BYTES = 1 << 20


class UrlFiles:
    """Files under one address.

    Args:
        address: Such as ``s3://bucket/plans``; credentials are the file system's own.

    Attributes:
        address: Without a slash at its end.
    """

    def __init__(self, address: str) -> None:
        self._protocol, scheme, place = address.partition("://")
        if not scheme:
            raise InvalidRefError(
                f"'{address}' is no store's address", hint=address_hint(address), context={"store": address}
            )
        place = place.rstrip("/")
        if "@" in place.partition("/")[0]:
            raise InvalidRefError("a store's address carries no credentials", hint="use the file system's own way")
        if any(character.isspace() or character in "?#" for character in place):
            raise InvalidRefError(
                f"'{address}' has a space, '?' or '#' in it, and a reference or a lock could not carry it",
                hint="give the folder another name, or a link without such characters to it",
                context={"store": address},
            )
        if not place:
            raise InvalidRefError(
                f"'{address}' names no place in {self._protocol}://",
                hint="write SCHEME://PLACE, such as s3://bucket/plans or file:///mnt/plans",
                context={"store": address},
            )
        self.address = f"{self._protocol}://{place}"

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        """The file system and the path in it; opened when it is asked for, so that stores before it need no driver.

        Raises:
            MissingDependencyError: Its driver is not installed.
            StoreUnavailableError: It does not answer, or does not take the address.
        """
        import fsspec

        context = {"store": self.address}
        hint = f"{self._protocol}:// is a file system of fsspec; is the address what it asks for?"
        try:
            system, root = fsspec.core.url_to_fs(self.address)
            return system, str(root)
        except ImportError as exc:
            driver = f"install the fsspec file system for {self._protocol}://"
            raise MissingDependencyError(f"{self.address}: {exc}", hint=driver, context=context) from exc
        except FileNotFoundError as exc:
            raise NotFoundError(f"{self.address} is not there: {exc}", hint=hint, context=context) from exc
        except OSError as exc:
            raise StoreUnavailableError(f"{self.address}: {exc}", hint=hint, context=context) from exc
        except Exception as exc:  # a driver raises whatever it likes at an address that it cannot use
            raise _unusable(self.address, exc, hint) from exc

    @property
    def _fs(self) -> Any:
        return self._opened[0]

    @property
    def _root(self) -> str:
        return self._opened[1]

    def check_writable(self) -> None:
        """Refuse to write where nobody can create exclusively.

        Raises:
            StoreUnavailableError: It is such a file system.
        """
        if self._protocol not in _EXCLUSIVE | _LOCAL:
            raise StoreUnavailableError(
                f"{self.address} is read-only: {self._protocol}:// is not known to create exclusively",
                hint="two people who publish at once could both believe that they won; use s3, gs, az or a mount",
                context={"store": self.address},
            )

    def refuse_links(self, parts: Sequence[str], name: str) -> None:
        """In a folder, refuse a link in the way, which would lead out of the store; object stores have none.

        Raises:
            IntegrityError: There is one.
        """
        if self._protocol in _LOCAL:
            refuse_links(Path(self._root), parts, name)

    def make_root(self) -> None:
        """Make the folder of a new store; object stores have none.

        Raises:
            StoreUnavailableError: It cannot be made.
        """
        if self._protocol in _LOCAL:
            with self._typed(""):
                Path(self._root).mkdir(parents=True, exist_ok=True)

    def is_new(self) -> bool:
        """Whether it is a folder that nobody made yet."""
        return self._protocol in _LOCAL and not Path(self._root).exists()

    def folders(self, folder: str) -> list[str]:
        """Names of the folders in a folder, and of links, which are refused later; see :meth:`files`."""
        return self._names(folder, "file")

    def files(self, folder: str) -> list[str]:
        """Names of the files in a folder, in order, without those that begin with a dot; none where it is missing.

        Raises:
            StoreUnavailableError: It cannot be read, or the store's own folder is missing: a share that is not mounted
                must not look like one that holds nothing.
        """
        return self._names(folder, "directory")

    def _names(self, folder: str, without: str) -> list[str]:
        with self._typed(folder):
            try:
                self._fs.invalidate_cache()
                found = self._fs.ls(self._at(folder), detail=True)
            except (FileNotFoundError, NotADirectoryError):  # the latter: somebody's file, and nothing is below it
                self._refuse_missing_root()
                found = []
        names = (str(entry["name"]).rstrip("/").rpartition("/")[2] for entry in found if entry["type"] != without)
        return sorted(name for name in names if not name.startswith("."))

    def _refuse_missing_root(self) -> None:
        root = Path(self._root)
        if self._protocol not in _LOCAL or root.is_dir():
            return
        what = "is no folder" if root.exists() else "is not there"
        raise StoreUnavailableError(
            f"{self.address} {what}, so what it holds is not known",
            hint=f"mount it; or begin a new store with a push to it, or with: mkdir -p {root}",
            context={"store": self.address},
        )

    def text(self, path: str) -> str:
        """A document.

        Raises:
            NotFoundError: It is not there.
            IntegrityError: It is no text, or too large.
        """
        try:
            return self.read(path, _MAX_DOCUMENT_BYTES).decode()
        except UnicodeDecodeError as exc:
            raise IntegrityError(f"{path} in {self.address} is not text: {exc.reason}") from exc

    def read(self, path: str, limit: int) -> bytes:
        """A file of at most so many bytes.

        Raises:
            NotFoundError: It is not there.
            IntegrityError: It is larger.
        """
        with self._typed(path):
            size = self._fs.size(self._at(path))
            if size is not None and size > limit:
                raise IntegrityError(f"{path} in {self.address} has {size} bytes; at most {limit} are read")
            data: bytes = self._fs.cat_file(self._at(path))
        return data

    def put_object(self, digest: str, data: bytes) -> None:
        """Put bytes under their hash; where they are already, nothing happens."""
        path = f"objects/{digest.removeprefix('sha256:')}"
        with self._typed(path):
            there = self._fs.exists(self._at(path)) and self._fs.size(self._at(path)) == len(data)
        # A half-written object of a writer that died has another size; the same bytes again heal it.
        if not there and not self.create(path, data):
            with self._typed(path):
                self._fs.pipe_file(self._at(path), data)

    def create(self, path: str, data: bytes) -> bool:
        """Create an object; False where it exists."""
        target = self._at(path)
        try:
            with self._typed(path):
                if self._protocol in _LOCAL:
                    _create_file(Path(target), data)
                else:
                    self._fs.pipe_file(target, data, mode="create")
        except _TakenError:
            return False
        return True

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    @contextmanager
    def _typed(self, path: str) -> Iterator[None]:
        context: dict[str, Any] = {"store": self.address, "object": path}
        try:
            yield
        except FileExistsError as exc:
            raise _TakenError from exc
        except FileNotFoundError as exc:
            raise NotFoundError(f"{self.address} has no {path}", context=context) from exc
        except PermissionError as exc:
            raise AccessDeniedError(f"{self.address} says no to {path}: {exc}", context=context) from exc
        except FlashRLError:
            raise
        except OSError as exc:
            raise StoreUnavailableError(f"{self.address}: {path}: {exc}", hint="try again", context=context) from exc
        except Exception as exc:  # see _opened
            hint = f"is {self._protocol}:// a place for files?"
            raise _unusable(f"{self.address}: {path}", exc, hint) from exc


def address_hint(text: str) -> str | None:
    """What may have been meant by what is no address of a store; None where that is none either."""
    path = re.sub(r"^(?:file|local):/*(?=/)", "", text)
    if path.startswith(("/", "~", "./", "../")) or Path(path).is_dir():
        return f"write file://{Path(path).expanduser().resolve()} for the folder"
    return "write SCHEME://PLACE, such as s3://bucket/plans or file:///mnt/plans"


def _unusable(what: str, exc: Exception, hint: str) -> StoreUnavailableError:
    return StoreUnavailableError(f"{what}: {type(exc).__name__}: {exc}", hint=hint, context={"store": what})


class _TakenError(Exception):
    """The object exists."""


def _create_file(target: Path, data: bytes) -> None:
    """Create a file with its bytes in one step: written beside it, then linked; on NFS too."""
    with written_beside(target, data) as temporary:
        os.link(temporary, target)
