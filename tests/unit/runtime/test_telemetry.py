"""Drift: what changed, what left the profile's range, and when to profile again."""

import logging

import pytest
import torch

from flashrl_registry.ops import quantize_int8
from flashrl_registry.runtime.telemetry import Telemetry
from flashrl_registry.runtime.transform import Vectors

WEIGHT = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
PROFILE = Vectors({"weight_scale/w": quantize_int8(WEIGHT)[1].flatten()})


def update(telemetry: Telemetry, weight: torch.Tensor, vectors: Vectors = PROFILE, *, frozen: bool = False) -> dict:
    telemetry.begin()
    scale = vectors.by_key["weight_scale/w"] if frozen else None
    telemetry.observe("w", *quantize_int8(weight, scale), vectors, frozen=frozen)
    return telemetry.finish()


def test_the_first_load_has_nothing_to_compare_and_no_drift() -> None:
    report = update(Telemetry(), WEIGHT)
    assert "codes_changed" not in report
    assert report["scale_drift"] == 0
    assert report["clip_rate"] == 0


def test_changed_codes_and_moved_scales_are_told() -> None:
    telemetry = Telemetry()
    update(telemetry, WEIGHT)
    assert update(telemetry, WEIGHT)["codes_changed"] == 0
    report = update(telemetry, WEIGHT * 2)
    assert report["codes_changed"] == 0, "row scales take up a factor"
    assert report["scale_drift"] == pytest.approx(1.0)
    assert update(telemetry, WEIGHT.flip(0))["codes_changed"] > 0.9


@pytest.mark.parametrize("frozen", [False, True])
def test_a_policy_beyond_the_profiles_range_is_warned_about(frozen: bool, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("flashrl").propagate = True
    telemetry = Telemetry()
    assert update(telemetry, WEIGHT, frozen=frozen)["saturated"] == 0
    with caplog.at_level("WARNING", "flashrl"):
        report = update(telemetry, WEIGHT * 3, frozen=frozen)
    assert report["saturated"] == 1
    assert report["clip_rate"] > 0.05
    assert "profile again" in caplog.text


def test_plans_without_a_profile_report_only_what_changed() -> None:
    telemetry = Telemetry()
    update(telemetry, WEIGHT, Vectors({}))
    assert update(telemetry, -WEIGHT, Vectors({})).keys() == {"codes_changed"}


def test_frozen_codes_tell_the_same_clip_rate_as_recomputed_ones() -> None:
    rates = {}
    for frozen in (False, True):
        telemetry = Telemetry()
        assert update(telemetry, WEIGHT, frozen=frozen)["clip_rate"] == 0, "a row's largest weight is within the range"
        rates[frozen] = update(telemetry, WEIGHT * 2, frozen=frozen)["clip_rate"]
    assert rates[True] == pytest.approx(rates[False], rel=0.25)


def test_linears_with_frozen_and_with_recomputed_scales_are_counted_together() -> None:
    vectors = Vectors({f"weight_scale/{name}": PROFILE.by_key["weight_scale/w"] for name in ("w", "v")})
    telemetry = Telemetry()
    telemetry.begin()
    telemetry.observe("w", *quantize_int8(WEIGHT * 2, vectors.by_key["weight_scale/w"]), vectors, frozen=True)
    telemetry.observe("v", *quantize_int8(WEIGHT), vectors, frozen=False)
    alone = update(Telemetry(), WEIGHT * 2, frozen=True)["clip_rate"]
    assert telemetry.finish()["clip_rate"] == pytest.approx(alone / 2)
