"""Fused tensors, as trainers with the engine's own names send them, are the plan's tensors."""

import pytest
import torch

from flashrl_registry.documents import Keep, ResolvedTensor
from flashrl_registry.runtime.arrivals import unfused, unusable

SHAPES = {
    "a.q_proj.weight": [8, 4], "a.k_proj.weight": [2, 4], "a.v_proj.weight": [2, 4],
    "a.q_proj.bias": [8], "a.k_proj.bias": [2], "a.v_proj.bias": [2],
    **{f"m.experts.{e}.{name}.weight": [6, 4] for e in range(3) for name in ("gate_proj", "up_proj")},
    **{f"m.experts.{e}.down_proj.weight": [4, 6] for e in range(3)},
}  # fmt: skip
TENSORS = {name: ResolvedTensor(name=name, shape=shape, dtype="bfloat16", op=Keep()) for name, shape in SHAPES.items()}


def names(name: str, value: torch.Tensor) -> list[str]:
    return [found for found, _ in unfused(name, value, TENSORS)]


def test_rows_of_a_fused_projection_go_to_their_shards() -> None:
    value = torch.arange(48.0).view(12, 4)
    found = dict(unfused("a.qkv_proj.weight", value, TENSORS))
    assert list(found) == ["a.q_proj.weight", "a.k_proj.weight", "a.v_proj.weight"]
    assert torch.equal(torch.cat(list(found.values())), value)
    assert found["a.q_proj.weight"].data_ptr() == value.data_ptr(), "a view, not a copy"
    assert names("a.qkv_proj.bias", torch.zeros(12)) == ["a.q_proj.bias", "a.k_proj.bias", "a.v_proj.bias"]


def test_stacked_experts_go_to_each_expert() -> None:
    value = torch.randn(3, 12, 4)
    found = dict(unfused("m.experts.gate_up_proj", value, TENSORS))
    assert len(found) == 6
    assert torch.equal(found["m.experts.2.gate_proj.weight"], value[2, :6])
    assert torch.equal(found["m.experts.2.up_proj.weight"], value[2, 6:])
    down = torch.randn(3, 4, 6)
    assert torch.equal(dict(unfused("m.experts.down_proj", down, TENSORS))["m.experts.1.down_proj.weight"], down[1])


def test_what_is_not_fused_or_has_another_layout_keeps_its_name_for_the_error() -> None:
    assert names("a.q_proj.weight", torch.zeros(8, 4)) == ["a.q_proj.weight"]
    assert names("a.qkv_proj.weight", torch.zeros(11, 4)) == ["a.qkv_proj.weight"]
    assert names("m.experts.gate_up_proj", torch.zeros(3, 4, 12)) == ["m.experts.gate_up_proj"]
    assert names("m.experts.gate_up_proj", torch.zeros(4, 12, 4)) == ["m.experts.gate_up_proj"]
    assert names("nobody.weight", torch.tensor(1.0)) == ["nobody.weight"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (torch.zeros(12, 4).numpy(), "ndarray, and not a torch.Tensor"),
        (None, "NoneType, and not a torch.Tensor"),
        ([[0.0] * 4] * 12, "list, and not a torch.Tensor"),
        (torch.zeros(12, 4).to_sparse(), "layout torch.sparse_coo; send to_dense()"),
        (torch.zeros(12, 4, device="meta"), "a meta tensor, which has no values"),
    ],
    ids=["numpy", "none", "list", "sparse", "meta"],
)
def test_what_is_no_dense_tensor_is_told_with_what_is_accepted(value: object, reason: str) -> None:
    for name in ("a.q_proj.weight", "a.qkv_proj.weight", "m.experts.gate_up_proj"):
        assert names(name, value) == [name], "refused under the name that was sent"  # type: ignore[arg-type]
        text = str(unusable(name, value))
        assert text.startswith(reason)
        assert "a trainer sends dense torch tensors in bfloat16, float16 or float32" in text


def test_a_name_that_is_no_text_is_told() -> None:
    assert "a name of type NoneType" in str(unusable(None, torch.zeros(2)))
    assert names(None, torch.zeros(2)) == [None]  # type: ignore[arg-type]
    assert unusable("a.q_proj.weight", torch.nn.Parameter(torch.zeros(8, 4))) is None
