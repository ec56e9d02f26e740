"""Whether updates are made in place: asked before each one, answered by a proof once per set of addresses."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from flashrl_registry.documents import Rescale, ResolvedPlan, ResolvedTensor
from flashrl_registry.ops import kernels_run
from flashrl_registry.runtime._vllm.in_place import InPlace
from flashrl_registry.runtime._vllm.intake import Intake
from flashrl_registry.runtime._vllm.places import find_places
from flashrl_registry.runtime.log import logger


class InPlaceWay:
    """Finds out where an engine's tensors are, and forgets it when they may have moved.

    Args:
        model: vLLM's.
        resolved: Its plan.
        tensors: What an update sends, by name.
        intake: Knows what the last complete update left.
    """

    def __init__(
        self, model: nn.Module, resolved: ResolvedPlan, tensors: Mapping[str, ResolvedTensor], intake: Intake
    ) -> None:
        self._model, self._resolved, self._tensors, self._intake = model, resolved, tensors, intake
        self._target: InPlace | None = None
        self._to_be_found = False

    @property
    def target(self) -> InPlace:
        """Where an update is written, after :meth:`is_open` said so."""
        assert self._target is not None
        return self._target

    def attach(self, vllm_config: Any) -> None:
        """The model is complete. Places are worth looking for where one worker on a GPU holds whole tensors."""
        alone = vllm_config.parallel_config.world_size == 1
        waits = any(isinstance(tensor.op, Rescale) and tensor.op.dead_inputs_of for tensor in self._resolved.tensors)
        staged = self._resolved.update_mode == "staged"
        self._to_be_found = kernels_run(self._intake.device) and alone and not waits and not staged

    def may_open(self, *, serving: bool) -> bool:
        """As :meth:`is_open`, before places are looked for.

        Args:
            serving: The engine holds one whole update.
        """
        return self._target is not None or (self._to_be_found and serving)

    def is_open(self, *, serving: bool) -> bool:
        """Whether the next update goes this way; looks for places where they are not known and could be proven."""
        if self._target is not None and not self._target.holds():
            self._target, self._to_be_found = None, True
        if self._target is None and self._to_be_found and serving and self._intake.sent.rows:
            self._to_be_found = False
            self._find()
        return self._target is not None

    def forget(self) -> None:
        """The weights are gone, and with them what was proven."""
        self._to_be_found = self._to_be_found or self._target is not None
        self._target = None

    def _find(self) -> None:
        places, reason = find_places(self._model, self._resolved, self._tensors, self._intake.sent)
        if places:
            self._target = InPlace(places, self._intake.sent, self._intake.telemetry)
        logger.info("weight updates %s", f"go through vLLM's loaders: {reason}" if reason else "are made in place")
