"""The same tasks on Ray: each worker opens the checkpoints itself and sends back what it found in a layer.

A folder must be at the same path on every node; a model on the Hub is opened at the same commit. Results do not
depend on who computed them, so a profile made on Ray has the bytes of one made here.
"""

from collections.abc import Generator, Sequence
from typing import Any

from flashrl_registry.errors import MissingDependencyError, ProfilingError
from flashrl_registry.profiling.layer import Layer, Result, Task
from flashrl_registry.profiling.pair import CheckedPair, check_pair, open_pair

_CHECKED: dict[tuple[str, str], CheckedPair] = {}
"""Pairs whose headers this worker has read."""


def measure_on_ray(
    checked: CheckedPair, tasks: Sequence[tuple[int, Task]], address: str, *, every_row: bool
) -> Generator[tuple[int, Result, int], None, None]:
    """Measure tasks on a cluster.

    Args:
        checked: The pair.
        tasks: Their numbers and tasks.
        address: ``local`` starts Ray here; ``auto`` or an address joins a cluster. A connection that is open is used.
        every_row: Compare every row.

    Yields:
        Number, result, and the bytes that were read, in the order in which they finish.

    Raises:
        MissingDependencyError: Ray is not installed.
        ProfilingError: There is no cluster at the address.
    """
    try:
        import ray
    except ImportError as exc:
        hint = 'pip install "flashrl-registry[ray]"'
        raise MissingDependencyError("--ray needs Ray, which is not installed", hint=hint) from exc
    started = not ray.is_initialized()
    if started:
        try:
            ray.init(address=None if address == "local" else address, log_to_driver=False, include_dashboard=False)
        except (ConnectionError, ValueError, RuntimeError) as exc:
            raise ProfilingError(f"no Ray cluster at {address!r}: {exc}", hint="--ray local starts one here") from exc
    try:
        measure = ray.remote(measure_task)
        pair = checked.reference.address, checked.quantized.address
        numbers: dict[Any, int] = {}
        for number, task in tasks:
            numbers[measure.remote(pair, task, every_row=every_row)] = number
        while numbers:
            (done,), _ = ray.wait(list(numbers), num_returns=1)
            result, num_bytes = ray.get(done)
            yield numbers.pop(done), result, num_bytes
    finally:
        if started:
            ray.shutdown()


def measure_task(pair: tuple[str, str], task: Task, *, every_row: bool) -> tuple[Result, int]:
    """Measure one task in this process; returns the result and the bytes that were read."""
    if pair not in _CHECKED:
        _CHECKED[pair] = check_pair(*pair, None)
    checked = _CHECKED[pair]
    with open_pair(checked, every_row=every_row) as opened:
        result = Layer(opened, task, checked.heads, every_row=every_row, tick=_ignore).run()
        return result, opened.reference.bytes_read + opened.quantized.bytes_read


def _ignore(name: str) -> None:
    """Progress is told by whoever collects the results."""
