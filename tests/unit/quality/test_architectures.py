"""Eighteen tiny real models: every linear of every one is found, scored and quantized."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "profiling"))  # the models that the profiler is tested on

from architectures import ARCHITECTURES, build

from flashrl_registry.checkpoints import read_checkpoint
from flashrl_registry.compiler import compile_plan, preset_rules
from flashrl_registry.compiler.presets import default_linears
from flashrl_registry.quality.divergence import divergence
from flashrl_registry.quality.loaded import Loaded, prepared
from flashrl_registry.quality.scores import gradient_scores
from flashrl_registry.quality.treated import treat

TOKENS = 32


@pytest.fixture(params=ARCHITECTURES)
def loaded(request: pytest.FixtureRequest, tmp_path: Path) -> Loaded:
    from transformers import AutoModelForCausalLM

    build(ARCHITECTURES[request.param], tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    return prepared(model, None, read_checkpoint(tmp_path).inventory, "cpu")


def test_every_linear_is_scored_and_the_scores_add_up_to_the_kl(loaded: Loaded) -> None:
    assert list(loaded.places) == default_linears(loaded.inventory)
    assert loaded.lost == {}
    ids = [torch.arange(2, 2 + TOKENS)[None]]
    sums = gradient_scores(loaded, ids, {place.module: ["int8"] for place in loaded.places.values()})
    assert all(of.scores["int8"] > 0 for of in sums.values())
    plan = compile_plan(preset_rules("int8", loaded.inventory), loaded.inventory).plan
    kl = divergence(loaded, ids, treat(loaded, plan, None)).kl
    half = sum(of.scores["int8"] for of in sums.values()) / TOKENS / 2
    # These models say next to nothing, so their KL is near what float32 can tell.
    assert half == pytest.approx(kl, rel=0.6, abs=1e-7)
