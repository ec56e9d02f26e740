"""Bytes of a Hub checkpoint's files by HTTP range: only the tensors that are asked for travel."""

import struct
import time
from pathlib import Path

from flashrl_registry.checkpoints.headers import CheckpointIndex, TensorLocation, place_tensors
from flashrl_registry.checkpoints.json_object import parse_json
from flashrl_registry.checkpoints.remote import read_remote_checkpoint, typed_errors
from flashrl_registry.documents import TensorSpec
from flashrl_registry.errors import CheckpointError, CheckpointUnreachableError

_ATTEMPTS = 4
_TIMEOUT_SECONDS = 60
_PARTIAL_CONTENT = 206


class HubFiles:
    """Files of one commit of a repository on the Hub; safe to use from several threads.

    Args:
        repo_id: ``owner/name``.
        revision: A commit.
        endpoint: Address of the Hub; ``HF_ENDPOINT`` where None.
    """

    def __init__(self, repo_id: str, revision: str, endpoint: str | None = None) -> None:
        from huggingface_hub import HfApi

        self.repo_id, self.revision = repo_id, revision
        self._endpoint: str = HfApi(endpoint=endpoint).endpoint
        self.sizes: dict[str, int] = {}
        """Sizes of the files that were read from, where the Hub says them."""

    def read_into(self, file: Path, start: int, buffer: memoryview) -> int:
        """Fill a buffer from a file's bytes; returns how many were there.

        Raises:
            CheckpointError: The Hub does not answer, or not as it should.
        """
        data = self.read(str(file), start, start + len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, file: str, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop`` of a file; asked for again where the connection breaks.

        Raises:
            CheckpointError: As for :meth:`read_into`.
        """
        for attempt in range(_ATTEMPTS):
            try:
                with typed_errors(self.repo_id, self._endpoint):
                    return self._get(file, start, stop)
            except CheckpointUnreachableError:
                if attempt + 1 == _ATTEMPTS:
                    raise
                time.sleep(0.2 * 2**attempt)
        raise AssertionError("the last attempt raises or returns")

    def _get(self, file: str, start: int, stop: int) -> bytes:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        url = hf_hub_url(self.repo_id, file, revision=self.revision, endpoint=self._endpoint)
        headers = {**build_hf_headers(), "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        response = get_session().get(url, headers=headers, timeout=_TIMEOUT_SECONDS)
        hf_raise_for_status(response)
        if response.status_code != _PARTIAL_CONTENT:
            raise CheckpointError(f"{self._endpoint} does not serve parts of files", context={"model": self.repo_id})
        size = response.headers.get("Content-Range", "").rpartition("/")[2]
        if size.isdecimal():
            self.sizes[file] = int(size)
        data: bytes = response.content
        return data

    def close(self) -> None:
        """Nothing is held."""


def read_remote_index(
    repo_id: str, revision: str | None = None, *, endpoint: str | None = None
) -> tuple[CheckpointIndex, HubFiles]:
    """Headers of a checkpoint on the Hub with the place of every tensor, and the files that they are in.

    Args:
        repo_id: ``owner/name``.
        revision: Branch, tag or commit; the default branch where None.
        endpoint: Address of the Hub; ``HF_ENDPOINT`` where None.

    Raises:
        CheckpointError: As :func:`read_remote_checkpoint`.
    """
    remote = read_remote_checkpoint(repo_id, revision, endpoint=endpoint)
    files = HubFiles(repo_id, remote.revision, endpoint)
    specs: dict[str, TensorSpec] = {}
    locations: dict[str, TensorLocation] = {}
    for shard in remote.shards:
        prefix = files.read(shard, 0, 8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        what = f"{repo_id}/{shard}"
        header = parse_json(files.read(shard, 8, 8 + length), f"{what}: the header", unique=True)
        for name, spec, location in place_tensors(Path(shard), what, header, 8 + length, files.sizes.get(shard)):
            specs[name], locations[name] = spec, location
    if set(specs) != {spec.name for spec in remote.inventory.tensors}:
        raise CheckpointError(f"{repo_id}: the headers changed while they were read")
    return CheckpointIndex(Path(repo_id), remote.config, remote.inventory, specs, locations), files
