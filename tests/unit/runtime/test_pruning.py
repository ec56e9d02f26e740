"""Norms wait for their linears, and lose the channels that all of them ignore."""

import torch

from flashrl_registry.compiler import compile_plan, lower, preset_rules
from flashrl_registry.documents import Environment, Inventory, Profile, ResolvedPlan
from flashrl_registry.runtime.pruning import Pruning

NORM = "model.layers.0.post_attention_layernorm.weight"
GATE, UP = "model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight"


def resolved(inventory: Inventory, profile: Profile) -> ResolvedPlan:
    plan = compile_plan(preset_rules("int8_prune", inventory, profile), inventory, profile).plan
    return lower(plan, Environment(vllm="0.32.0", device="cpu"))


def test_a_channel_goes_only_where_every_linear_ignores_it(inventory: Inventory, profile: Profile) -> None:
    pruning = Pruning(resolved(inventory, profile))
    gate, up = torch.ones(24, 16, dtype=torch.int8), torch.ones(24, 16, dtype=torch.int8)
    gate[:, [3, 5]] = 0
    up[:, [5, 7]] = 0
    assert pruning.concerns_norm(NORM)
    pruning.see(GATE, gate)
    pruning.hold(NORM, torch.full((16,), 2.0, dtype=torch.bfloat16))
    assert not list(pruning.ready()), "up_proj has not arrived"
    pruning.see(UP, up)
    [(name, value)] = list(pruning.ready())
    assert name == NORM
    assert value.dtype == torch.bfloat16
    assert [i for i in range(16) if value[i] == 0] == [5]
    assert not list(pruning.ready()), "a norm is given once"


def test_a_norm_that_comes_last_is_given_at_once(inventory: Inventory, profile: Profile) -> None:
    pruning = Pruning(resolved(inventory, profile))
    pruning.see(UP, torch.zeros(24, 16, dtype=torch.int8))
    pruning.see(GATE, torch.zeros(24, 16, dtype=torch.int8))
    pruning.hold(NORM, torch.ones(16))
    assert [value.sum().item() for _, value in pruning.ready()] == [0]


def test_other_plans_make_nothing_wait(inventory: Inventory, profile: Profile) -> None:
    plan = compile_plan(preset_rules("int8", inventory, profile), inventory, profile).plan
    pruning = Pruning(lower(plan, Environment(vllm="0.32.0", device="cpu")))
    assert not pruning.concerns_norm(NORM)
