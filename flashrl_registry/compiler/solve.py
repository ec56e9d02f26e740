"""The best choice under a budget, exactly: a mixed-integer linear program, solved by HiGHS through SciPy.

One variable per option, 1 where it is chosen. Each group has one format; ``int8`` needs its smoothing partners in
int8, and ``int8_plain`` a partner that is not. Numbers are brought near 1 first, for the solver's tolerances are
absolute.
"""

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flashrl_registry.compiler.options import Option, Problem
from flashrl_registry.errors import MissingDependencyError

_SCALE = 1e2
"""Largest coefficient of a row: at 1 the tolerances cost exactness, from 1e3 on they cost time (measured)."""
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Solution:
    """A choice for every group.

    Attributes:
        chosen: Group to its option.
        kl: Predicted KL, in nats.
        num_bytes: Of all linears, those that cannot be chosen included.
        bf16_weights: Elements that stay in bf16, those included.
    """

    chosen: dict[str, Option]
    kl: float
    num_bytes: int
    bf16_weights: int


def least_kl(problem: Problem, *, most_bytes: int | None = None, most_bf16: float | None = None) -> Solution | None:
    """The lowest predicted KL within a number of bytes, or of weights in bf16; None where nothing fits."""
    limits = []
    if most_bytes is not None:
        limits.append(([float(option.num_bytes) for option in _all(problem)], float(most_bytes - problem.fixed_bytes)))
    if most_bf16 is not None:
        limits.append((_kept(problem), most_bf16 - problem.fixed_weights))
    return _solve(problem, [option.kl for option in _all(problem)], limits)


def least_bytes(problem: Problem, *, most_kl: float) -> Solution | None:
    """The fewest bytes with at most this predicted KL, and the lowest KL that those bytes allow."""
    costs = [option.kl for option in _all(problem)]
    found = _solve(problem, [float(option.num_bytes) for option in _all(problem)], [(costs, most_kl)])
    return None if found is None else least_kl(problem, most_bytes=found.num_bytes)


def solution_of(problem: Problem, chosen: dict[str, Option]) -> Solution:
    """What a choice costs."""
    return Solution(
        chosen,
        sum(option.kl for option in chosen.values()),
        problem.fixed_bytes + sum(option.num_bytes for option in chosen.values()),
        problem.fixed_weights + sum(problem.num_weights[m] for m, option in chosen.items() if option.format == "bf16"),
    )


def _all(problem: Problem) -> list[Option]:
    return [option for options in problem.options.values() for option in options]


def _kept(problem: Problem) -> list[float]:
    return [float(problem.num_weights[o.module]) if o.format == "bf16" else 0.0 for o in _all(problem)]


def _solve(problem: Problem, costs: list[float], limits: Sequence[tuple[list[float], float]]) -> Solution | None:
    try:
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import coo_array
    except ImportError as exc:
        hint = 'pip install "flashrl-registry[auto]"'
        raise MissingDependencyError("compile --auto needs scipy, which is not installed", hint=hint) from exc

    variables = _all(problem)
    rows, lows, highs = _together(problem, variables)
    for weights, limit in limits:
        unit = _unit(weights)
        rows.append({index: weight * unit for index, weight in enumerate(weights) if weight})
        lows.append(float("-inf"))
        highs.append(limit * unit * (1 + _TOLERANCE))
    entries = [(value, row, column) for row, of_row in enumerate(rows) for column, value in of_row.items()]
    values, row_of, column_of = zip(*entries, strict=True)
    matrix = coo_array((values, (row_of, column_of)), shape=(len(rows), len(variables)))
    unit = _unit(costs)
    with silent_stdout():
        result = milp(
            [cost * unit for cost in costs],
            integrality=[1] * len(variables),
            bounds=Bounds(0, 1),
            constraints=LinearConstraint(matrix.tocsr(), lows, highs),
            options={"mip_rel_gap": 0.0},
        )
    if result.x is None:
        return None
    return solution_of(problem, {o.module: o for o, taken in zip(variables, result.x, strict=True) if taken > 0.5})


@contextmanager
def silent_stdout() -> Iterator[None]:
    """Drop what C code prints to stdout, where ``--json`` has one object.

    HiGHS, as SciPy 1.17 has it, now and then prints a line of its own (``transformNewIntegerFeasibleSolution``),
    whatever its log settings say. To be removed with the first SciPy whose HiGHS does not.
    """
    libc = ctypes.CDLL(None)
    sys.stdout.flush()
    libc.fflush(None)
    kept = os.dup(1)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        libc.fflush(None)
        os.dup2(kept, 1)
        os.close(kept)


def _unit(values: Sequence[float]) -> float:
    """A factor that brings the largest of some numbers to a size that the solver's tolerances are small against."""
    return _SCALE / (max(map(abs, values), default=0.0) or 1.0)


def _together(problem: Problem, variables: Sequence[Option]) -> tuple[list[dict[int, float]], list[float], list[float]]:
    """One option per group, and int8 smoothed exactly where its partners are int8 too."""
    at: dict[str, list[int]] = {module: [] for module in problem.options}
    for index, option in enumerate(variables):
        at[option.module].append(index)
    int8 = {module: [index for index in indices if variables[index].is_int8] for module, indices in at.items()}
    rows: list[dict[int, float]] = [dict.fromkeys(indices, 1.0) for indices in at.values()]
    lows, highs = [1.0] * len(rows), [1.0] * len(rows)
    for index, option in enumerate(variables):
        others = sorted(problem.smoothed_with[option.module] - {option.module})
        if option.format == "int8":
            for other in others:  # smoothed - int8 of the other <= 0
                rows.append({index: 1.0, **dict.fromkeys(int8[other], -1.0)})
                lows.append(float("-inf"))
                highs.append(0.0)
        elif option.format == "int8_plain" and others:  # plain + int8 of the others <= how many others there are
            rows.append({index: 1.0, **{i: 1.0 for other in others for i in int8[other]}})
            lows.append(float("-inf"))
            highs.append(float(len(others)))
    return rows, lows, highs
