"""A budget and scores to rules: which linears stay in bf16, and which 8-bit format the others take.

The choice is exact for the predicted KL, which is a sum over groups. The prediction is what it is: measure the plan
itself with ``flashrl-registry quality``.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from flashrl_registry.compiler.compile import Compiled, compile_plan
from flashrl_registry.compiler.modules import module_of
from flashrl_registry.compiler.notes import Chosen, Cost, Notes, Point, with_notes
from flashrl_registry.compiler.options import Option, Problem, make_problem, same_groups
from flashrl_registry.compiler.solve import Solution, least_bytes, least_kl
from flashrl_registry.compiler.summary import diagnostic_lines
from flashrl_registry.documents import Inventory, Profile, Rule, Rules, SchemeName, Sensitivity
from flashrl_registry.documents.names import factor
from flashrl_registry.documents.sensitivity import ScoredScheme
from flashrl_registry.errors import CompileError, Diagnostic

_POINTS = 12
_BUDGET = re.compile(r"(avg-bits|kl|bf16)=([0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)")
_DIGITS = 6


@dataclass(frozen=True)
class Budget:
    """What the plan may cost.

    Attributes:
        kind: ``avg-bits``: bits per weight of all linears, scales left out. ``bf16``: share of their weights that
            stays in bf16. ``kl``: predicted KL in nats; the fewest bytes are sought.
        limit: The number.
    """

    kind: Literal["avg-bits", "kl", "bf16"]
    limit: float

    def __str__(self) -> str:
        return f"{self.kind}={self.limit:g}"


@dataclass(frozen=True)
class Auto:
    """A plan that was chosen.

    Attributes:
        compiled: The plan, with its notes under ``x-auto``.
        point: What it costs.
        notes: Why, and what else was possible.
    """

    compiled: Compiled
    point: Point
    notes: Notes


def parse_budget(text: str) -> Budget:
    """``avg-bits=9.5``, ``kl=0.01`` or ``bf16=0.25``.

    Raises:
        ValueError: It is none of these.
    """
    match = _BUDGET.fullmatch(text)
    if match is None or not math.isfinite(float(match[2])):
        raise ValueError(f"'{text}' is not avg-bits=N, kl=X or bf16=SHARE")
    kind, limit = match[1], float(match[2])
    if kind == "bf16" and limit > 1:
        raise ValueError(f"'{text}': a share is at most 1, such as bf16=0.25")
    return Budget(kind, limit)  # type: ignore[arg-type]


def auto_plan(
    inventory: Inventory,
    sensitivity: Sensitivity,
    budget: Budget,
    *,
    profile: Profile | None = None,
    device: str = "cuda",
    schemes: Sequence[ScoredScheme] | None = None,
) -> Auto:
    """Choose a format for every group of linears and compile the plan.

    Args:
        inventory: The bf16 checkpoint's tensors.
        sensitivity: Scores of the same model.
        budget: What the plan may cost.
        profile: The profile that ``int8`` was scored with.
        device: What the plan must run on: ``cpu``, ``cuda`` or ``rocm``.
        schemes: Schemes to choose among, with bf16; None means all that were scored.

    Raises:
        CompileError: The scores are of another model or another profile, or nothing fits the budget.
        MissingDependencyError: SciPy is not installed.
    """
    if faults := _faults(inventory, sensitivity, profile):
        raise CompileError(faults, lines=diagnostic_lines(faults))
    problem = make_problem(inventory, sensitivity, profile, device=device, schemes=schemes)
    solution = _best(problem, budget)
    if solution is None:
        raise CompileError([_out_of_reach(problem, budget)])
    compiled = compile_plan(_rules(inventory, problem, solution), inventory, profile)
    point = _point(problem, solution, chosen=True)
    notes = _notes(sensitivity, budget, problem, solution, _front(problem, point))
    description = (
        f"chosen by compile --auto for {budget}: predicted KL {point.predicted_kl:.4g} nat, "
        f"{point.avg_bits:.2f} bits per linear weight, {point.bf16_share:.1%} of them in bf16"
    )
    plan = with_notes(compiled.plan.model_copy(update={"description": description}), notes)
    # A factor that is not applied was part of the choice.
    others = tuple(note for note in compiled.notes if note.code != "smoothing-dropped")
    return Auto(Compiled(plan, others), point, notes)


def _faults(inventory: Inventory, sensitivity: Sensitivity, profile: Profile | None) -> list[Diagnostic]:
    ours, theirs = inventory.fingerprint(), sensitivity.reference.fingerprint
    again = "measure it again with: flashrl-registry sensitivity"
    if ours != theirs or not same_groups(inventory, sensitivity):
        message = (
            f"the scores are of {sensitivity.reference.name} ({theirs[:19]}), not of {inventory.name} ({ours[:19]})"
        )
        if ours == theirs:
            message = "the scores are of groups that this release does not fuse in the same way"
        return [Diagnostic("scores-of-another-model", "error", "sensitivity", message, again)]
    if profile is not None and sensitivity.profile != profile.compute_digest():
        scored = "without a profile" if sensitivity.profile is None else f"with profile {sensitivity.profile[:19]}"
        message = f"int8 was scored {scored}, and the plan is compiled with {profile.compute_digest()[:19]}"
        return [Diagnostic("scores-of-another-profile", "error", "sensitivity", message, again + " --profile")]
    return []


def _best(problem: Problem, budget: Budget) -> Solution | None:
    if budget.kind == "avg-bits":
        return least_kl(problem, most_bytes=int(budget.limit / 8 * problem.total_weights))
    if budget.kind == "bf16":
        return least_kl(problem, most_bf16=budget.limit * problem.total_weights)
    return least_bytes(problem, most_kl=budget.limit)


def _out_of_reach(problem: Problem, budget: Budget) -> Diagnostic:
    fewest = _point(problem, _fewest(problem))
    message = f"no plan has {budget}"
    hint = f"the smallest has {fewest.avg_bits:.3f} bits per weight, {fewest.bf16_share:.1%} of the weights in bf16"
    return Diagnostic("budget-out-of-reach", "error", "budget", message, hint)


def _fewest(problem: Problem) -> Solution:
    found = least_bytes(problem, most_kl=sum(max(o.kl for o in options) for options in problem.options.values()))
    assert found is not None  # everything is allowed
    return found


def _point(problem: Problem, solution: Solution, *, chosen: bool = False) -> Point:
    total = problem.total_weights
    return Point(
        avg_bits=_rounded(8 * solution.num_bytes / total),
        bf16_share=_rounded(solution.bf16_weights / total),
        predicted_kl=_rounded(solution.kl),
        chosen=chosen,
    )


def _front(problem: Problem, own: Point) -> list[Point]:
    """Evenly spaced budgets of bytes, each solved for itself."""
    fewest = _fewest(problem)
    most = problem.fixed_bytes + sum(max(o.num_bytes for o in options) for options in problem.options.values())
    points = {own.avg_bits: own}
    for index in range(_POINTS):
        limit = fewest.num_bytes + (most - fewest.num_bytes) * index // (_POINTS - 1)
        found = least_kl(problem, most_bytes=limit)
        assert found is not None  # the limit is at least the fewest
        point = _point(problem, found)
        points.setdefault(point.avg_bits, point)
    return [points[bits] for bits in sorted(points)]


def _rules(inventory: Inventory, problem: Problem, solution: Solution) -> Rules:
    modules: dict[SchemeName, list[str]] = {}
    for group, option in solution.chosen.items():
        scheme = _scheme(option)
        modules.setdefault(scheme, []).extend(module_of(name) for name in problem.tensors[group])
    decided = {module for named in modules.values() for module in named}
    rest = {module for tensor in inventory.tensors if (module := module_of(tensor.name)) not in decided}
    rules = [Rule(name=f"auto-{scheme}", scheme=scheme, targets=factor(named)) for scheme, named in modules.items()]
    if rest:
        rules.append(Rule(name="rest", scheme="bf16", targets=factor(rest)))
    return Rules(rules=rules)


def _scheme(option: Option) -> SchemeName:
    return "int8" if option.format == "int8_plain" else option.format


def _notes(sensitivity: Sensitivity, budget: Budget, problem: Problem, solution: Solution, front: list[Point]) -> Notes:
    return Notes(
        budget=str(budget),
        sensitivity=sensitivity.compute_digest(),
        predicted_kl=_rounded(solution.kl),
        front=front,
        groups=[
            Chosen(
                module=module,
                format=option.format,
                predicted_kl=_rounded(option.kl),
                bytes=option.num_bytes,
                others={
                    other.format: Cost(predicted_kl=_rounded(other.kl), bytes=other.num_bytes)
                    for other in problem.options[module]
                    if other is not option
                },
            )
            for module, option in solution.chosen.items()
        ],
    )


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
