"""The head of a model whose head is its embedding: trainers may send it, and the engine has no place for it.

Some send it last, as ``state_dict()`` has it, and then it may come alone, when the update is complete. One that
differs from the embedding is then a fault of that update. Where the last update had its head, or more tensors follow in
the same call, it begins the next one, and is compared when that is complete.
"""

import itertools
from collections.abc import Iterator

import torch
from torch import nn

from flashrl_registry.compiler.modules import is_embedding_weight
from flashrl_registry.documents import ResolvedPlan, ResolvedTensor
from flashrl_registry.runtime._vllm import compat
from flashrl_registry.runtime._vllm.update import NamedTensors, refused
from flashrl_registry.runtime.arrivals import unusable
from flashrl_registry.runtime.transform import fault

_HEAD, _EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


class TiedHead:
    """Tells the head among what is sent, and refuses one that is not the embedding.

    Args:
        model: vLLM's.
        resolved: Its plan, which decides the embedding.
        device: The model's.
    """

    def __init__(self, model: nn.Module, resolved: ResolvedPlan, device: torch.device) -> None:
        self._model, self._device = model, device
        tied = resolved.base_model.tied_embeddings
        self._embedding = embedding_of(resolved) if tied else None
        self._names = names_of_head(resolved, self._embedding) if tied else frozenset()
        self._may_follow = False  # the last update is complete, and nothing has come since that could be its head

    def is_copy(self, name: object) -> bool:
        """The tensor is the head of a tied model."""
        return isinstance(name, str) and name in self._names

    def without_late_copy(self, weights: NamedTensors) -> NamedTensors | None:
        """Between updates, take in a head that comes after the last expected tensor.

        Returns:
            The tensors that begin the next update, or end the last one with an error; None where there are none.
        """
        iterator = iter(weights)
        for name, value in iterator:
            if not self.is_copy(name) or unusable(name, value) is not None:
                return self._begins(itertools.chain([(name, value)], iterator))
            if (reason := self._differs(value)) is not None:
                head = (name, value.clone())  # the sender may use its buffer again to tell what follows
                following = list(itertools.islice(iterator, 1))
                if following or not self._may_follow:
                    return self._begins(itertools.chain([head], following, iterator))
                return self._begins(_refused(name, reason))
            self._may_follow = False
        return None

    def check(self, head_VH: torch.Tensor | None) -> None:
        """Compare a head that was sent with the resident embedding, at the end of its update.

        Raises:
            WeightMismatchError: It differs.
        """
        if head_VH is not None and (reason := self._differs(head_VH)) is not None:
            raise refused(_HEAD, reason)
        self._may_follow = head_VH is None

    def check_staged(self, head_VH: torch.Tensor | None, staged: list[tuple[str, torch.Tensor]]) -> None:
        """The same with an embedding that has not gone in: the old weights go on serving where they differ.

        Raises:
            WeightMismatchError: It differs.
        """
        if head_VH is None or self._embedding is None:
            return
        if (reason := self._unlike(head_VH)) is not None:
            raise refused(_HEAD, reason)
        for name, value in staged:
            if name == self._embedding.name and not torch.equal(value, head_VH.to(value.device, value.dtype)):
                raise refused(_HEAD, f"differs from {name}, which this tied model uses for it")

    def _begins(self, weights: NamedTensors) -> NamedTensors:
        self._may_follow = False
        return weights

    def _unlike(self, head: torch.Tensor) -> str | None:
        """Why a tensor cannot be a head of this shape or element type; None where it can."""
        if self._embedding is None or (reason := fault(self._embedding, head)) is None:
            return None
        return f"{reason} ({self._embedding.name}, which this tied model uses for it)"

    def _differs(self, head: torch.Tensor) -> str | None:
        if (reason := self._unlike(head)) is not None:
            return reason
        if compat.tied_head_differs(self._model, head.to(self._device)):
            return "differs from the embedding that this tied model uses for it"
        return None


def _refused(name: str, reason: str) -> Iterator[tuple[str, torch.Tensor]]:
    """A stream that ends the update that it begins."""
    yield from ()
    raise refused(
        name,
        f"{reason}; it came alone after a complete update without a head, so it is that update's. A sender that begins "
        "with the head says where an update begins: flashrl_registry.updating",
    )


def embedding_of(resolved: ResolvedPlan) -> ResolvedTensor | None:
    """The table of the vocabulary: the one with most rows."""
    tables = [tensor for tensor in resolved.tensors if is_embedding_weight(tensor.name)]
    return max(tables, key=lambda tensor: tensor.shape[0], default=None)


def names_of_head(resolved: ResolvedPlan, embedding: ResolvedTensor | None) -> frozenset[str]:
    """What the head of a tied model is called: as in its checkpoint, or where the embedding's name puts it."""
    names = {_HEAD, *(tensor.name for tensor in resolved.tensors if f".{tensor.name}".endswith(f".{_HEAD}"))}
    if embedding is not None and f".{embedding.name}".endswith(f".{_EMBEDDING}"):
        names.add(embedding.name.removesuffix(_EMBEDDING) + _HEAD)
    return frozenset(names)
