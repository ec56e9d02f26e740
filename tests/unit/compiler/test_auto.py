"""compile --auto: the best choice under a budget, within what one engine can run."""

import ctypes
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flashrl_registry.checkpoints import read_checkpoint
from flashrl_registry.compiler import Budget, auto_plan, explain, parse_budget
from flashrl_registry.compiler.groups import fused_groups
from flashrl_registry.compiler.notes import KEY, notes_of
from flashrl_registry.compiler.options import Option, Problem, make_problem
from flashrl_registry.compiler.presets import default_linears
from flashrl_registry.compiler.solve import least_bytes, least_kl, silent_stdout
from flashrl_registry.documents import Inventory, Plan, Profile, Sensitivity, base_model_info
from flashrl_registry.documents.names import expand
from flashrl_registry.documents.sensitivity import (
    MeasuredScheme,
    MeasuredText,
    SchemeScore,
    ScoredGroup,
    ScoredScheme,
)
from flashrl_registry.errors import CompileError, MissingDependencyError

SCHEMES: tuple[ScoredScheme, ...] = ("int8_plain", "int8", "fp8_channel")
KLS = {"int8_plain": 0.030, "int8": 0.008, "fp8_channel": 0.02}


def score(module: str, scheme: str) -> float:
    """Fixed numbers without a pattern; down is what smoothing helps most, fp8 is best for attention outputs."""
    number = sum((index + 1) * ord(letter) for index, letter in enumerate(module)) % 97 + 3
    factor = {"int8_plain": 2.0, "int8": 1.0, "fp8_channel": 0.2 if module.endswith("o_proj") else 1.4}[scheme]
    return number * factor * (5.0 if module.endswith("down_proj") and scheme == "int8_plain" else 1.0)


def make_scores(inventory: Inventory, profile: Profile | None = None) -> Sensitivity:
    schemes = [scheme for scheme in SCHEMES if scheme != "int8" or profile is not None]
    sizes = {tensor.name: tensor.shape[0] * tensor.shape[-1] for tensor in inventory.tensors}
    return Sensitivity(
        reference=base_model_info(inventory),
        profile=profile.compute_digest() if profile is not None else None,
        text=MeasuredText(digest="sha256:" + "1" * 64, num_tokens=512, sequence_tokens=128),
        device="cpu",
        versions={"torch": "2.13.0"},
        schemes=[
            MeasuredScheme(scheme=scheme, kl=KLS[scheme], kl_standard_error=0.001, mean_abs_dlogprob=0.1)
            for scheme in schemes
        ],
        groups=[
            ScoredGroup(
                module=module,
                tensors=names,
                num_weights=sum(sizes[name] for name in names),
                peak_over_rms=3.0,
                scores=[SchemeScore(scheme=s, score=score(module, s), output_error=0.01) for s in schemes],
            )
            for module, names in fused_groups(default_linears(inventory)).items()
        ],
    )


@pytest.fixture
def scores(inventory: Inventory, profile: Profile) -> Sensitivity:
    return make_scores(inventory, profile)


def every_choice(problem: Problem) -> list[tuple[float, int, float]]:
    """(KL, bytes, bf16 weights) of every choice that a compile can make."""
    found = []
    for chosen in itertools.product(*problem.options.values()):
        by_module = {option.module: option for option in chosen}
        if all(is_what_it_says(problem, by_module, option) for option in chosen):
            kept = sum(problem.num_weights[option.module] for option in chosen if option.format == "bf16")
            found.append((sum(o.kl for o in chosen), sum(o.num_bytes for o in chosen), float(kept)))
    return found


def is_what_it_says(problem: Problem, chosen: dict[str, Option], option: Option) -> bool:
    smoothed = all(chosen[other].is_int8 for other in problem.smoothed_with[option.module])
    if option.format == "int8":
        return smoothed
    return option.format != "int8_plain" or not smoothed or len(problem.smoothed_with[option.module]) == 1


def test_no_other_choice_is_better_under_the_same_budget(
    inventory: Inventory, profile: Profile, scores: Sensitivity
) -> None:
    problem = make_problem(inventory, scores, profile, device="cuda")
    choices = every_choice(problem)
    assert len(choices) > 5000
    sizes = sorted({size for _, size, _ in choices})
    for most in sizes[:: len(sizes) // 7]:
        found = least_kl(problem, most_bytes=most)
        assert found is not None
        assert found.num_bytes <= most
        assert found.kl == pytest.approx(min(kl for kl, size, _ in choices if size <= most))
    for share in (0.0, 0.1, 0.25, 0.6):
        found = least_kl(problem, most_bf16=share * problem.total_weights)
        assert found is not None
        expected = min(kl for kl, _, kept in choices if kept <= share * problem.total_weights)
        assert found.kl == pytest.approx(expected)
    for limit in (0.0, 0.001, 0.004, 1.0):
        found = least_bytes(problem, most_kl=limit)
        assert found is not None
        assert found.num_bytes == min(size for kl, size, _ in choices if kl <= limit * (1 + 1e-9))


def test_int8_counts_as_smoothed_only_where_all_that_share_the_factor_are_int8(
    inventory: Inventory, profile: Profile, scores: Sensitivity
) -> None:
    problem = make_problem(inventory, scores, profile, device="cuda")
    down, gate_up = "model.layers.0.mlp.down_proj", "model.layers.0.mlp.gate_up_proj"
    assert problem.smoothed_with[down] == {down, gate_up}
    assert [option.format for option in problem.options[gate_up]] == ["bf16", "int8", "fp8_channel"]
    assert [option.format for option in problem.options[down]] == ["bf16", "int8_plain", "int8", "fp8_channel"]
    for share in (0.0, 0.2, 0.4, 0.6, 0.8):
        made = auto_plan(inventory, scores, Budget("bf16", share), profile=profile)
        chosen = {group.module: group.format for group in made.notes.groups}
        smoothed = {
            name for entry in made.compiled.plan.smoothing for family in entry.targets for name in expand(family)
        }
        for layer in range(2):
            name = f"model.layers.{layer}.mlp.down_proj"
            if chosen[name].startswith("int8"):
                assert (chosen[name] == "int8") == (f"{name}.weight" in smoothed)


def test_a_budget_in_bf16_is_kept_and_shown(inventory: Inventory, profile: Profile, scores: Sensitivity) -> None:
    made = auto_plan(inventory, scores, parse_budget("bf16=0.25"), profile=profile)
    plan = made.compiled.plan
    linears = set(default_linears(inventory))
    sizes = {tensor.name: tensor.shape[0] * tensor.shape[-1] for tensor in inventory.tensors}
    kept = [n for f in plan.tensors if f.treatment == "keep" for n in expand(f.names) if n in linears]
    share = sum(sizes[name] for name in kept) / sum(sizes[name] for name in linears)
    assert 0 < share <= 0.25
    assert made.point.bf16_share == pytest.approx(share, rel=1e-4)
    assert "bf16=0.25" in plan.description
    bits = [point.avg_bits for point in made.notes.front]
    kls = [point.predicted_kl for point in made.notes.front]
    assert (bits[0], bits[-1], kls[-1]) == (8.0, 16.0, 0.0)
    assert bits == sorted(bits)
    assert kls == sorted(kls, reverse=True)
    assert [point for point in made.notes.front if point.chosen] == [made.point]


def test_the_notes_are_no_part_of_the_plans_identity(
    inventory: Inventory, profile: Profile, scores: Sensitivity
) -> None:
    plan = auto_plan(inventory, scores, Budget("bf16", 0.25), profile=profile).compiled.plan
    assert plan.digest == plan.compute_digest()
    without = Plan.model_validate_json(plan.model_copy(update={KEY: None}).model_dump_json(exclude={KEY}))
    assert without.compute_digest() == plan.digest
    assert notes_of(plan) is not None
    assert notes_of(without) is None


@pytest.mark.parametrize("written", ["by hand", {"groups": 3}, {"budget": "bf16=1", "front": [[]]}])
def test_notes_that_somebody_else_wrote_are_left_unread(plan: Plan, written: Any) -> None:
    assert notes_of(plan.model_copy(update={KEY: written})) is None
    assert explain(plan.model_copy(update={KEY: written}))[0].chosen is None


def test_explain_says_what_the_other_formats_would_cost(
    inventory: Inventory, profile: Profile, scores: Sensitivity
) -> None:
    plan = auto_plan(inventory, scores, Budget("bf16", 0.25), profile=profile).compiled.plan
    [entry] = explain(plan, "model.layers.0.self_attn.k_proj")
    assert entry.chosen is not None
    assert "chosen for bf16=0.25" in entry.chosen
    assert "model.layers.0.self_attn.qkv_proj" in entry.chosen
    assert "; instead " in entry.chosen
    assert "nat and" in entry.chosen
    [norm] = explain(plan, "model.norm.weight")
    assert norm.chosen is None


def test_on_cpu_nothing_is_chosen_that_vllm_cannot_run_there(
    inventory: Inventory, profile: Profile, scores: Sensitivity
) -> None:
    made = auto_plan(inventory, scores, Budget("bf16", 0.25), profile=profile, device="cpu")
    assert {group.format for group in made.notes.groups} <= {"bf16", "int8", "int8_plain"}
    on_gpu = auto_plan(inventory, scores, Budget("bf16", 0.25), profile=profile)
    assert "fp8_channel" in {group.format for group in on_gpu.notes.groups}
    assert on_gpu.point.predicted_kl < made.point.predicted_kl


def test_only_the_schemes_that_were_asked_for_are_chosen(
    inventory: Inventory, profile: Profile, scores: Sensitivity
) -> None:
    made = auto_plan(inventory, scores, Budget("kl", 0.005), profile=profile, schemes=["fp8_channel"])
    assert {group.format for group in made.notes.groups} == {"bf16", "fp8_channel"}


def test_without_a_profile_int8_is_plain(inventory: Inventory, scores: Sensitivity) -> None:
    made = auto_plan(inventory, scores, Budget("bf16", 0.25), device="cpu")
    assert {group.format for group in made.notes.groups} == {"bf16", "int8_plain"}
    assert made.compiled.plan.smoothing == []


def test_a_budget_that_nothing_fits_names_the_smallest_plan(inventory: Inventory, scores: Sensitivity) -> None:
    with pytest.raises(CompileError, match="no plan has avg-bits=6") as caught:
        auto_plan(inventory, scores, Budget("avg-bits", 6.0))
    assert "8.000 bits" in str(caught.value)


def test_scores_of_another_model_or_profile_are_refused(
    inventory: Inventory, profile: Profile, make_checkpoint: Callable[..., Path], toy: dict[str, tuple[int, ...]]
) -> None:
    other = read_checkpoint(make_checkpoint("other", {**toy, "model.norm.weight": (8,)})).inventory
    with pytest.raises(CompileError, match="scores are of other"):
        auto_plan(inventory, make_scores(other), Budget("bf16", 0.25))
    with pytest.raises(CompileError, match="scored without a profile"):
        auto_plan(inventory, make_scores(inventory), Budget("bf16", 0.25), profile=profile)


MEANINGLESS = ["", "bits=8", "kl=", "kl=-1", "bf16=25%", "bf16=25", "avg-bits=nan", "avg-bits=1e999"]


@pytest.mark.parametrize("text", MEANINGLESS)
def test_a_budget_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not avg-bits=N|a share is at most 1"):
        parse_budget(text)


def test_experts_of_a_layer_and_latent_projections_are_decided_together() -> None:
    names = [f"m.layers.0.mlp.experts.{i}.{leaf}.weight" for i in (0, 10, 2) for leaf in ("gate_proj", "down_proj")]
    names += ["m.layers.0.self_attn.q_a_proj.weight", "m.layers.0.self_attn.kv_a_proj_with_mqa.weight"]
    groups = fused_groups(names)
    assert {module: len(of) for module, of in groups.items()} == {
        "m.layers.0.mlp.experts": 6,
        "m.layers.0.self_attn.fused_qkv_a_proj": 2,
    }


def test_what_the_solver_prints_does_not_reach_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    libc = ctypes.CDLL(None)
    with silent_stdout():
        libc.puts(b"the solver's own doings")
    libc.puts(b"after")
    libc.fflush(None)
    assert capfd.readouterr().out == "after\n"


def test_without_scipy_the_error_says_what_to_install(
    inventory: Inventory, scores: Sensitivity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(MissingDependencyError) as caught:
        auto_plan(inventory, scores, Budget("bf16", 0.25))
    assert "flashrl-registry[auto]" in str(caught.value)
