"""A quantized checkpoint's own tensors on their way into the engine: each is what the plan's format has, or refused."""

from collections.abc import Iterable

import pytest
import torch

from flashrl_registry.errors import WeightMismatchError
from flashrl_registry.runtime._vllm.ready import passed_through
from flashrl_registry.runtime._vllm.sent import Sent
from flashrl_registry.runtime._vllm.update import Update
from flashrl_registry.runtime.pruning import Pruning
from flashrl_registry.runtime.start_model import ReadyMade

EXPECTED = {
    "o.weight": ReadyMade(((4, 8),), frozenset({"int8"})),
    "o.weight_scale": ReadyMade(((4, 1),), frozenset({"bfloat16", "float32"})),
    "norm.weight": ReadyMade(((8,),), frozenset({"bfloat16"})),
}
CODES = torch.arange(32, dtype=torch.int8).reshape(4, 8)
SCALE = torch.full((4, 1), 0.125, dtype=torch.bfloat16)
NORM = torch.ones(8, dtype=torch.bfloat16)


class NoPruning(Pruning):
    """A plan that prunes nothing."""

    def __init__(self) -> None:
        """Nothing to wait for."""


def passed(weights: Iterable[tuple[str, torch.Tensor]]) -> tuple[dict[str, torch.Tensor], set[str]]:
    update = Update(set(EXPECTED), 0.0, ours=False, pruning=NoPruning())
    stream = passed_through(weights, EXPECTED, update, Sent(1), is_tied_copy=lambda name: name == "lm_head.weight")
    return dict(stream), update.missing


def test_tensors_arrive_as_they_are_and_scales_in_float32() -> None:
    out, missing = passed([("o.weight", CODES), ("o.weight_scale", SCALE), ("lm_head.weight", NORM)])
    assert torch.equal(out["o.weight"], CODES)
    assert out["o.weight_scale"].dtype == torch.float32
    assert torch.equal(out["o.weight_scale"], SCALE.float())
    assert "lm_head.weight" not in out
    assert missing == {"norm.weight"}


@pytest.mark.parametrize(
    ("weights", "says"),
    [([("o.weight", CODES.float())], "float32, the plan's format has int8"),
     ([("o.weight", CODES[:2])], r"shape \[2, 8\]"),
     ([("o.bias", NORM)], "no such tensor"),
     ([("norm.weight", NORM), ("norm.weight", NORM)], "twice"),
     ([("o.weight_scale", SCALE * torch.inf)], "NaN or infinity"),
     ([("norm.weight", NORM * torch.nan)], "NaN or infinity")],
)  # fmt: skip
def test_anything_else_is_refused(weights: list[tuple[str, torch.Tensor]], says: str) -> None:
    with pytest.raises(WeightMismatchError, match=says):
        passed(weights)
