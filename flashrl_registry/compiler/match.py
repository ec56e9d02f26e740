"""Targets to tensors: exact names, families, globs and regular expressions, with provenance."""

import difflib
import fnmatch
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from flashrl_registry.compiler.modules import module_of
from flashrl_registry.documents import Rule, TensorSpec
from flashrl_registry.documents.expressions import compile_expression
from flashrl_registry.documents.names import expand, factor, join_indices, split_indices
from flashrl_registry.errors import Diagnostic

Matcher = Callable[[str], bool]
_REGEX_SECONDS = 2.0
_CLASSES = {"Linear", "LinearBase", "RowParallelLinear", "ColumnParallelLinear", "QKVParallelLinear"}


def matcher(target: str) -> Matcher:
    """A test on names for one target.

    Raises:
        ValueError: The regular expression or the family is malformed; or, by the test, an expression that would take
            longer than a compile may.
    """
    if target.startswith("re:"):
        return _regex_matcher(target)
    if "{" in target:
        names = frozenset(expand(target))
        return names.__contains__
    if any(char in target for char in "*?["):
        glob = re.compile(fnmatch.translate(target))
        return lambda name: glob.match(name) is not None
    return target.__eq__


def _regex_matcher(target: str) -> Matcher:
    """Rules are other people's files, and a backtracking expression can run for ever: all names share one budget."""
    pattern = compile_expression(target)
    left = _REGEX_SECONDS

    def test(name: str) -> bool:
        nonlocal left
        began = time.perf_counter()
        try:
            found = pattern.fullmatch(name, timeout=max(left, 0.001)) is not None
        except TimeoutError as exc:
            raise ValueError(
                f"{target!r} takes more than {_REGEX_SECONDS:g} s to match; write a glob or a family"
            ) from exc
        left -= time.perf_counter() - began
        return found

    return test


def claims(rules: Sequence[Rule], tensors: Sequence[TensorSpec]) -> tuple[dict[str, Rule], list[Diagnostic]]:
    """Which rule claims each tensor.

    A target matches a tensor by its own name or by its module's.

    Args:
        rules: In the order of the document.
        tensors: The checkpoint's tensors.

    Returns:
        Tensor name to its one rule, and every error: malformed targets, targets that match nothing, tensors that
        no rule or more than one rule claims.
    """
    diagnostics: list[Diagnostic] = []
    claimed_by: dict[str, list[Rule]] = {tensor.name: [] for tensor in tensors}
    names = list(claimed_by)
    for rule in rules:
        targeted = _matches(rule, rule.targets, "targets", names, diagnostics)
        ignored = set(_matches(rule, rule.ignore, "ignore", names, diagnostics))
        for name in targeted:
            if name not in ignored:
                claimed_by[name].append(rule)
    for name, owners in claimed_by.items():
        if not owners:
            hint = "add its module to a rule; bf16 keeps it as it is"
            diagnostics.append(Diagnostic("uncovered-tensor", "error", name, "no rule decides this tensor", hint))
        elif len(owners) > 1:
            text = "claimed by " + " and ".join(f"rule '{owner.name}'" for owner in owners)
            hint = "narrow one target or add it to 'ignore'"
            diagnostics.append(Diagnostic("claimed-twice", "error", name, text, hint, owners[-1].name))
    return {name: owners[0] for name, owners in claimed_by.items() if len(owners) == 1}, diagnostics


def matching(target: str, names: Iterable[str]) -> list[str]:
    """The tensors that a target matches, by their own names or by their modules'.

    Raises:
        ValueError: The target is malformed, or takes too long to match.
    """
    test = matcher(target)
    return [name for name in names if test(name) or test(module_of(name))]


def _matches(
    rule: Rule, targets: list[str], key: str, names: list[str], diagnostics: list[Diagnostic]
) -> dict[str, None]:
    """Tensors that any of the targets matches; what is wrong with a target goes to ``diagnostics``."""
    result: dict[str, None] = {}
    for target in targets:
        where = f"rule '{rule.name}' {key}"
        try:
            found = matching(target, names)
        except ValueError as exc:
            diagnostics.append(Diagnostic("bad-target", "error", where, str(exc), None, rule.name))
            continue
        if not found:
            diagnostics.append(replace(dead_target(f"rule '{rule.name}'", target, names), rule=rule.name))
        elif (partly := partly_dead(where, target, found)) is not None:
            diagnostics.append(replace(partly, rule=rule.name))
        result.update(dict.fromkeys(found))
    return result


def partly_dead(where: str, target: str, found: Iterable[str]) -> Diagnostic | None:
    """A family that lists modules which the model does not have: the last layers are easily miscounted."""
    if "{" not in target or target.startswith("re:"):
        return None
    there = {name for tensor in found for name in (tensor, module_of(tensor))}
    absent = [name for name in expand(target) if name not in there]
    if not absent:
        return None
    shown = ", ".join(factor(absent)[:3])
    message = f"of the family '{target}', the model does not have {shown}"
    return Diagnostic("partly-dead-family", "error", where, message, "count from 0; the last of N layers is N-1")


def dead_target(where: str, target: str, names: Sequence[str]) -> Diagnostic:
    """A target that matches nothing, with the nearest name that exists.

    Args:
        where: The rule or command that the target stands in.
        target: As written.
        names: Tensor names of the model.
    """
    known = dict.fromkeys([*(module_of(name) for name in names), *names])
    near = _nearest(target.removeprefix("re:"), known)
    hint = f"did you mean '{near}'?" if near else None
    if target in _CLASSES:
        hint = f"targets are module names, not classes; '*_proj' is what {target} usually means"
    elif "{" in target and any(char in target for char in "*?["):
        hint = "in a family, * and ? are letters of the name; write a glob, a family, or a re: target"
    message = f"'{target}' matches 0 of {len({module_of(name) for name in names})} modules"
    return Diagnostic("dead-target", "error", where, message, hint)


def _nearest(target: str, known: dict[str, None]) -> str | None:
    """The known name most like a target: compared without indices, of which a checkpoint has tens of thousands."""
    first_of: dict[str, str] = {}
    for name in known:
        first_of.setdefault(split_indices(name)[0], name)
    shape, indices = split_indices(target)
    if "*" in target:  # of a glob, only the last name can be a slip of the pen
        leaves = dict.fromkeys(leaf for name in first_of if (leaf := name.rpartition(".")[2]))
        slips = difflib.get_close_matches(target.rpartition(".")[2].strip("*"), leaves, n=1, cutoff=0.5)
        return slips[0] if slips else None
    near = difflib.get_close_matches(shape, first_of, n=1, cutoff=0.5)
    if not near:
        return None
    same_place = join_indices(near[0], indices) if near[0].count("{}") == len(indices) else ""
    return same_place if same_place in known else first_of[near[0]]
