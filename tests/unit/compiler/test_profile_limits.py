"""What a profile knows and a plan cannot use is said, and never applied in another way."""

from typing import Any

import pytest

from flashrl_registry.compiler import compile_plan, preset_rules
from flashrl_registry.documents import Inventory, Profile, QuantArgs
from flashrl_registry.documents.names import expand
from flashrl_registry.documents.profile import ChannelMap
from flashrl_registry.errors import CompileError


def changed(profile: Profile, **update: Any) -> Profile:
    """The profile with its first group changed."""
    groups = list(profile.smoothing)
    groups[0] = groups[0].model_copy(update=update)
    return profile.model_copy(update={"smoothing": groups})


@pytest.mark.parametrize(
    ("update", "reason"),
    [
        ({"offset": 1}, "its norm multiplies by 1 + w"),
        ({"channels": ChannelMap(start=0, num_rows=8)}, "its channels feed the targets' columns in another order"),
    ],
)
def test_a_factor_that_plans_cannot_say_is_left_out_with_a_note(
    inventory: Inventory, profile: Profile, update: dict[str, Any], reason: str
) -> None:
    compiled = compile_plan(preset_rules("int8", inventory), inventory, changed(profile, **update))
    (note,) = compiled.notes
    assert (note.code, note.where) == ("smoothing-dropped", profile.smoothing[0].source)
    assert reason in note.message
    treatment = {name: family.treatment for family in compiled.plan.tensors for name in expand(family.names)}
    assert treatment[profile.smoothing[0].source] == "keep"


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ({"type": "float"}, "its codes are fp8"),
        ({"symmetric": False}, "its codes are asymmetric"),
        ({"strategy": "tensor"}, "it has one scale per tensor"),
    ],
)
def test_scales_that_no_engine_takes_cannot_be_frozen(
    inventory: Inventory, profile: Profile, weights: dict[str, Any], reason: str
) -> None:
    args = QuantArgs(
        **{"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False, **weights}
    )
    other = profile.model_copy(update={"quantized": profile.quantized.model_copy(update={"weights": args})})
    rules = preset_rules("int8", inventory)
    rules = rules.model_copy(update={"update": rules.update.model_copy(update={"scales": "frozen"})})
    with pytest.raises(CompileError) as caught:
        compile_plan(rules, inventory, other)
    assert reason in str(caught.value)
