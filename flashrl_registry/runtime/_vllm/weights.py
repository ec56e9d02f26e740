"""The plan between a sender and ``model.load_weights``: one update is complete or the engine does not serve.

An update begins with the first tensor after the last update ended, takes each expected tensor once, and ends when
the last one has arrived. Senders need no end mark and may send one tensor per call, in any order. A call that
begins with a tensor that the open update already has means that the sender started over, and so does this.

Names, shapes, dtypes and finiteness are checked before a tensor is handed to its layer. Any fault ends the update as
a whole, puts the engine's tensors back in place and quarantines the engine: layers that were complete hold new
weights, the others old ones, so nothing is generated until a complete update has arrived.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from flashrl_registry.compiler.engine_config import treatment_of
from flashrl_registry.documents import QuantizeFp8, QuantizeInt8, ResolvedPlan, ResolvedTensor
from flashrl_registry.documents.names import natural_key
from flashrl_registry.errors import NotServableError, PluginNotActiveError, WeightFault, WeightMismatchError
from flashrl_registry.runtime._vllm import compat
from flashrl_registry.runtime.gate import SERVE_HINT, Gate
from flashrl_registry.runtime.log import logger
from flashrl_registry.runtime.pruning import Pruning
from flashrl_registry.runtime.transform import Vectors, fault, transform

_ATTRIBUTE = "flashrl_planned_weights"
_SHOWN = 20

NamedTensors = Iterable[tuple[str, torch.Tensor]]


def _telling(tensor: ResolvedTensor, sent: torch.Tensor, outputs: list[tuple[str, torch.Tensor]]) -> torch.Tensor:
    """The tensor that is not finite where what becomes resident is not; a value may overflow on the way."""
    if isinstance(tensor.op, QuantizeInt8) and tensor.op.scales == "frozen":
        return sent  # frozen scales say nothing of the weights
    last = outputs[-1][1]
    if isinstance(tensor.op, QuantizeInt8 | QuantizeFp8):
        return last  # scales are infinite or NaN where any weight under them is
    return last.to(torch.get_default_dtype()) if last.is_floating_point() else last


class WholeUpdate:
    """An iterable of tensors that is known to be one whole update."""

    def __init__(self, weights: NamedTensors) -> None:
        self.weights = weights

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return iter(self.weights)


@dataclass
class Update:
    """One update on its way in.

    Attributes:
        missing: Expected tensors that have not arrived.
        started: Clock at the first tensor, seconds.
        ours: We opened vLLM's layerwise reload; otherwise vLLM did, and its caller knows when the update ends.
        num_bytes: Bytes received.
        busy_seconds: Time spent inside our calls.
        tied_head: A sent lm_head of a tied model, to be compared with the embedding.
        pruning: Norms that wait for the codes of their linears.
    """

    missing: set[str]
    started: float
    ours: bool
    pruning: Pruning
    num_bytes: int = 0
    busy_seconds: float = 0.0
    tied_head: torch.Tensor | None = None


@dataclass
class State:
    """What the engine serves.

    Attributes:
        kind: ``loading``, ``serving``, ``updating`` or ``quarantined``.
        reason: Why it is quarantined.
        weight_version: Complete updates since start.
        last_update: Seconds, tensors and bytes of the last complete update.
    """

    kind: str = "loading"
    reason: str = ""
    weight_version: int = 0
    last_update: dict[str, float] = field(default_factory=dict)


def planned_weights(model: nn.Module) -> "PlannedWeights | None":
    """What :meth:`PlannedWeights.install` put on a model."""
    found: PlannedWeights | None = getattr(model, _ATTRIBUTE, None)
    return found


class PlannedWeights:
    """Stands on ``model.load_weights`` of one model in one worker.

    Args:
        model: vLLM's model, before its weights are loaded.
        resolved: The plan for this environment.
        vectors: The profile's vectors, on CPU; moved to the model's device on first use.
    """

    def __init__(self, model: nn.Module, resolved: ResolvedPlan, vectors: Vectors) -> None:
        self.model = model
        self.resolved = resolved
        self.tensors = {tensor.name: tensor for tensor in resolved.tensors}
        self.state = State()
        self.update: Update | None = None
        self._vectors = {"cpu": vectors}
        self._original: Callable[[NamedTensors], set[str] | None] = model.load_weights
        self._vllm_config: Any = None
        self._gate: Gate | None = None
        self._rank = 0
        self._device = torch.get_default_device()

    def install(self) -> None:
        """Put this on the model; the instance attribute hides the class's method."""
        object.__setattr__(self.model, "load_weights", self.load_weights)
        object.__setattr__(self.model, _ATTRIBUTE, self)

    def attach(self, vllm_config: Any, gate: Gate) -> None:
        """The model is complete: from now on a call is an update, and the front end watches ``gate``."""
        parallel = vllm_config.parallel_config
        self._rank = parallel.data_parallel_rank * parallel.world_size + parallel.rank
        self._gate = gate
        self._vllm_config = vllm_config

    # -- the calls that arrive -----------------------------------------------------------------------------------

    def load_weights(self, weights: NamedTensors) -> set[str] | None:
        """Stands in for ``model.load_weights``, with the plan applied to what it is given.

        Args:
            weights: (checkpoint name, tensor) pairs: all of an update, a bucket, or one tensor.

        Returns:
            What the model's own method returns: names of the parameters that were loaded.

        Raises:
            WeightMismatchError: The update is refused as a whole; the engine is quarantined.
        """
        if self._vllm_config is None:
            return self._first_load(weights)
        began = time.perf_counter()
        whole = isinstance(weights, WholeUpdate)
        with compat.loading_context(self._vllm_config):
            if whole and self.update is not None:
                logger.warning("a whole update begins: the half-done one before it is dropped")
                self._drop_half_done()
            if self.update is None and not compat.reload_is_open(self.model):
                rest = self._without_late_tied_copy(weights)
                if rest is None:
                    return set()
                weights = rest
            elif self.update is not None and self.update.ours:
                weights = self._starting_over(weights)
            self._begin()
            try:
                loaded = self._original(self._planned(weights, clone=True))
                update = self.update
                assert update is not None
                if update.missing and whole:
                    raise self._incomplete("the update ended before it was complete")  # noqa: TRY301 - one abort path
            except BaseException as exc:
                self._abort(exc)
                raise
            update.busy_seconds += time.perf_counter() - began
            if not update.missing:
                self._commit()
        return loaded

    def _first_load(self, weights: NamedTensors) -> set[str] | None:
        if self.update is None:
            self.update = self._new_update(ours=False)
        return self._original(self._planned(weights, clone=False))

    def finish_first_load(self, *, dummy: bool) -> None:
        """The inner loader is done.

        Args:
            dummy: The program asked for random weights, which vLLM makes without ``load_weights``.

        Raises:
            PluginNotActiveError: The inner loader wrote weights past the plan.
            WeightMismatchError: The checkpoint did not hold every tensor of the plan.
        """
        if self.update is None:
            if not dummy:
                raise PluginNotActiveError(
                    "the loader never called model.load_weights, so no plan was applied",
                    hint="use load_format='auto'",
                )
            logger.info("dummy weights: the engine serves random ones until the first update")
        elif self.update.missing:
            raise self._incomplete("the checkpoint lacks tensors of the plan")
        self.update = None
        self.state.kind = "serving"

    # -- one update ----------------------------------------------------------------------------------------------

    def _new_update(self, *, ours: bool) -> Update:
        return Update(set(self.tensors), time.perf_counter(), ours, Pruning(self.resolved))

    def _begin(self) -> None:
        open_now = compat.reload_is_open(self.model)
        if self.update is not None and not open_now:
            # vLLM finalized its own bracket while tensors were missing: that update is over, and failed.
            failed = self._incomplete("the last update was finished before it was complete")
            self.update = None
            self._quarantine(failed)
        if self.update is None:
            self.update = self._new_update(ours=not open_now)
            self._set_state("updating", "a weight update is half done")
            if not open_now:
                compat.open_reload(self.model)

    def _planned(self, weights: NamedTensors, *, clone: bool) -> Iterator[tuple[str, torch.Tensor]]:
        update = self.update
        assert update is not None
        for name, value in weights:
            tensor = self.tensors.get(name)
            if tensor is None:
                if self._is_tied_copy(name):
                    if update.tied_head is not None:
                        raise self._refuse(name, "sent twice in one update")
                    update.tied_head = value.to(self._device, copy=clone)
                    continue
                raise self._refuse(name, "the plan does not decide this tensor")
            if name not in update.missing:
                raise self._refuse(name, "sent twice in one update")
            if (reason := fault(tensor, value)) is not None:
                raise self._refuse(name, reason)
            update.missing.discard(name)
            update.num_bytes += value.nbytes
            moved = value.to(self._device, non_blocking=True)
            outputs = list(transform(tensor, moved, self._vectors_on(moved.device), clone=clone and moved is value))
            if not bool(torch.isfinite(_telling(tensor, moved, outputs)).all()):
                raise self._refuse(name, "holds NaN or infinity, or overflows the engine's dtype")
            update.pruning.see(name, outputs[0][1])
            if update.pruning.concerns_norm(name):
                update.pruning.hold(name, outputs[0][1])
            else:
                yield from outputs
            yield from update.pruning.ready()

    def _is_tied_copy(self, name: str) -> bool:
        """Some trainers send the head of a tied model too; it must be the embedding, which the plan decides."""
        return self.resolved.base_model.tied_embeddings and name == "lm_head.weight"

    def _without_late_tied_copy(self, weights: NamedTensors) -> NamedTensors | None:
        """Between updates, take in a tied head that comes after the last expected tensor.

        Returns:
            The tensors that begin the next update; None where there are none. A head that differs from the resident
            embedding begins one, so it is compared again when that update is complete.
        """
        iterator = iter(weights)
        for name, value in iterator:
            if not self._is_tied_copy(name) or compat.tied_head_differs(self.model, value.to(self._device)):
                return itertools.chain([(name, value)], iterator)
        return None

    def _starting_over(self, weights: NamedTensors) -> NamedTensors:
        """Drop a half-done update when a call begins with a tensor that it already has."""
        update = self.update
        assert update is not None
        iterator = iter(weights)
        for name, value in iterator:
            known = update.tied_head is not None if self._is_tied_copy(name) else name in self.tensors
            if known and name not in update.missing:
                logger.warning("%s arrives again: the sender started over; the half-done update is dropped", name)
                self._drop_half_done()
            return itertools.chain([(name, value)], iterator)
        return ()

    def _drop_half_done(self) -> None:
        compat.abort_reload(self.model)
        self.update = None

    def _vectors_on(self, device: torch.device) -> Vectors:
        key = str(device)
        if key not in self._vectors:
            self._vectors[key] = Vectors({k: v.to(device) for k, v in self._vectors["cpu"].by_key.items()})
        return self._vectors[key]

    def _commit(self) -> None:
        update = self.update
        assert update is not None
        began = time.perf_counter()
        try:
            compat.close_reload(self.model, self._vllm_config.model_config)
            if update.tied_head is not None and compat.tied_head_differs(self.model, update.tied_head):
                raise self._refuse("lm_head.weight", "differs from the embedding that this tied model uses for it")  # noqa: TRY301 - one abort path
        except BaseException as exc:
            self._abort(exc)
            raise
        self.update = None
        version = self.state.weight_version + 1
        ended = time.perf_counter()
        self.state.weight_version = version
        self.state.last_update = {
            "seconds": update.busy_seconds + ended - began,
            "wall_seconds": ended - update.started,
            "tensors": len(self.tensors),
            "bytes": update.num_bytes,
        }
        if self._gate is not None:
            self._gate.count_update(self._rank)
        self._set_state("serving")
        logger.info(
            "weight update %d: %d tensors, %.1f MB, %.3f s",
            version, len(self.tensors), update.num_bytes / 1e6, self.state.last_update["seconds"],
        )  # fmt: skip

    def _abort(self, exc: BaseException) -> None:
        self.update = None
        compat.abort_reload(self.model)
        compat.refresh_tied_head(self.model)
        self._quarantine(exc)

    def _quarantine(self, exc: BaseException) -> None:
        self._set_state("quarantined", f"quarantined after a failed weight update: {str(exc) or type(exc).__name__}")
        logger.error("weight update refused, the engine will not generate until a complete one arrives: %s", exc)

    def discard(self) -> None:
        """The weights are gone (sleep level 2): refuse to generate until a complete update has arrived."""
        self._set_state("quarantined", "sleep level 2 discarded the weights")

    def _set_state(self, kind: str, reason: str = "") -> None:
        self.state.kind, self.state.reason = kind, reason
        if self._gate is not None:
            self._gate.set(self._rank, refusing=kind != "serving", reason=reason)

    # -- errors --------------------------------------------------------------------------------------------------

    def _refuse(self, name: str, reason: str) -> WeightMismatchError:
        return WeightMismatchError("weight update refused", [WeightFault(name, reason)], hint=SERVE_HINT)

    def _incomplete(self, what: str) -> WeightMismatchError:
        assert self.update is not None
        missing = sorted(self.update.missing, key=natural_key)
        faults = [WeightFault(name, "missing") for name in missing[:_SHOWN]]
        if len(missing) > _SHOWN:
            faults.append(WeightFault(f"and {len(missing) - _SHOWN} more", "missing"))
        return WeightMismatchError(f"{what}: {len(missing)} of {len(self.tensors)} tensors are missing", faults)

    def check_servable(self) -> None:
        """Refuse a forward with weights that are not one whole update.

        Raises:
            NotServableError: An update is half done, or the last one failed.
        """
        if self.state.kind == "serving":
            return
        reason = self.state.reason
        if self.state.kind == "updating" and self.update is not None:
            reason = str(self._incomplete(reason))
        raise NotServableError(f"the engine refuses to generate: {reason}", hint=SERVE_HINT)

    def count_treatments(self) -> dict[str, int]:
        """Number of tensors per treatment."""
        counts: dict[str, int] = {}
        for tensor in self.tensors.values():
            kind = treatment_of(tensor.op)
            counts[kind] = counts.get(kind, 0) + 1
        return counts
