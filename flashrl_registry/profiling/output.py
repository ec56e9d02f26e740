"""Where a profile goes: the document's path, and the sidecar beside it."""

import errno
import hashlib
import json
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flashrl_registry.documents import Sidecar
from flashrl_registry.errors import ProfilingError

PROFILE_YAML = "profile.yaml"
_DOCUMENTS = {".yaml", ".yml", ".json"}
PICKLES = {".pt", ".pth"}
"""Suffixes of what FlashRL writes."""


def document_path(output: Path) -> Path:
    """The file that a profile is written to.

    Args:
        output: ``x.yaml`` (or ``.yml``, ``.json``): that file. ``x.pt``, as FlashRL's README spells it: ``x.yaml``
            beside it; a pickle is never written. Anything else, and any folder that exists: ``profile.yaml`` in
            that folder, so names with dots such as ``Qwen2.5-0.5B`` are folders.

    Returns:
        Path of the document; nothing is created.
    """
    if output.is_dir():
        return output / PROFILE_YAML
    suffix = output.suffix.lower()
    if suffix in _DOCUMENTS:
        return output
    if suffix in PICKLES:
        return output.with_suffix(".yaml")
    return output / PROFILE_YAML


@dataclass(frozen=True)
class StoredVector:
    """A float32 vector that is read when it is written.

    Attributes:
        shape: Its sizes.
        read: Gives its values.
    """

    shape: tuple[int, ...]
    read: Callable[[], NDArray[np.float32]]

    @classmethod
    def of(cls, values: ArrayLike) -> "StoredVector":
        """A vector in memory: a numpy array, or a tensor on the CPU."""
        array = np.ascontiguousarray(values, np.float32)
        return cls(array.shape, lambda: array)

    @property
    def num_bytes(self) -> int:
        """Its size in a file."""
        return 4 * math.prod(self.shape)


def write_sidecar(vectors: Mapping[str, ArrayLike | StoredVector], folder: Path) -> Sidecar:
    """Write vectors to ``<sha256>.safetensors`` in a folder.

    The same vectors give the same bytes, those that ``safetensors`` itself writes: in order of the names, without
    metadata. One vector at a time is in memory.

    Args:
        vectors: Key to float32 values.
        folder: Created where missing.

    Returns:
        The file's digest and size; a reader sees the whole file or none.

    Raises:
        ProfilingError: The folder holds a checkpoint, or cannot be written.
    """
    refuse_checkpoint_folder(folder)
    stored = {
        key: value if isinstance(value, StoredVector) else StoredVector.of(value) for key, value in vectors.items()
    }
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".sidecar.{os.getpid()}.tmp"
        try:
            digest = write_vectors(stored, temporary)
            sidecar = Sidecar(digest=f"sha256:{digest}", num_bytes=temporary.stat().st_size)
            flush(temporary)  # the document that names it is flushed too
            temporary.chmod(0o644)
            temporary.replace(folder / sidecar.file_name)
        finally:
            temporary.unlink(missing_ok=True)
    return sidecar


def write_vectors(vectors: Mapping[str, StoredVector], path: Path) -> str:
    """Write a safetensors file of float32 vectors; returns its SHA-256 in hexadecimal."""
    header, offset = {}, 0
    for key in sorted(vectors):
        end = offset + vectors[key].num_bytes
        header[key] = {"dtype": "F32", "shape": list(vectors[key].shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for piece in _pieces(text, vectors):
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


def _pieces(header: bytes, vectors: Mapping[str, StoredVector]) -> Iterator[bytes | memoryview]:
    yield struct.pack("<Q", len(header))
    yield header
    for key in sorted(vectors):
        yield memoryview(np.ascontiguousarray(vectors[key].read(), "<f4").reshape(-1)).cast("B")


def refuse_checkpoint_folder(folder: Path) -> None:
    """A sidecar beside a checkpoint would be taken for weights.

    Raises:
        ProfilingError: The folder holds a config.json.
    """
    if (folder / "config.json").exists():
        raise ProfilingError(
            f"{folder} holds a checkpoint; its next reader would take the profile's vectors for weights",
            hint="write to a folder of its own",
        )


@contextmanager
def staged(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Files that take their places together, once all of them are written.

    Args:
        paths: Where they go; their folders exist.

    Yields:
        Where to write them instead, each beside its place and of the same suffix. Where an error is raised they are
        removed, and nothing has changed at the places.
    """
    temporary = [path.with_name(f".{os.getpid()}.{path.name}") for path in paths]
    try:
        for path in paths:
            if path.is_dir():  # found out now, not when another file has moved
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        yield temporary
        for written, path in zip(temporary, paths, strict=True):
            written.replace(path)
    finally:
        for written in temporary:
            written.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Have the system put a file on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(where: Path) -> Iterator[None]:
    """Failures to write, in our words.

    Args:
        where: The file or folder; named where the system names none, or a temporary file beside it.

    Raises:
        ProfilingError: No space, no permission, or whatever else the file system says.
    """
    try:
        yield
    except OSError as exc:
        place = Path(exc.filename) if isinstance(exc.filename, str) else where
        if place.parent == where.parent and where.name in place.name:
            place = where
        raise ProfilingError(
            f"{place} cannot be written: {exc.strerror or exc}",
            hint="no profile was written, and what was there before is as it was",
        ) from exc
