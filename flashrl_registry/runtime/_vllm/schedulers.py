"""Nothing is scheduled on keys and values that older weights made.

A request may be queued before an update and run after it, and one in flight goes on after it. So the scheduler drops
cached prefixes itself before its first step after an update; requests in flight lose their blocks and are computed
again. Front ends drop prefixes too (:func:`~flashrl_registry.runtime._vllm.front_ends.guard_front_ends`), which
reaches schedulers on machines that this one's file does not.

Tested: 0.27.1, 0.32.0. Goes when vLLM drops prefixes with every weight update.
"""

from collections.abc import Callable
from typing import Any


def guard_schedulers(updates: Callable[[Any], bytes | None]) -> None:
    """Make every scheduler of this process look for updates before it schedules.

    Args:
        updates: Told a VllmConfig, gives a value that differs after every update; None where nothing is known.
    """
    from vllm.v1.core.sched.scheduler import Scheduler

    original = Scheduler.schedule
    if getattr(original, "flashrl_wrapped", False):
        return

    def schedule(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        now = updates(self.vllm_config)
        if now is not None:
            before = getattr(self, "flashrl_updates", bytes(len(now)))
            if before != now:
                if not self.reset_prefix_cache():
                    self.reset_prefix_cache(reset_running_requests=True)
                self.flashrl_updates = now
        return original(self, *args, **kwargs)

    schedule.flashrl_wrapped = True  # type: ignore[attr-defined]
    Scheduler.schedule = schedule
