"""Tensors that vLLM still holds after it took them, while their sender is about to write into that memory again.

A reload buffers the tensors of a layer until the last of them has come. Copying every tensor before it is handed over
is safe and costs a whole pass over the weights; most layers are complete with the tensor that they are given, so a
copy is made afterwards, of what is then still held. That is safe only where the model gives each tensor to its layer
before it asks for the next one, which is seen at the first update; until then, and where it does not, all are copied.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import nn

from flashrl_registry.runtime._vllm import compat
from flashrl_registry.runtime._vllm.layers import engine_name, experts


class Borrowed:
    """What one model does with the tensors of others that it is given.

    Args:
        model: vLLM's model, complete.
        names: Tensors of the checkpoint that may be sent.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        modules = {**dict(model.named_modules()), **experts(model)}
        self._layers = {name: modules.get(engine_name(name, model)) for name in names}
        self._takes_at_once: bool | None = None  # None: not known yet
        self._watched = 0

    def lend(self, name: str, value: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Hand one tensor to the model, as the only item of this iterator; its memory is free again when that ends.

        Args:
            name: A tensor of the checkpoint.
            value: The sender's own memory. Not modified.
        """
        layer = self._layers[name]
        if layer is None:
            yield name, value.clone()
            return
        before = compat.loaded_numel(layer)
        if self._takes_at_once:
            yield name, value
            compat.copy_held(layer, value)
            return
        yield name, value.clone()
        self._watched += 1
        if before is None or compat.loaded_numel(layer) == before:
            self._takes_at_once = False

    def completed(self) -> None:
        """An update is complete: what was seen of it holds from now on."""
        if self._takes_at_once is None and self._watched:
            self._takes_at_once = True
