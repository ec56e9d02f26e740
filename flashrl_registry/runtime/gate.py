"""One small file by which workers tell the front end whether they serve.

A front end (LLM, AsyncLLM, an HTTP server) and its workers are different processes, and a request that is refused
inside a worker leaves the engine dead. So each worker writes one byte, and the front end looks at the bytes before
it accepts a request: nothing is scheduled on weights that are not one whole update, and the engine stays alive to
be healed. A number beside it counts the worker's updates, so that the front end drops cached prefixes that old weights
made. Workers on other machines do not reach this file; their own check before each forward still stands.
"""

import mmap
import os
import struct
import tempfile
from pathlib import Path

from flashrl_registry.runtime.gate_files import make_file

_SLOTS = 1024
_REASON_BYTES = 2048
_COUNT = struct.Struct("<Q")  # a byte would come around after 256 updates and look as if nothing had changed
_REFUSED_AT = _SLOTS + _COUNT.size * _SLOTS
_REASON_AT = _REFUSED_AT + _COUNT.size
_SIZE = _REASON_AT + _REASON_BYTES
SERVING = 0
REFUSING = 1
SERVE_HINT = "send a complete weight update; the engine serves again when its last tensor has arrived"


def create_gate() -> Path:
    """Make the file, all slots serving; in memory where the system has a memory filesystem.

    It is removed when this process, the engine's driver, ends; where it is killed, by the next one that makes one.
    """
    shared = Path("/dev/shm")  # noqa: S108 - the memory filesystem; the name in it is random and private
    return make_file(shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir()), "flashrl-gate", _SIZE)


def open_gate(path: Path) -> "Gate | None":
    """The file, where this process can reach it; a worker on another machine cannot."""
    return Gate(path) if path.exists() else None


class Gate:
    """The file, mapped.

    Args:
        path: From :func:`create_gate`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _SIZE)

    def set(self, rank: int, *, refusing: bool, reason: str = "") -> None:
        """Write one worker's state.

        Args:
            rank: Global rank of the worker; ranks share slots from 1024 on.
            refusing: The worker's weights are not one whole update.
            reason: For the front end's error; the last writer's stays.
        """
        if refusing:
            text = reason.encode("utf-8", "replace")[: _REASON_BYTES - 1]
            self._map[_REASON_AT : _REASON_AT + len(text) + 1] = text + b"\0"
        self._map[rank % _SLOTS] = REFUSING if refusing else SERVING

    def count_update(self, rank: int) -> None:
        """One worker's weights have changed."""
        place = _SLOTS + _COUNT.size * (rank % _SLOTS)
        _COUNT.pack_into(self._map, place, _COUNT.unpack_from(self._map, place)[0] + 1)

    def updates(self) -> bytes:
        """A value that differs whenever a worker's weights have changed since it was last read."""
        return self._map[_SLOTS:_REFUSED_AT]

    def count_refusal(self) -> None:
        """A front end has refused a request."""
        _COUNT.pack_into(self._map, _REFUSED_AT, self.refusals() + 1)

    def refusals(self) -> int:
        """How many requests were refused so far; two front ends that refuse at once may count one."""
        count: int = _COUNT.unpack_from(self._map, _REFUSED_AT)[0]
        return count

    def reason(self) -> str | None:
        """None while every worker serves; otherwise why one of them does not."""
        if not any(self._map[:_SLOTS]):
            return None
        return self._map[_REASON_AT:].split(b"\0", 1)[0].decode("utf-8", "replace")
