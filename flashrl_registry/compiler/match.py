"""Targets to tensors: exact names, families, globs and regular expressions, with provenance."""

import difflib
import fnmatch
import re
from collections.abc import Callable, Sequence

from flashrl_registry.compiler.modules import module_of
from flashrl_registry.documents import Rule, TensorSpec
from flashrl_registry.documents.names import expand, join_indices, split_indices
from flashrl_registry.errors import Diagnostic

Matcher = Callable[[str], bool]


def matcher(target: str) -> Matcher:
    """A test on names for one target.

    Raises:
        ValueError: The regular expression or the family is malformed.
    """
    if target.startswith("re:"):
        try:
            pattern = re.compile(target[3:])
        except re.error as exc:
            raise ValueError(f"{target!r} is not a regular expression: {exc}") from exc
        return lambda name: pattern.fullmatch(name) is not None
    if "{" in target:
        names = frozenset(expand(target))
        return names.__contains__
    if any(char in target for char in "*?["):
        glob = re.compile(fnmatch.translate(target))
        return lambda name: glob.match(name) is not None
    return target.__eq__


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
        targets = _matchers(rule, rule.targets, "targets", diagnostics)
        ignored = _matchers(rule, rule.ignore, "ignore", diagnostics)
        hits = {target: _hits(test, names) for target, test in {**targets, **ignored}.items()}
        for target, found in hits.items():
            if not found:
                diagnostics.append(dead_target(f"rule '{rule.name}'", target, names))
        skipped = {name for target in ignored for name in hits[target]}
        for name in dict.fromkeys(name for target in targets for name in hits[target]):
            if name not in skipped:
                claimed_by[name].append(rule)
    for name, owners in claimed_by.items():
        if not owners:
            hint = "add its module to a rule; bf16 keeps it as it is"
            diagnostics.append(Diagnostic("uncovered-tensor", "error", name, "no rule decides this tensor", hint))
        elif len(owners) > 1:
            text = "claimed by " + " and ".join(f"rule '{owner.name}'" for owner in owners)
            diagnostics.append(
                Diagnostic("claimed-twice", "error", name, text, "narrow one target or add it to 'ignore'")
            )
    return {name: owners[0] for name, owners in claimed_by.items() if len(owners) == 1}, diagnostics


def _hits(test: Matcher, names: list[str]) -> list[str]:
    return [name for name in names if test(name) or test(module_of(name))]


def _matchers(rule: Rule, targets: list[str], key: str, diagnostics: list[Diagnostic]) -> dict[str, Matcher]:
    result = {}
    for target in targets:
        try:
            result[target] = matcher(target)
        except ValueError as exc:
            diagnostics.append(Diagnostic("bad-target", "error", f"rule '{rule.name}' {key}", str(exc)))
    return result


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
    message = f"'{target}' matches 0 of {len({module_of(name) for name in names})} modules"
    return Diagnostic("dead-target", "error", where, message, hint)


def _nearest(target: str, known: dict[str, None]) -> str | None:
    """The known name most like a target: compared without indices, of which a checkpoint has tens of thousands."""
    first_of: dict[str, str] = {}
    for name in known:
        first_of.setdefault(split_indices(name)[0], name)
    shape, indices = split_indices(target)
    near = difflib.get_close_matches(shape, first_of, n=1, cutoff=0.5)
    if not near:
        return None
    same_place = join_indices(near[0], indices) if near[0].count("{}") == len(indices) else ""
    return same_place if same_place in known else first_of[near[0]]
