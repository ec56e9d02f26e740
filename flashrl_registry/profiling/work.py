"""Results of finished tasks on disk, so that a run that was killed goes on where it stopped.

A work folder lies beside the output, under a name that is a digest of everything that the results depend on: both
checkpoints' headers with the sizes and times of their files, and the options. It is locked while it is used, and gone
when the profile is written or refused.

A finished task is two files: its vectors, and a record that ends with their digest and begins with its own. What is
read back is what was written, or the task is measured again; so nothing has to reach the disk in any order, and files
are flushed once in a while only so that a machine that stops loses little work.
"""

import hashlib
import json
import math
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from pydantic import ValidationError

from flashrl_registry.checkpoints import CheckpointIndex
from flashrl_registry.documents import LinearFacts, SmoothingGroup
from flashrl_registry.documents._base import sha256
from flashrl_registry.errors import CheckpointUnreachableError, ProfilingError
from flashrl_registry.profiling.layer import Result, Task
from flashrl_registry.profiling.output import StoredVector, flush, write_vectors, writing

_FORMAT = 2
"""Raised where results of an earlier program cannot be used."""
_HELD_BYTES = 16 << 20
"""Vectors that stay in memory beside their files, for the end of the run."""
_WRITE_SECONDS, _FLUSH_SECONDS = 1.0, 2.0
"""How much work a process that is killed may lose, and a machine that stops: writing and flushing the files of each
task would cost a short run more than it protects."""
_NAMED = 3


@dataclass(frozen=True)
class _Finished:
    """A task that may not be in its files yet."""

    number: int
    task: Task
    result: Result
    vectors: dict[str, StoredVector]


class WorkFolder:
    """Finished tasks of one run.

    Args:
        folder: Exists, and is locked by this process.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._held: dict[int, dict[str, StoredVector]] = {}
        self._held_bytes = 0
        self._unwritten: list[_Finished] = []
        self._unflushed: list[Path] = []
        self._written_at = self._flushed_at = time.monotonic()

    def put(self, number: int, task: Task, result: Result) -> None:
        """Keep a task's result; a crash leaves the whole of it or nothing.

        Raises:
            ProfilingError: The folder cannot be written.
        """
        vectors = {key: StoredVector.of(value) for key, value in result.vectors.items()}
        num_bytes = sum(vector.num_bytes for vector in vectors.values())
        finished = _Finished(number, task, replace(result, vectors={}), vectors)
        with self._lock:
            if self._held_bytes + num_bytes <= _HELD_BYTES:
                self._held_bytes += num_bytes
                self._held[number] = vectors
            self._unwritten.append(finished)
            if number in self._held and time.monotonic() - self._written_at < _WRITE_SECONDS:
                return
        self.save()

    def save(self) -> None:
        """Write what is finished and not written yet.

        Raises:
            ProfilingError: The folder cannot be written.
        """
        with self._lock:
            waiting, self._unwritten, self._written_at = self._unwritten, [], time.monotonic()
        with writing(self.folder):
            for finished in waiting:
                self._write(finished)

    def _write(self, finished: _Finished) -> None:
        number, task, result = finished.number, finished.task, finished.result
        files = self._file(number, "vectors"), self._file(number, "json")
        record = {
            "task": [task.key, list(task.names)],
            "roles": result.roles,
            "groups": [group.model_dump(mode="json") for group in result.groups],
            "facts": [facts.model_dump(mode="json") for facts in result.facts],
            "vectors": write_vectors(finished.vectors, files[0]),
        }
        body = json.dumps(record).encode()
        temporary = self._file(number, "tmp")
        temporary.write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        temporary.replace(files[1])
        self._flush(files)

    def finished(self, tasks: Sequence[Task]) -> tuple[dict[int, Result], str | None]:
        """What an earlier run left.

        Args:
            tasks: Those of this run.

        Returns:
            The results of tasks that are finished, without their vectors, by number; and what to tell people where
            files of others are not what was written. Those tasks are measured again.
        """
        found: dict[int, Result] = {}
        damaged = []
        for number, task in enumerate(tasks):
            try:
                result = self._read(number, task)
            except (OSError, ValueError, KeyError, TypeError, ValidationError):
                damaged.append(task.key.removesuffix("."))
                continue
            if result is not None:
                found[number] = result
        if not damaged:
            return found, None
        more = f" and {len(damaged) - _NAMED} more" if len(damaged) > _NAMED else ""
        return found, (
            f"{self.folder}: what an interrupted run left is damaged for {', '.join(damaged[:_NAMED])}{more}; "
            f"measured again"
        )

    def vectors(self, number: int) -> dict[str, StoredVector]:
        """A finished task's vectors, in memory or read when they are needed."""
        held = self._held.get(number)
        return stored_vectors(self._file(number, "vectors")) if held is None else held

    def _file(self, number: int, suffix: str) -> Path:
        return self.folder / f"{number}.{suffix}"

    def _read(self, number: int, task: Task) -> Result | None:
        """A task's result, or None where it is not finished.

        Raises:
            ValueError: A file is not what was written; so do the other errors of what is called here.
        """
        file = self._file(number, "json")
        if not file.exists():
            return None
        digest, _, body = file.read_bytes().partition(b"\n")
        if hashlib.sha256(body).hexdigest().encode() != digest:
            raise ValueError("the record is damaged")
        record = json.loads(body)
        if record["task"] != [task.key, list(task.names)]:
            raise ValueError("the record is another task's")
        with self._file(number, "vectors").open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != record["vectors"]:
                raise ValueError("the vectors are damaged")
        return Result(
            roles=record["roles"],
            groups=[SmoothingGroup.model_validate_json(json.dumps(group)) for group in record["groups"]],
            facts=[LinearFacts.model_validate_json(json.dumps(facts)) for facts in record["facts"]],
        )

    def _flush(self, files: Sequence[Path]) -> None:
        with self._lock:
            self._unflushed += files
            if time.monotonic() - self._flushed_at < _FLUSH_SECONDS:
                return
            waiting, self._unflushed, self._flushed_at = self._unflushed, [], time.monotonic()
        for file in waiting:
            flush(file)


def stored_vectors(path: Path) -> dict[str, StoredVector]:
    """Vectors of a file that :func:`write_vectors` wrote, read when they are needed."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    return {
        key: StoredVector(
            tuple(entry["shape"]), partial(_read, path, 8 + length + entry["data_offsets"][0], tuple(entry["shape"]))
        )
        for key, entry in header.items()
    }


def _read(file: Path, start: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.fromfile(file, "<f4", count=math.prod(shape), offset=start).reshape(shape)


def run_key(reference: CheckpointIndex, quantized: CheckpointIndex, document: Path, options: dict[str, Any]) -> str:
    """Digest of everything that the results of a run depend on."""
    parts = [_FORMAT, version("flashrl-registry"), str(document.absolute()), options]
    parts += [_index_key(index) for index in (reference, quantized)]
    return sha256(json.dumps(parts).encode()).removeprefix("sha256:")


def _index_key(index: CheckpointIndex) -> list[Any]:
    files = sorted({location.file for location in index.locations.values()})
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.exists()]
    places = [
        (name, spec.dtype, spec.shape, str(index.locations[name].file), index.locations[name].start)
        for name, spec in sorted(index.specs.items())
    ]
    return [str(index.folder), index.config, stats, places]


@contextmanager
def work_folder(document: Path, key: str) -> Iterator[WorkFolder]:
    """The folder of a run, with what an earlier one left; removed at the end and where the pair is refused.

    It stays where the process is interrupted or killed, or where a Hub stopped answering.

    Raises:
        ProfilingError: Another process works on the same profile, or the folder cannot be written.
    """
    place = next(parent for parent in document.absolute().parents if parent.is_dir())
    folder = place / f".flashrl-profile-{key[:16]}"
    with writing(folder):
        folder.mkdir(exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as exc:
        raise ProfilingError(f"another process is writing {document}", hint="wait for it") from exc
    keep = False
    work = WorkFolder(folder)
    try:
        yield work
    except (KeyboardInterrupt, CheckpointUnreachableError):
        keep = True
        with suppress(ProfilingError):  # then it is measured again
            work.save()
        raise
    finally:
        lock.release()
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
