"""Keys and values that weights of a diverged policy left behind.

Finite weights may still overflow in a forward. What that leaves in the KV cache outlives the weights: attention gives
places behind a sequence the weight 0, and 0 times NaN or infinity is NaN, so tokens stay wrong after good weights have
arrived, whatever prefixes are dropped. Tested: 0.32.0 on CPU, where a prompt in blocks that held NaN comes out as
NaN. Goes when attention reads nothing behind a sequence.
"""

from typing import Any

import torch
from torch import nn

_LOGITS = ("compute_logits", "compute_logits_local")


class OverflowWatch:
    """Looks at the last hidden states of every forward; nobody waits for the answer before the next update.

    Args:
        device: The model's.
    """

    def __init__(self, device: torch.device) -> None:
        self._seen = torch.zeros((), dtype=torch.bool, device=device)

    def install(self, model: nn.Module) -> None:
        """Put this before the model's logits; every worker of a group has the hidden states, one has the logits."""
        for name in _LOGITS:
            if (original := getattr(model, name, None)) is not None:
                object.__setattr__(model, name, self._watched(original))

    def _watched(self, original: Any) -> Any:
        def compute_logits(hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(hidden_states, torch.Tensor):
                # A sum is not finite where a summand is not. One that overflows by itself clears the cache for nothing.
                self._seen.logical_or_(hidden_states.sum(dtype=torch.float32).isfinite().logical_not())
            return original(hidden_states, *args, **kwargs)

        return compute_logits

    def take(self) -> bool:
        """Whether hidden states were not finite since this was asked last; waits for the device."""
        seen = bool(self._seen)
        if seen:
            self._seen.zero_()
        return seen


def clear_kv_cache(runner: Any) -> None:
    """Set all keys and values to zero.

    Args:
        runner: A worker's model runner; its ``kv_caches`` hold tensors, or lists of them.
    """
    with torch.inference_mode():
        pending = list(getattr(runner, "kv_caches", ()))
        while pending:
            one = pending.pop()
            if isinstance(one, torch.Tensor):
                one.zero_()
            elif one is not None:
                pending.extend(one)
