"""Logprobs are those of the distribution that tokens are sampled from, recomputed from the engine's own logits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.vllm
SAMPLERS = ("greedy", "plain", "cold", "hot", "top_k", "top_p", "top_k_top_p")
TOLERANCE = 2e-5
"""Of float32 log-softmax over 256 tokens, against float64."""


@pytest.fixture(scope="module")
def sampled(run_shared: Callable[..., Any], tiny: Callable[..., Path]) -> dict[str, Any]:
    ran = run_shared("logprobs.py", "samplers", model=str(tiny(1)), configs=["bf16", "int8", ""])
    assert ran.returncode == 0, ran.log[-3000:]
    assert isinstance(ran.result, dict)
    return ran.result


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("config", ["bf16", "int8"])
def test_logprobs_are_those_of_the_sampling_distribution(sampled: dict[str, Any], config: str, sampler: str) -> None:
    got = sampled[config][sampler]
    assert got["worst"] < TOLERANCE
    assert got["wrong_supports"] == 0, "finite logprobs are of the tokens that may be sampled, and of no others"


def test_the_samplers_sample_differently(sampled: dict[str, Any]) -> None:
    for config in ("bf16", "int8"):
        assert len({str(sampled[config][sampler]["tokens"]) for sampler in SAMPLERS}) == len(SAMPLERS)


def test_without_a_plan_they_are_not(sampled: dict[str, Any]) -> None:
    """What the plan changes: vLLM's own default tells the logprobs of another distribution."""
    for sampler in ("cold", "hot", "top_k", "top_p", "top_k_top_p"):
        got = sampled["unset"][sampler]
        assert got["worst"] > 0.1 or got["wrong_supports"] > 0
    for sampler in ("greedy", "plain"):
        assert sampled["unset"][sampler]["worst"] < TOLERANCE
    for sampler in SAMPLERS:
        assert sampled["unset"][sampler]["tokens"] == sampled["bf16"][sampler]["tokens"], "bf16 changes no token"
