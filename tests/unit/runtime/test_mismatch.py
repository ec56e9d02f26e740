"""Mismatch estimates on distributions whose divergence is known."""

import math
import random

import pytest

from flashrl_registry.runtime import mismatch


def test_equal_logprobs_have_no_mismatch() -> None:
    result = mismatch([-1.0, -2.0], [-1.0, -2.0])
    assert (result.mean_abs_dlogprob, result.k1, result.k3, result.tis_clip_fraction) == (0, 0, 0, 0)
    assert result.ess == pytest.approx(1)


def test_k1_and_k3_estimate_the_divergence() -> None:
    rollout, trainer = [0.5, 0.3, 0.2], [0.4, 0.4, 0.2]
    exact = sum(q * math.log(q / p) for q, p in zip(rollout, trainer, strict=True))
    tokens = random.Random(0).choices(range(3), rollout, k=200_000)
    result = mismatch([math.log(rollout[t]) for t in tokens], [math.log(trainer[t]) for t in tokens])
    assert result.k1 == pytest.approx(exact, rel=0.1)
    assert result.k3 == pytest.approx(exact, rel=0.1)


def test_clip_fraction_counts_ratios_above_the_cap() -> None:
    result = mismatch([-2.0, -2.0, -2.0, -2.0], [-1.0, -2.0, -2.0, -2.0], tis_cap=2.0)
    assert result.tis_clip_fraction == 0.25
    assert result.max_abs_dlogprob == 1.0


@pytest.mark.parametrize(("rollout", "trainer"), [([], []), ([-1.0], []), ([float("nan")], [-1.0])])
def test_unusable_input_is_refused(rollout: list[float], trainer: list[float]) -> None:
    with pytest.raises(ValueError, match=r"same tokens|not finite"):
        mismatch(rollout, trainer)
