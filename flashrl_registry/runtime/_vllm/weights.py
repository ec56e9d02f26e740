"""The plan between a sender and ``model.load_weights``: one update is complete or it does not count.

An update begins with the first tensor after the last update ended, takes each expected tensor once, and ends when
the last one has arrived. Senders need no end mark and may send one tensor per call, in any order. A call that
begins with a tensor that the open update already has means that the sender started over, and so does this; after a
refused update a tensor that began one before may say so, too (``passes.py``). A sender that knows its end may tell it
(``begin_update``, ``finish_update``), and then may send some layers only.

Names, shapes, dtypes and finiteness are checked before a tensor is handed to its layer. Any fault ends the update as
a whole and puts the engine's tensors back in place. What follows depends on the plan: a *quarantined* engine, whose
complete layers hold new weights and the others old ones, generates nothing until a complete update has arrived; a
*staged* update has touched no layer yet, and the old weights go on serving.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from flashrl_registry.compiler.engine_config import treatment_of
from flashrl_registry.documents import ResolvedPlan
from flashrl_registry.errors import NotServableError, PluginNotActiveError, RuntimeLoadError
from flashrl_registry.runtime._vllm import compat
from flashrl_registry.runtime._vllm.in_place_way import InPlaceWay
from flashrl_registry.runtime._vllm.intake import Intake
from flashrl_registry.runtime._vllm.overflow import OverflowWatch
from flashrl_registry.runtime._vllm.ready import passed_through
from flashrl_registry.runtime._vllm.tied_head import TiedHead
from flashrl_registry.runtime._vllm.update import (
    NamedTensors,
    State,
    Update,
    WholeUpdate,
    incomplete,
    refused,
)
from flashrl_registry.runtime.arrivals import unfused, unusable
from flashrl_registry.runtime.gate import SERVE_HINT, Gate
from flashrl_registry.runtime.log import logger
from flashrl_registry.runtime.passes import Passes
from flashrl_registry.runtime.pruning import Pruning
from flashrl_registry.runtime.start_model import ReadyMade
from flashrl_registry.runtime.transform import Vectors

_ATTRIBUTE = "flashrl_planned_weights"


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
        # vLLM builds a model with its device as the default one, and loads it without.
        device = next((p.device for p in model.parameters() if not p.is_meta), torch.get_default_device())
        self._tied = TiedHead(model, resolved, device)
        # Some tied models' files hold the head as well; trainers may send it, and the engine has no place for it.
        self.tensors = {tensor.name: tensor for tensor in resolved.tensors if not self._tied.is_copy(tensor.name)}
        self.state = State()
        self.update: Update | None = None
        self._intake = Intake(resolved, self.tensors, vectors, device)
        self.sent = self._intake.sent
        self.ready_made: dict[str, ReadyMade] | None = None  # set where the first load is of a quantized checkpoint
        self._staging = resolved.update_mode == "staged"
        self._passes = Passes()
        self._in_place = InPlaceWay(model, resolved, self.tensors, self._intake)
        self._original: Callable[[NamedTensors], set[str] | None] = model.load_weights
        self._vllm_config: Any = None
        self._gate: Gate | None = None
        self._rank = 0
        self._dummy = False
        self._overflow = OverflowWatch(device)
        self._clears_kv_cache = False
        # A program may send from one thread and generate in another; a whole call of either is one step of the other.
        self.lock = threading.RLock()

    def install(self) -> None:
        """Put this on the model; the instance attribute hides the class's method."""
        object.__setattr__(self.model, "load_weights", self.load_weights)
        object.__setattr__(self.model, _ATTRIBUTE, self)

    def attach(self, vllm_config: Any, gate: Gate | None) -> None:
        """The model is complete: from now on a call is an update, and the front end watches ``gate``."""
        parallel = vllm_config.parallel_config
        # vLLM resets data_parallel_rank in replicas that are independent of each other; the index stays.
        self._rank = parallel.data_parallel_index * parallel.world_size + parallel.rank
        self._gate = gate
        self._vllm_config = vllm_config
        self._in_place.attach(vllm_config)
        self._overflow.install(self.model)
        compat.remember_emptied(self.model)
        compat.remember_expert_kernels(self.model)

    # -- the calls that arrive -----------------------------------------------------------------------------------

    def load_weights(self, weights: NamedTensors) -> set[str] | None:
        """Stands in for ``model.load_weights``, with the plan applied to what it is given.

        Args:
            weights: (checkpoint name, tensor) pairs: all of an update, a bucket, or one tensor.

        Returns:
            What the model's own method returns: names of the parameters that were loaded.

        Raises:
            WeightMismatchError: The update is refused as a whole.
        """
        if self._vllm_config is None:
            return self._first_load(weights)
        began = time.perf_counter()
        whole = isinstance(weights, WholeUpdate)
        unchanged = weights.unchanged if isinstance(weights, WholeUpdate) else None
        with self.lock, compat.loading_context(self._vllm_config):
            rest = self._continued(weights, whole=whole)
            if rest is None:
                return set()
            update = self._begin()
            update.unchanged = unchanged
            try:
                loaded = self._take(update, rest, clone=unchanged is None or update.staged is not None)
                if whole and not update.partial:
                    update.check_complete("the update ended before it was complete", self.tensors)
            except BaseException as exc:
                self._abort(exc)
                raise
            update.busy_seconds += time.perf_counter() - began
            if not update.missing and not update.announced:
                self._commit(update)
        return loaded

    def begin_update(self, *, partial: bool = False) -> None:
        """The sender will say when its update ends.

        Args:
            partial: It sends some layers only, each of them whole.

        Raises:
            RuntimeLoadError: A partial update of weights that are not whole now.
        """
        with self.lock, compat.loading_context(self._vllm_config):
            if self.update is not None:
                logger.warning("an update is announced: the half-done one before it is dropped")
                self._drop_half_done()
            if partial and (self.state.kind != "serving" or self._dummy):
                reason = "load_format='dummy': its weights are random" if self._dummy else self.state.reason
                raise RuntimeLoadError(
                    f"a partial update cannot make the engine whole: {reason}",
                    hint=SERVE_HINT,
                )
            update = self._begin()
            update.announced, update.partial = True, partial

    def finish_update(self) -> dict[str, float]:
        """The sender has sent everything.

        Returns:
            Seconds, tensors and bytes of the update.

        Raises:
            WeightMismatchError: Tensors are missing; the update is refused as a whole.
            RuntimeLoadError: No update is open.
        """
        with self.lock, compat.loading_context(self._vllm_config):
            update = self.update
            if update is None:
                raise RuntimeLoadError(
                    f"no weight update is open; the last one: {self.state.last_failure or 'complete'}",
                    hint="begin one first; a complete update without an announcement finishes by itself",
                )
            try:
                update.check_complete("the update was finished before it was complete", self.tensors)
            except BaseException as exc:
                self._abort(exc)
                raise
            self._commit(update)
        return dict(self.state.last_update)

    def abort_update(self, reason: str = "the sender gave it up") -> None:
        """Drop an update that is half done, if there is one."""
        with self.lock:
            if self.update is not None:
                with compat.loading_context(self._vllm_config):
                    self._abort(RuntimeLoadError(reason))

    def _first_load(self, weights: NamedTensors) -> set[str] | None:
        if self.update is None:
            self.update = self._new_update(ours=False)
            if self.ready_made is not None:
                self.update.missing = set(self.ready_made)
        if self.ready_made is None:
            return self._original(self._planned(self.update, weights, clone=False))
        stream = passed_through(weights, self.ready_made, self.update, self.sent, is_tied_copy=self._tied.is_copy)
        return self._original(stream)

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
            self._dummy = True
            self.state.reason = "load_format='dummy': random weights until the first update"
            logger.warning("the program asked for %s", self.state.reason)
        elif self.update.missing:
            raise incomplete("the checkpoint lacks tensors of the plan", self.update.missing, len(self.tensors))
        else:
            self.state.last_update = self._intake.telemetry.finish()
            self.sent.commit()
        self.update = None
        self.state.kind = "serving"

    # -- one update ----------------------------------------------------------------------------------------------

    def _new_update(self, *, ours: bool) -> Update:
        self._intake.begin()
        update = Update(set(self.tensors), time.perf_counter(), ours, Pruning(self.resolved))
        update.staged = [] if self._staging and self._vllm_config is not None else None
        return update

    def _continued(self, weights: NamedTensors, *, whole: bool) -> NamedTensors | None:
        """Find out whether a call goes on with the open update; None where it holds nothing to do."""
        if whole and self.update is not None and not self.update.announced:
            logger.warning("a whole update begins: the half-done one before it is dropped")
            self._drop_half_done()
        if self.update is None and not compat.reload_is_open(self.model):
            return self._tied.without_late_copy(weights)
        if self.update is not None and self.update.ours and not self.update.announced:
            return self._starting_over(weights)
        return weights

    def _begin(self) -> Update:
        open_now = compat.reload_is_open(self.model)
        if open_now and (self._staging or self._may_be_in_place()):
            compat.abort_reload(self.model)  # vLLM opened it: the tensors that kernels read go back
            open_now = False
        in_place = self.takes_in_place()
        if self.update is not None and self.update.staged is None and not (open_now or self.update.in_place):
            self._continue_after_vllm(self.update)
        if self.update is None:
            self.update = self._new_update(ours=not open_now)
            self.update.in_place = in_place
            self.update.refusals = self._refusals()
            if self.update.staged is None:
                self._set_state("updating", "a weight update is half done")
                if in_place:
                    self._in_place.target.begin()
                elif not open_now:
                    compat.open_reload(self.model)
        return self.update

    def _may_be_in_place(self) -> bool:
        """As :meth:`takes_in_place`, before places are looked for, which an open reload hides."""
        if self.update is not None:
            return self.update.in_place
        return self._in_place.may_open(serving=self.state.kind == "serving")

    def takes_in_place(self) -> bool:
        """Whether the open update, or the next one, is written to where the engine reads, past vLLM's loaders."""
        if self.update is not None:
            return self.update.in_place
        return self._in_place.is_open(serving=self.state.kind == "serving")

    def _continue_after_vllm(self, update: Update) -> None:
        """The reload was finalized by vLLM while tensors were missing; half-loaded layers were processed, too."""
        lost = update.half_loaded(self.tensors) if update.announced else update.missing
        if not lost:
            compat.open_reload(self.model)
            return
        failed = incomplete("vLLM finished the last update before it was complete", lost, len(self.tensors))
        self.update = None
        self._quarantine(failed)

    def _take(self, update: Update, weights: NamedTensors, *, clone: bool) -> set[str] | None:
        if update.in_place:
            self._write(update, weights)
            return None
        if update.staged is None:
            return self._original(self._planned(update, weights, clone=clone))
        update.staged.extend(self._planned(update, weights, clone=clone))
        return set()

    def _write(self, update: Update, weights: NamedTensors) -> None:
        target = self._in_place.target
        for name, value in self._arriving(update, weights, clone=True):
            self._intake.write(update, name, value, target)
        if update.missing:  # the last tensor waits for the whole device
            torch.cuda.current_stream(self._intake.device).synchronize()  # the sender may use its buffers again

    def _planned(self, update: Update, weights: NamedTensors, *, clone: bool) -> Iterator[tuple[str, torch.Tensor]]:
        """What the engine gets; nothing of the sender's memory stays in it where ``clone`` is true."""
        for name, value in self._arriving(update, weights, clone=clone):
            for output in self._intake.take(update, name, value):
                # vLLM keeps tensors until their layer is complete, and senders reuse their buffers.
                yield (name, value.clone()) if clone and output[1] is value else output

    def _arriving(self, update: Update, weights: NamedTensors, *, clone: bool) -> Iterator[tuple[str, torch.Tensor]]:
        """Under the plan's names; a tied model's head is put aside."""
        for sent_name, sent in weights:
            if self._tied.is_copy(sent_name):
                if update.tied_head is not None:
                    raise refused(sent_name, "sent twice in one update")
                if (reason := unusable(sent_name, sent)) is not None:
                    raise refused(sent_name, reason)
                update.tied_head = sent.to(self._intake.device, copy=clone)
                continue
            for name, value in unfused(sent_name, sent, self.tensors):
                first = len(update.missing) == len(self.tensors) and name in self.tensors
                if first and update.ours and not update.announced:
                    self._passes.begins(name)
                yield name, value

    def _commit(self, update: Update) -> None:
        began = time.perf_counter()
        try:
            if update.unchanged is not None:
                update.unchanged()
            if (staged := update.staged) is not None:
                self._tied.check_staged(update.tied_head, staged)
                self._set_state("updating", "a staged weight update goes in")
                update.staged = None  # from here on layers may hold its weights
                compat.open_reload(self.model)
                self._original(iter(staged))
            if update.in_place:
                self._in_place.target.settle(self._intake.vectors)
            else:
                compat.close_reload(self.model, self._vllm_config.model_config)
            self._tied.check(update.tied_head)
            if update.unchanged is not None and staged is None:
                update.unchanged()  # what a layer waited for was mapped until now
        except BaseException as exc:
            self._abort(exc)
            raise
        self.update = None
        self._dummy = False
        self._passes.completed()
        self.sent.commit()
        if self._overflow.take():
            self._clears_kv_cache = True
            logger.warning("tokens came from hidden states that are not finite; all cached keys and values are cleared")
        version = self.state.weight_version + 1
        ended = time.perf_counter()
        self.state.weight_version = version
        self.state.last_failure = ""
        self.state.last_update = {
            "seconds": update.busy_seconds + ended - began,
            "wall_seconds": ended - update.started,
            "tensors": len(self.tensors) - len(update.missing),
            "bytes": update.num_bytes,
            **self._intake.telemetry.finish(),
        }
        if self._gate is not None:
            self._gate.count_update(self._rank)
        self._set_state("serving")
        logger.info(
            "weight update %d: %d tensors, %.1f MB, %.3f s",
            version, self.state.last_update["tensors"], update.num_bytes / 1e6, self.state.last_update["seconds"],
        )  # fmt: skip

    def _drop_half_done(self) -> None:
        if self.update is not None and self.update.staged is None:
            compat.abort_reload(self.model)
        self.update = None
        self._passes.disturbed()

    def _abort(self, exc: BaseException) -> None:
        staged = self.update is not None and self.update.staged is not None
        self._passes.disturbed(None if self.update is None else self.update.last)
        self.update = None
        self.state.last_failure = str(exc) or type(exc).__name__
        if staged:
            logger.error("weight update refused, the old weights go on serving: %s", exc)
            return
        compat.abort_reload(self.model)
        compat.refresh_tied_head(self.model)
        self._quarantine(exc)

    def _quarantine(self, exc: BaseException) -> None:
        self.state.last_failure = str(exc) or type(exc).__name__
        self._set_state("quarantined", f"quarantined after a failed weight update: {self.state.last_failure}")
        logger.error("weight update refused, the engine will not generate until a complete one arrives: %s", exc)

    def discard(self) -> None:
        """The weights are gone (sleep level 2): refuse to generate until a complete update has arrived."""
        self._intake.forget()
        self._in_place.forget()
        self._set_state("quarantined", "sleep level 2 discarded the weights")

    def _refusals(self) -> int:
        return 0 if self._gate is None else self._gate.refusals()

    def _set_state(self, kind: str, reason: str = "") -> None:
        self.state.kind, self.state.reason = kind, reason
        if self._gate is not None:
            self._gate.set(self._rank, refusing=kind != "serving", reason=reason)

    # -- what a call begins with ---------------------------------------------------------------------------------

    def _starting_over(self, weights: NamedTensors) -> NamedTensors:
        """Drop a half-done update when a call begins with a tensor that begins a pass, or that it already has."""
        update = self.update
        assert update is not None
        if (refusals := self._refusals()) != update.refusals:
            update.refusals = refusals
            self._passes.interrupted()
        iterator = iter(weights)
        for name, value in iterator:
            first = next(unfused(name, value, self.tensors))[0]
            missing = update.missing
            if self._tied.is_copy(first):
                missing = set() if update.tied_head is not None else {first}
            elif first not in self.tensors:
                missing = {first}  # refused in its place
            if self._passes.starts_over(first, missing):
                logger.warning(
                    "%s begins a pass: the sender started over; the half-done update is dropped. A sender that changes "
                    "its order after a refused update has to say where one begins: flashrl_registry.runtime.updating",
                    name,
                )
                self._drop_half_done()
            return itertools.chain([(name, value)], iterator)
        return ()

    # -- what is told --------------------------------------------------------------------------------------------

    def check_servable(self) -> None:
        """Before a forward: refuse it with weights that are not one whole update.

        Raises:
            NotServableError: An update is half done, or the last one failed.
        """
        try:
            self.check_whole()
        except NotServableError:
            self._passes.interrupted()
            raise
        self._passes.generated()

    def check_whole(self) -> None:
        """Refuse to speak of weights that are not one whole update.

        Raises:
            NotServableError: An update is half done, or the last one failed.
        """
        if self.state.kind == "serving":
            return
        reason = self.state.reason
        if self.state.kind == "updating" and self.update is not None:
            reason = str(incomplete(reason, self.update.missing, len(self.tensors)))
        raise NotServableError(f"the engine refuses to generate: {reason}", hint=SERVE_HINT)

    def take_clears_kv_cache(self) -> bool:
        """Whether keys and values of old weights are to be set to zero before the next forward; once."""
        clears, self._clears_kv_cache = self._clears_kv_cache, False
        return clears

    def count_treatments(self) -> dict[str, int]:
        """Number of tensors per treatment."""
        counts: dict[str, int] = {}
        for tensor in self.tensors.values():
            kind = treatment_of(tensor.op)
            counts[kind] = counts.get(kind, 0) + 1
        return counts
