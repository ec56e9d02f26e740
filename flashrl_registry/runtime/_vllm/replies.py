"""Keeps an executor's calls and its workers' replies in step after a call that failed.

vLLM's multi-process executor takes one reply per worker and call off a queue per worker. Where a worker replies with
an error it raises at once and leaves the replies of the workers behind it on their queues; the next call takes those
for its own. A refused update would be reported again for the complete one after it, reports would be one call old,
and with pipeline parallelism, whose last worker answers for all, a forward would return the tokens of another call.

Tested: 0.27.1 and 0.32.0, where two workers cannot be healed without it. Goes when ``collective_rpc`` takes every
reply before it raises.
"""

import sys
from typing import Any

from flashrl_registry.runtime.log import logger

_MODULE = "vllm.v1.executor.multiproc_executor"
_SECONDS = 60.0


class _Reply:
    """One worker's queue for one call; an error in it takes the others' replies to the same call off theirs.

    Args:
        executor: Ends where the others do not reply.
        queue: The worker's.
        behind: Of the workers that the executor would ask after this one.
    """

    def __init__(self, executor: Any, queue: Any, behind: list[Any]) -> None:
        self._executor = executor
        self._queue = queue
        self._behind = behind

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)  # the executor shuts queues down while a call waits on them

    def dequeue(self, timeout: float | None = None) -> Any:
        """Take the reply to this call.

        Args:
            timeout: Seconds.
        """
        reply = self._queue.dequeue(timeout=timeout)
        if reply[0] == _statuses().SUCCESS:
            return reply
        try:
            for queue in self._behind:
                queue.dequeue(timeout=_SECONDS)
        except TimeoutError:
            logger.error("a worker failed and another does not reply; this executor runs nothing more")
            self._executor.is_failed = True
        except RuntimeError as exc:  # a worker died and the queues were cancelled: the first error says more
            logger.error("a worker failed, and the executor ended: %s", exc)
        return reply


def _statuses() -> Any:
    return sys.modules[_MODULE].WorkerProc.ResponseStatus


def keep_in_step() -> None:
    """Wrap ``MultiprocExecutor.collective_rpc`` in this process, where the executor is used at all."""
    module = sys.modules.get(_MODULE)
    if module is None:
        return
    executor_class = module.MultiprocExecutor
    original = executor_class.collective_rpc
    if getattr(original, "flashrl_wrapped", False):
        return

    def collective_rpc(self, *args, non_block: bool = False, unique_reply_rank: int | None = None, **kwargs):  # type: ignore[no-untyped-def]
        queues = replies = self.response_mqs
        if unique_reply_rank is None and not non_block:
            replies = [_Reply(self, queue, queues[place + 1 :]) for place, queue in enumerate(queues)]
            self.response_mqs = replies
        try:
            return original(self, *args, non_block=non_block, unique_reply_rank=unique_reply_rank, **kwargs)
        finally:
            if self.response_mqs is replies:  # it is not after a shutdown
                self.response_mqs = queues

    collective_rpc.flashrl_wrapped = True  # type: ignore[attr-defined]
    executor_class.collective_rpc = collective_rpc
