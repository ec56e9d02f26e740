"""The head of a model whose head is its embedding: trainers may send it, and the engine has no place for it."""

import itertools

import torch
from torch import nn

from flashrl_registry.compiler.modules import is_embedding_weight
from flashrl_registry.documents import ResolvedPlan
from flashrl_registry.runtime._vllm import compat
from flashrl_registry.runtime._vllm.update import NamedTensors, refused
from flashrl_registry.runtime.arrivals import unusable

_HEAD = "lm_head.weight"


class TiedHead:
    """Tells the head among what is sent, and refuses one that is not the embedding.

    Args:
        model: vLLM's.
        resolved: Its plan, which decides the embedding.
        device: The model's.
    """

    def __init__(self, model: nn.Module, resolved: ResolvedPlan, device: torch.device) -> None:
        self._model, self._device = model, device
        self._tied = resolved.base_model.tied_embeddings

    def is_copy(self, name: object) -> bool:
        """The tensor is the head of a tied model."""
        return self._tied and isinstance(name, str) and name.endswith(_HEAD)

    def without_late_copy(self, weights: NamedTensors) -> NamedTensors | None:
        """Between updates, take in a head that comes after the last expected tensor.

        Returns:
            The tensors that begin the next update; None where there are none. A head that differs from the resident
            embedding begins one, so it is compared again when that update is complete.
        """
        iterator = iter(weights)
        for name, value in iterator:
            late = self.is_copy(name) and unusable(name, value) is None
            if not late or compat.tied_head_differs(self._model, value.to(self._device)):
                return itertools.chain([(name, value)], iterator)
        return None

    def check(self, head_VH: torch.Tensor | None) -> None:
        """Compare a head that was sent with the resident embedding.

        Raises:
            WeightMismatchError: It differs.
        """
        if head_VH is not None and compat.tied_head_differs(self._model, head_VH):
            raise refused(_HEAD, "differs from the embedding that this tied model uses for it")

    def check_staged(self, head_VH: torch.Tensor | None, staged: list[tuple[str, torch.Tensor]]) -> None:
        """The same with an embedding that has not gone in: the old weights go on serving where they differ.

        Raises:
            WeightMismatchError: It differs.
        """
        if head_VH is None:
            return
        for name, value in staged:
            if is_embedding_weight(name) and not torch.equal(value, head_VH.to(value.dtype)):
                raise refused(_HEAD, f"differs from {name}, which this tied model uses for it")
