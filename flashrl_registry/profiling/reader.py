"""Tensors of a checkpoint by byte range, so that memory is bounded by what is asked for and not by the model.

``pread`` into a buffer that is used again rather than ``mmap``: mapped pages would count as resident memory. A tensor
of any number of dimensions is read as rows of its last one.

Shape legend: R rows, I input columns.
"""

import math
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from flashrl_registry.checkpoints import CheckpointIndex, HubFiles
from flashrl_registry.errors import CheckpointError
from flashrl_registry.profiling.layout import F32, Bytes, Weight

_DTYPES = {"bfloat16": np.uint16, "float16": np.float16, "float32": np.float32}


class Files(Protocol):
    """Where a checkpoint's bytes come from."""

    def read_into(self, file: Path, start: int, buffer: memoryview) -> int:
        """Fill a buffer from a file's bytes; returns how many were there."""

    def close(self) -> None:
        """Give back what is held."""


class LocalFiles:
    """Files of a folder, held open; safe to use from several threads."""

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}
        self._lock = threading.Lock()
        self._stack = ExitStack()

    def read_into(self, file: Path, start: int, buffer: memoryview) -> int:
        """As the protocol says.

        Raises:
            CheckpointError: The file cannot be read.
        """
        try:
            with self._lock:
                if file not in self._descriptors:
                    self._descriptors[file] = os.open(file, os.O_RDONLY)
                    self._stack.callback(os.close, self._descriptors[file])
                descriptor = self._descriptors[file]
            done = 0
            while done < len(buffer):
                got = os.preadv(descriptor, [buffer[done:]], start + done)
                if got == 0:
                    break
                done += got
        except OSError as exc:
            raise CheckpointError(f"{file} cannot be read: {exc.strerror}") from exc
        return done

    def close(self) -> None:
        """Close every file."""
        self._stack.close()
        self._descriptors.clear()


class _Scratch(threading.local):
    """Buffers of one thread, grown and never freed."""

    def __init__(self) -> None:
        self.buffers: dict[str, Bytes] = {}

    def take(self, purpose: str, num_bytes: int) -> Bytes:
        buffer = self.buffers.get(purpose)
        if buffer is None or buffer.size < num_bytes:
            buffer = self.buffers[purpose] = np.empty(max(num_bytes, 1 << 16), np.uint8)
        return buffer[:num_bytes]


class TensorReader:
    """Reads tensors, rows and byte ranges of one checkpoint. A context manager; safe to use from several threads.

    Args:
        index: The checkpoint's headers.
        loops: The inner loops; see ``layout.py``.
        files: Where its bytes are; local files by default.
    """

    def __init__(self, index: CheckpointIndex, loops: Any, files: "Files | HubFiles | None" = None) -> None:
        self.index = index
        self._widen = loops.widen
        self.is_remote = files is not None
        self._files: Files = files or LocalFiles()
        self._scratch = _Scratch()
        self._num_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._files.close()

    @property
    def bytes_read(self) -> int:
        """How much was read so far, near enough for a progress bar."""
        return self._num_bytes

    def array(self, name: str) -> NDArray[np.generic]:
        """A small tensor, whole, in the header's dtype (bfloat16 as float32) and new memory.

        Raises:
            CheckpointError: The file cannot be read, or became shorter since its header was read.
        """
        spec = self.index.specs[name]
        data: Bytes = np.empty(self.index.locations[name].num_bytes, np.uint8)
        self._read(name, 0, data)
        if spec.dtype in _DTYPES:
            return _as_float32(data, spec.dtype, None, self._widen).reshape(spec.shape)
        return data.view(spec.dtype).reshape(spec.shape)

    def floats(self, name: str, start: int, stop: int, *, purpose: str = "weight") -> F32:
        """Rows of a float tensor in float32.

        Returns:
            Shape (stop - start, I), valid until the same thread reads for the same purpose again.

        Raises:
            CheckpointError: As for :meth:`array`.
        """
        spec = self.index.specs[name]
        data = self.raw(name, start, stop, purpose=purpose)
        wide = (
            None if spec.dtype == "float32" else self._scratch.take(purpose + ".wide", _elements(data, spec.dtype) * 4)
        )
        return _as_float32(data, spec.dtype, wide, self._widen).reshape(stop - start, -1)

    def weights(self, name: str, start: int, stop: int, *, purpose: str = "weight") -> Weight:
        """Rows of a float tensor as the loops take them: the bits of bfloat16, anything else in float32."""
        if self.index.specs[name].dtype != "bfloat16":
            return self.floats(name, start, stop, purpose=purpose)
        return self.raw(name, start, stop, purpose=purpose).view(np.uint16).reshape(stop - start, -1)

    def codes(self, name: str, start: int, stop: int, *, purpose: str = "codes") -> Bytes:
        """Rows of one-byte codes, as :meth:`floats`."""
        return self.raw(name, start, stop, purpose=purpose).reshape(stop - start, -1)

    def raw(self, name: str, start: int, stop: int, *, purpose: str) -> Bytes:
        """Bytes of rows, as :meth:`floats`."""
        row_bytes = self.index.locations[name].num_bytes // num_rows(self.index.specs[name].shape)
        data = self._scratch.take(purpose, (stop - start) * row_bytes)
        self._read(name, start * row_bytes, data)
        return data

    def range(self, name: str, start: int, num_bytes: int, *, purpose: str) -> Bytes:
        """A range of a tensor's bytes; ``start`` counts from the tensor's first byte. Valid as :meth:`floats`."""
        data = self._scratch.take(purpose, num_bytes)
        self._read(name, start, data)
        return data

    def _read(self, name: str, start: int, data: Bytes) -> None:
        location = self.index.locations[name]
        if data.size and self._files.read_into(location.file, location.start + start, memoryview(data)) < data.size:
            raise CheckpointError(f"{location.file} ends inside {name}; it was cut short while it was read")
        self._num_bytes += data.size


def num_rows(shape: list[int]) -> int:
    """Rows of the last dimension."""
    return math.prod(shape[:-1])


def _elements(data: Bytes, dtype: str) -> int:
    return int(data.size // np.dtype(_DTYPES[dtype]).itemsize)


def _as_float32(data: Bytes, dtype: str, wide: Bytes | None, widen: Any) -> F32:
    values = data.view(_DTYPES[dtype])
    if dtype == "float32":
        return values
    result: F32 = np.empty(values.size, np.float32) if wide is None else wide.view(np.float32)
    if dtype == "bfloat16":
        widen(values, result.view(np.uint32))
    else:
        result[:] = values
    return result


def chunks(rows: int, row_elements: int, chunk_elements: int) -> Iterator[tuple[int, int]]:
    """Row ranges of about so many elements that cover a matrix."""
    step = max(1, chunk_elements // max(1, row_elements))
    for start in range(0, rows, step):
        yield start, min(rows, start + step)
