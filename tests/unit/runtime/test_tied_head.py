"""What counts as the head of a tied model, and what a sender of another one is told."""

import pytest
import torch
from torch import nn

from flashrl_registry.compiler import lower
from flashrl_registry.documents import Environment, Keep, Plan, ResolvedPlan, ResolvedTensor
from flashrl_registry.errors import WeightMismatchError
from flashrl_registry.runtime._vllm.tied_head import TiedHead

CPU = torch.device("cpu")


def resolved(plan: Plan, embedding: str, *others: str, tied: bool = True) -> ResolvedPlan:
    """A plan of a model with this embedding, (32, 16), and other tensors beside it."""
    made = lower(plan, Environment(vllm="0.32.0", device="cpu"), "test")
    tensors = [
        ResolvedTensor(name=embedding, shape=[32, 16], dtype="bfloat16", op=Keep()),
        ResolvedTensor(name="model.position_embeddings.weight", shape=[8, 16], dtype="bfloat16", op=Keep()),
        *(ResolvedTensor(name=name, shape=[32, 16], dtype="bfloat16", op=Keep()) for name in others),
    ]
    base = made.base_model.model_copy(update={"tied_embeddings": tied})
    return made.model_copy(update={"tensors": tensors, "base_model": base})


@pytest.mark.parametrize(
    ("embedding", "heads"),
    [
        ("model.embed_tokens.weight", {"lm_head.weight"}),
        ("language_model.model.embed_tokens.weight", {"lm_head.weight", "language_model.lm_head.weight"}),
        ("model.language_model.embed_tokens.weight", {"lm_head.weight"}),
        ("transformer.wte.weight", {"lm_head.weight"}),
    ],
)
def test_only_the_checkpoints_own_head_is_taken_for_it(plan: Plan, embedding: str, heads: set[str]) -> None:
    head = TiedHead(nn.Module(), resolved(plan, embedding), CPU)
    candidates = [
        "lm_head.weight", "language_model.lm_head.weight", "base_model.model.lm_head.weight", "model.lm_head.weight",
        "_fsdp_wrapped_module.lm_head.weight", "xlm_head.weight", "lm_head.bias", "model.language_lm_head.weight",
    ]  # fmt: skip
    assert {name for name in candidates if head.is_copy(name)} == heads


def test_a_head_that_the_checkpoint_holds_has_the_name_that_it_has_there(plan: Plan) -> None:
    given = resolved(plan, "model.embed_tokens.weight", "thinker.lm_head.weight")
    assert TiedHead(nn.Module(), given, CPU).is_copy("thinker.lm_head.weight")


def test_an_untied_model_has_a_head_of_its_own(plan: Plan) -> None:
    given = resolved(plan, "model.embed_tokens.weight", "lm_head.weight", tied=False)
    assert not TiedHead(nn.Module(), given, CPU).is_copy("lm_head.weight")


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (torch.zeros(1, 16), "shape [1, 16], the plan says [32, 16] (model.embed_tokens.weight,"),
        (torch.zeros(32, 16, 1), "shape [32, 16, 1]"),
        (torch.tensor(1.0), "shape []"),
        (torch.zeros(32, 16, dtype=torch.int32), "dtype torch.int32"),
    ],
)
def test_what_cannot_be_the_embedding_is_told_by_shape_and_element_type(
    plan: Plan, head: torch.Tensor, says: str
) -> None:
    given = TiedHead(nn.Module(), resolved(plan, "model.embed_tokens.weight"), CPU)
    for check in (given.check, lambda value: given.check_staged(value, [])):
        with pytest.raises(WeightMismatchError) as told:
            check(head)
        assert f"lm_head.weight: {says}" in str(told.value)
