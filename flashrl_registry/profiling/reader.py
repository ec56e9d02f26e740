"""Tensors of a checkpoint by byte range, so that memory is bounded by what is asked for and not by the model.

``pread`` into a buffer rather than ``mmap``: mapped pages would count as resident memory.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from flashrl_registry.checkpoints import CheckpointIndex
from flashrl_registry.documents import TensorSpec
from flashrl_registry.errors import CheckpointError

CHUNK_ELEMENTS = 1 << 20
"""Elements that are worked on at a time: 4 MiB in float32."""


class TensorReader:
    """Reads tensors, rows and byte ranges of one checkpoint. A context manager; it holds the files open.

    Args:
        index: The checkpoint's headers.
    """

    def __init__(self, index: CheckpointIndex) -> None:
        self.index = index
        self._descriptors: dict[Path, int] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def tensor(self, name: str) -> Tensor:
        """A whole tensor; for vectors only.

        Returns:
            The header's dtype and shape, in new memory.

        Raises:
            CheckpointError: The file cannot be read, or became shorter since its header was read.
        """
        spec = self.index.specs[name]
        data = self.read_bytes(name, 0, self.index.locations[name].num_bytes)
        return _as_tensor(data, spec).view(spec.shape)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` of a matrix.

        Returns:
            The header's dtype, shape (stop - start, I), in new memory.

        Raises:
            CheckpointError: As for :meth:`tensor`.
        """
        spec = self.index.specs[name]
        row_bytes = self.index.locations[name].num_bytes // spec.shape[0]
        data = self.read_bytes(name, start * row_bytes, (stop - start) * row_bytes)
        return _as_tensor(data, spec).view(stop - start, spec.shape[1])

    def read_bytes(self, name: str, start: int, num_bytes: int) -> bytearray:
        """A range of a tensor's bytes; ``start`` counts from the tensor's first byte.

        Raises:
            CheckpointError: As for :meth:`tensor`.
        """
        location = self.index.locations[name]
        buffer = bytearray(num_bytes)
        view, offset = memoryview(buffer), location.start + start
        while view:
            try:
                got = os.preadv(self._descriptor(location.file), [view], offset)
            except OSError as exc:
                raise CheckpointError(f"{location.file} cannot be read: {exc.strerror}") from exc
            if got == 0:
                raise CheckpointError(f"{location.file} ends inside {name}; it was cut short while it was read")
            view, offset = view[got:], offset + got
        return buffer

    def _descriptor(self, file: Path) -> int:
        if file not in self._descriptors:
            self._descriptors[file] = os.open(file, os.O_RDONLY)
            self._stack.callback(os.close, self._descriptors[file])
        return self._descriptors[file]


def _as_tensor(data: bytearray, spec: TensorSpec) -> Tensor:
    dtype: torch.dtype = getattr(torch, spec.dtype)
    return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)


def chunks(num_rows: int, row_elements: int) -> Iterator[tuple[int, int]]:
    """Row ranges of about :data:`CHUNK_ELEMENTS` elements that cover a matrix."""
    step = max(1, CHUNK_ELEMENTS // max(1, row_elements))
    for start in range(0, num_rows, step):
        yield start, min(num_rows, start + step)
