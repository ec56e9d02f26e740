"""What differs between two plans, by meaning: settings, treatments per family, predicted bytes."""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flashrl_registry.compiler.memory import weight_bytes
from flashrl_registry.compiler.smoothing import smoothing_sources
from flashrl_registry.documents import Plan, Rule
from flashrl_registry.documents.names import expand, factor, family_size, natural_key, split_indices

ABSENT = "absent"


@dataclass(frozen=True)
class SettingChange:
    """One setting that differs.

    Attributes:
        where: Key path such as ``engine.vllm`` or ``rules.linears.targets``.
        before: Its value in the first plan, or ``absent``.
        after: Its value in the second, or ``absent``.
    """

    where: str
    before: str
    after: str


@dataclass(frozen=True)
class TensorChange:
    """Tensors whose decision differs in the same way.

    Attributes:
        names: A tensor name or a family.
        num_tensors: How many tensors that is.
        before: Their decision in the first plan, or ``absent``.
        after: Their decision in the second, or ``absent``.
    """

    names: str
    num_tensors: int
    before: str
    after: str


@dataclass(frozen=True)
class PlanDiff:
    """Every difference that counts in the plans' digests.

    Attributes:
        settings: Model, engine, update, profile and rules.
        tensors: Decisions.
        bytes_before: Predicted weight bytes of the first plan.
        bytes_after: Predicted weight bytes of the second.
        same: The plans have one digest.
    """

    settings: tuple[SettingChange, ...]
    tensors: tuple[TensorChange, ...]
    bytes_before: int
    bytes_after: int
    same: bool


def diff_plans(before: Plan, after: Plan) -> PlanDiff:
    """Compare two plans by meaning; spelling, order of keys and descriptions do not matter."""
    old, new = dict(_settings(before)), dict(_settings(after))
    settings = [
        SettingChange(where, old.get(where, ABSENT), new.get(where, ABSENT))
        for where in {**old, **new}
        if old.get(where) != new.get(where)
    ]
    settings += _rule_changes(before, after)
    same = before.compute_digest() == after.compute_digest()
    return PlanDiff(
        tuple(settings), tuple(_tensor_changes(before, after)), weight_bytes(before), weight_bytes(after), same
    )


def _settings(plan: Plan) -> Iterator[tuple[str, str]]:
    """Everything but the rules and what they decide, flat."""
    # How names are grouped into families is spelling; decisions are compared tensor by tensor.
    yield from _flat({k: v for k, v in plan.identity().items() if k not in {"rules", "tensors", "smoothing"}}, "")


def _flat(value: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{where}.{key}" if where else key)
    else:
        yield where, value if isinstance(value, str) else json.dumps(value)


def _rule_changes(before: Plan, after: Plan) -> Iterator[SettingChange]:
    old, new = ({rule.name: rule for rule in plan.rules} for plan in (before, after))
    for name in {**old, **new}:
        was, now = old.get(name), new.get(name)
        if was is None or now is None:
            yield SettingChange(f"rules.{name}", _summary(was), _summary(now))
            continue
        if was.shown_scheme() != now.shown_scheme():
            yield SettingChange(f"rules.{name}.scheme", was.shown_scheme(), now.shown_scheme())
        elif was.scheme != now.scheme:
            old_way, new_way = (rule.scheme or "spelled out as weights" for rule in (was, now))
            yield SettingChange(f"rules.{name}.scheme", old_way, new_way)
        for field in ("targets", "ignore"):
            ours, theirs = getattr(was, field), getattr(now, field)
            if ours != theirs:
                gone = [item for item in ours if item not in theirs]
                added = [item for item in theirs if item not in ours]
                if not gone and not added:
                    gone, added = ours, theirs  # only the order differs
                yield SettingChange(f"rules.{name}.{field}", " ".join(gone) or ABSENT, " ".join(added) or ABSENT)
    if list(old) != list(new) and set(old) == set(new):
        yield SettingChange("rules order", ", ".join(old), ", ".join(new))


def _summary(rule: Rule | None) -> str:
    return ABSENT if rule is None else f"{rule.shown_scheme()} on {' '.join(rule.targets)}"


def _tensor_changes(before: Plan, after: Plan) -> list[TensorChange]:
    was, now = _decisions(before), _decisions(after)
    alike: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in {**was, **now}:
        old, new = was.get(name), now.get(name)
        # A rule's name decides nothing: a renamed one is listed among the rules.
        if _without_rule(old) != _without_rule(new):
            alike[_shown(old, new), _shown(new, old)].append(name)
    changes = [
        TensorChange(family, family_size(family), *texts) for texts, names in alike.items() for family in factor(names)
    ]
    return sorted(changes, key=lambda change: natural_key(expand(change.names)[0]))


def _without_rule(facts: dict[str, str] | None) -> dict[str, str] | None:
    return None if facts is None else {key: value for key, value in facts.items() if key != "rule"}


def _decisions(plan: Plan) -> dict[str, dict[str, str]]:
    """Tensor name to what is decided about it, as facts that can be compared one by one."""
    sources = smoothing_sources(plan)
    decisions = {}
    for family in plan.tensors:
        facts = {
            "treatment": family.treatment,
            "rule": family.rule,
            "checkpoint": f"{family.dtype} {'x'.join(str(size) for size in family.shape)}",
        }
        for name in expand(family.names):
            columns = sources.columns.get(name)
            rows = sources.rows.get(name) if family.treatment != "keep" else None
            decisions[name] = {
                **facts,
                "columns": f"/ {_any_index(columns)}" if columns else "as sent",
                "rows": f"* {_any_index(rows)}" if rows else "as sent",
            }
    return decisions


def _shown(facts: dict[str, str] | None, other: dict[str, str] | None) -> str:
    """The treatment, and those other facts that differ."""
    if facts is None:
        return ABSENT
    differ = [
        f"{key} {value}" for key, value in facts.items() if key != "treatment" and (other or {}).get(key) != value
    ]
    if other is None:
        differ = [f"rule {facts['rule']}", f"checkpoint {facts['checkpoint']}"]
    return facts["treatment"] + (f" ({', '.join(differ)})" if differ else "")


def _any_index(name: str) -> str:
    """A name with its indices blanked, so that all layers of one kind read alike."""
    return split_indices(name)[0].replace("{}", "*")
