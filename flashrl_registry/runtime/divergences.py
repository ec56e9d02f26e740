"""How far the rollout's distribution is from the trainer's, on the tokens that the rollout sampled.

With q the rollout's probability of a sampled token, p the trainer's, and r = p / q:

* k1 = mean(log q - log p): unbiased estimate of KL(q || p), high variance, may be negative;
* k3 = mean(r - 1 - log r): unbiased, never negative (J. Schulman, "Approximating KL divergence", 2020);
* ESS = (sum r)^2 / (n * sum r^2): share of the sample that importance weighting leaves;
* clip fraction: share of tokens with r above the TIS cap.

Plain Python floats; natural logarithms.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Mismatch:
    """Summary over tokens; logprobs in nats.

    Attributes:
        num_tokens: Tokens compared.
        mean_abs_dlogprob: Mean of |log q - log p|.
        max_abs_dlogprob: Largest |log q - log p|.
        k1: Estimate of KL(rollout || trainer).
        k3: The same, never negative.
        ess: Effective sample size as a share, 0 to 1.
        tis_clip_fraction: Share of tokens whose ratio exceeds ``tis_cap``.
        tis_cap: The cap.
    """

    num_tokens: int
    mean_abs_dlogprob: float
    max_abs_dlogprob: float
    k1: float
    k3: float
    ess: float
    tis_clip_fraction: float
    tis_cap: float


def mismatch(rollout: Sequence[float], trainer: Sequence[float], *, tis_cap: float = 2.0) -> Mismatch:
    """Compare logprobs of the same tokens.

    Args:
        rollout: log q of each sampled token, from the engine.
        trainer: log p of the same tokens, from the trainer's model.
        tis_cap: Truncation cap of the importance ratio.

    Raises:
        ValueError: Different lengths, no tokens, or a value that is not finite.
    """
    if len(rollout) != len(trainer) or not rollout:
        raise ValueError(f"need the same tokens on both sides: {len(rollout)} rollout, {len(trainer)} trainer")
    if not all(math.isfinite(value) for value in (*rollout, *trainer)):
        raise ValueError("a logprob is not finite; the engine or the trainer is broken")
    delta = [q - p for q, p in zip(rollout, trainer, strict=True)]
    ratios = [math.exp(-d) for d in delta]
    count = len(delta)
    return Mismatch(
        num_tokens=count,
        mean_abs_dlogprob=math.fsum(abs(d) for d in delta) / count,
        max_abs_dlogprob=max(abs(d) for d in delta),
        k1=math.fsum(delta) / count,
        k3=math.fsum(r - 1 + d for r, d in zip(ratios, delta, strict=True)) / count,
        ess=math.fsum(ratios) ** 2 / (count * math.fsum(r * r for r in ratios)),
        tis_clip_fraction=sum(r > tis_cap for r in ratios) / count,
        tis_cap=tis_cap,
    )
