"""Norms whose dead channels are zeroed: they wait until the codes of the linears behind them are known.

A channel is dead where its input column is zero in the int8 codes of every linear that reads the norm. What the norm
puts there cannot reach an output, yet it takes part in each token's activation scale; zeroed, it no longer does.

Source: FlashRL 1.0.3, ``flash_quantize_with_prune``.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from flashrl_registry.documents import Rescale, ResolvedPlan

if TYPE_CHECKING:
    import torch


class Pruning:
    """The state of one update.

    Args:
        resolved: The plan; most prune nothing.
    """

    def __init__(self, resolved: ResolvedPlan) -> None:
        self._waiting = {
            tensor.name: set(tensor.op.dead_inputs_of)
            for tensor in resolved.tensors
            if isinstance(tensor.op, Rescale) and tensor.op.dead_inputs_of
        }
        self._norms_of: dict[str, list[str]] = {}
        for norm, linears in self._waiting.items():
            for linear in linears:
                self._norms_of.setdefault(linear, []).append(norm)
        self._alive: dict[str, torch.Tensor] = {}
        self._held: dict[str, torch.Tensor] = {}

    def concerns_norm(self, name: str) -> bool:
        """The tensor is a norm that must wait."""
        return name in self._waiting

    def hold(self, name: str, value: "torch.Tensor") -> None:
        """Take a norm, already rescaled."""
        self._held[name] = value

    def see(self, name: str, codes_OI: "torch.Tensor") -> None:
        """Take note of a linear's codes."""
        for norm in self._norms_of.get(name, ()):
            alive_I = (codes_OI != 0).any(dim=0)
            self._alive[norm] = self._alive[norm] | alive_I if norm in self._alive else alive_I
            self._waiting[norm].discard(name)

    def ready(self) -> "Iterator[tuple[str, torch.Tensor]]":
        """Yield norms that are complete, with their dead channels zeroed."""
        for norm in [name for name in self._held if not self._waiting[name]]:
            value = self._held.pop(norm)
            yield norm, value * self._alive[norm].to(value.dtype)

    def waiting(self) -> set[str]:
        """Linears whose codes a held norm still lacks."""
        return {linear for norm in self._held for linear in self._waiting[norm]}
