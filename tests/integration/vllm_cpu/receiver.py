"""What a framework puts into vLLM's workers to receive weights: a class named by ``worker_extension_cls``.

Each method is one way in which weights arrive, written as the frameworks write it, so that one program drives both
an engine in its own process and one whose core is a subprocess. Importing this module makes the transfer backend
``folder`` known, which a subprocess needs.
"""

from pathlib import Path
from typing import Any

import folder_transfer
import torch
from safetensors.torch import load_file

folder_transfer.register()

BUCKET = 5


class Receiver:
    """Mixed into vLLM's Worker."""

    model_runner: Any
    reload_weights: Any

    def receive_one_by_one(self, folder: str) -> None:
        """One tensor per call, no end mark, one buffer that the next tensor overwrites: TRL, OpenRLHF, AReaL."""
        tensors = checkpoint(folder)
        buffer = torch.empty(max(t.numel() for t in tensors.values()), dtype=torch.bfloat16)
        for name, tensor in tensors.items():
            view = buffer[: tensor.numel()].view(tensor.shape)
            view.copy_(tensor)
            self.model_runner.model.load_weights([(name, view)])
            buffer.fill_(float("nan"))

    def receive_buckets(self, folder: str) -> None:
        """Buckets in an odd order that split fused layers: veRL, ROLL, NeMo-RL."""
        items = sorted(checkpoint(folder).items(), key=lambda item: odd_order(item[0]))
        for start in range(0, len(items), BUCKET):
            self.model_runner.model.load_weights(items[start : start + BUCKET])

    def receive_iterator(self, folder: str) -> None:
        """vLLM's ``reload_weights`` with an iterator."""
        self.reload_weights(weights_iterator=iter(checkpoint(folder).items()))


def checkpoint(folder: str) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint folder."""
    merged: dict[str, torch.Tensor] = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        merged.update(load_file(file))
    return merged


def odd_order(name: str) -> int:
    """A place that has nothing to do with layers."""
    return sum(ord(char) * (index + 1) for index, char in enumerate(name)) % 997
