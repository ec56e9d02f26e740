"""One update on its way in, and what the engine serves meanwhile."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch

from flashrl_registry.compiler.modules import engine_module
from flashrl_registry.documents import ResolvedTensor
from flashrl_registry.documents.names import natural_key
from flashrl_registry.errors import WeightFault, WeightMismatchError
from flashrl_registry.runtime.gate import SERVE_HINT
from flashrl_registry.runtime.pruning import Pruning

_SHOWN = 20

NamedTensors = Iterable[tuple[str, torch.Tensor]]


class WholeUpdate:
    """An iterable of tensors that is known to be one whole update.

    Args:
        weights: (name, tensor) pairs.
        unchanged: The tensors are memory-mapped files, of which it raises where they changed since. Such tensors need
            not be copied where they go into the engine at once.
    """

    def __init__(self, weights: NamedTensors, *, unchanged: Callable[[], None] | None = None) -> None:
        self.weights = weights
        self.unchanged = unchanged

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return iter(self.weights)


@dataclass
class Update:
    """One update on its way in.

    Attributes:
        missing: Expected tensors that have not arrived.
        started: Clock at the first tensor, seconds.
        ours: We opened vLLM's layerwise reload; otherwise vLLM did, and its caller knows when the update ends.
        pruning: Norms that wait for the codes of their linears.
        announced: Somebody will say when it ends.
        partial: Some layers only.
        staged: What goes into the engine at the end; None where it goes in as it arrives.
        in_place: It is written to where the engine reads, past vLLM's loaders.
        num_bytes: Bytes received.
        busy_seconds: Time spent inside our calls.
        tied_head: A sent lm_head of a tied model, to be compared with the embedding.
        last: The tensor that was looked at last.
        refusals: Requests that front ends had refused when a call arrived last.
        unchanged: Raises where the files that it comes from have changed.
    """

    missing: set[str]
    started: float
    ours: bool
    pruning: Pruning
    announced: bool = False
    partial: bool = False
    staged: list[tuple[str, torch.Tensor]] | None = None
    in_place: bool = False
    num_bytes: int = 0
    busy_seconds: float = 0.0
    tied_head: torch.Tensor | None = None
    last: str | None = None
    refusals: int = 0
    unchanged: Callable[[], None] | None = None

    def check_complete(self, what: str, tensors: Mapping[str, ResolvedTensor]) -> None:
        """Every tensor has arrived; of a partial update, every tensor of the layers that it touches.

        Raises:
            WeightMismatchError: Names what is missing.
        """
        missing = self.half_loaded(tensors) if self.partial else self.missing
        if missing:
            raise incomplete(what, missing, len(tensors))

    def half_loaded(self, tensors: Mapping[str, ResolvedTensor]) -> set[str]:
        """Tensors that have not arrived and whose layers hold others that have."""
        touched = {engine_module(name) for name in tensors.keys() - self.missing}
        return {name for name in self.missing if engine_module(name) in touched} | self.pruning.waiting()


@dataclass
class State:
    """What the engine serves.

    Attributes:
        kind: ``loading``, ``serving``, ``updating`` or ``quarantined``.
        reason: Why it does not serve.
        weight_version: Complete updates since start.
        last_update: Seconds, tensors, bytes and drift of the last complete update.
        last_failure: Why the last update failed; empty once one has succeeded.
    """

    kind: str = "loading"
    reason: str = ""
    weight_version: int = 0
    last_update: dict[str, float] = field(default_factory=dict)
    last_failure: str = ""


def refused(name: str, reason: str) -> WeightMismatchError:
    """The error for one tensor that ends an update."""
    return WeightMismatchError("weight update refused", [WeightFault(name, reason)], hint=SERVE_HINT)


def incomplete(what: str, missing: Iterable[str], total: int) -> WeightMismatchError:
    """The error for an update that ended too early; lists names in natural order."""
    names = sorted(missing, key=natural_key)
    faults = [WeightFault(name, "missing") for name in names[:_SHOWN]]
    if len(names) > _SHOWN:
        faults.append(WeightFault(f"and {len(names) - _SHOWN} more", "missing"))
    return WeightMismatchError(f"{what}: {len(names)} of {total} tensors are missing", faults)


def check_finite(name: str, finite: torch.Tensor | bool) -> None:
    """Refuse a tensor of which ``finite`` is false; waits for its device.

    Raises:
        WeightMismatchError: A value is NaN or infinite in what becomes resident; it may overflow on the way.
    """
    if not finite:
        raise refused_as_not_finite(name)


def refused_as_not_finite(name: str) -> WeightMismatchError:
    """The error for a value that is NaN or infinite in what becomes resident; it may overflow on the way."""
    return refused(name, "holds NaN or infinity, or overflows the engine's dtype")
