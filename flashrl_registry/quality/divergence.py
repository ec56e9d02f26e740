"""How far a treated model's distributions are from the bf16 model's, on the same tokens."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from flashrl_registry.errors import ProfilingError
from flashrl_registry.quality.inputs import quantized_inputs
from flashrl_registry.quality.loaded import Loaded
from flashrl_registry.quality.treated import Treated

Step = Callable[[str], None]
"""Told what was done, once a forward pass."""


@dataclass(frozen=True)
class Divergence:
    """Means over tokens, in nats.

    Attributes:
        num_tokens: Tokens whose distributions were compared.
        kl: Mean of KL(bf16 || treated), over the whole vocabulary.
        kl_standard_error: Its standard error, tokens taken as independent.
        mean_abs_dlogprob: Mean of |log q - log p| of the text's own next tokens.
        dlogprob_standard_error: Its standard error.
    """

    num_tokens: int
    kl: float
    kl_standard_error: float
    mean_abs_dlogprob: float
    dlogprob_standard_error: float


def divergence(loaded: Loaded, sequences: Sequence[Tensor], treated: Treated, step: Step | None = None) -> Divergence:
    """Run both models over text; one sequence's logits are held at a time.

    Args:
        loaded: The bf16 model.
        sequences: Token ids, each of shape (1, T).
        treated: What it becomes.
        step: Told of each sequence.

    Raises:
        ProfilingError: Logits are not finite.
    """
    kls, moves = [], []
    for tokens in sequences:
        with torch.inference_mode():
            kl_T, move_T = _compare(loaded, tokens.to(loaded.device), treated)
        kls.append(kl_T.double().cpu())
        moves.append(move_T.double().cpu())
        if step is not None:
            step("KL")
    kl_T, move_T = torch.cat(kls), torch.cat(moves)
    if not torch.isfinite(kl_T).all():
        raise ProfilingError("logits are not finite, so there is no KL", hint="are the weights of the model finite?")
    return Divergence(
        num_tokens=kl_T.numel(),
        # Rounding can leave a sum a little below zero where nothing changed.
        kl=max(0.0, kl_T.mean().item()),
        kl_standard_error=_standard_error(kl_T),
        mean_abs_dlogprob=move_T.mean().item(),
        dlogprob_standard_error=_standard_error(move_T),
    )


def _compare(loaded: Loaded, ids: Tensor, treated: Treated) -> tuple[Tensor, Tensor]:
    """KL of each token's distribution, and how far the log-probability of each next token moves."""
    arguments = {"input_ids": ids, "use_cache": False}
    log_p_TV = torch.log_softmax(loaded.model(**arguments).logits[0].float(), dim=-1)
    with quantized_inputs(loaded.model, treated.inputs):
        output = functional_call(loaded.model, treated.overrides, (), arguments, tie_weights=True)
    log_q_TV = torch.log_softmax(output.logits[0].float(), dim=-1)
    kl_T = (log_p_TV.exp() * (log_p_TV - log_q_TV)).sum(dim=-1)
    return kl_T, (log_q_TV[:-1] - log_p_TV[:-1]).gather(1, ids[0, 1:, None])[:, 0].abs()


def _standard_error(values: Tensor) -> float:
    return float(values.std().item()) / math.sqrt(values.numel()) if values.numel() > 1 else 0.0
