"""One layer of a pair: which factor went from where to where, found on the tensors.

The columns of a quantized linear carry a factor ``c``: ``codes ~ W * rows / c / scale``. Candidates for ``c`` are the
quotients of every vector of the layer that changed (for norms that multiply by ``1 + w`` too), no factor, and the
factors of other linears' rows. Each is tried on a sample of rows; what is left must be no more than rounding, and no
more than the best factor there could be leaves (a rank-one fit). Names order the candidates, and say what is expected
where a factor is near one. What no candidate explains is a fault with its name.

Shape legend: O output channels, I input columns, E parts (experts in one tensor).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from flashrl_registry.documents import LinearFacts, SmoothingGroup
from flashrl_registry.documents.names import natural_key
from flashrl_registry.documents.profile import ChannelMap
from flashrl_registry.profiling.changes import ChangedVector, compare_unquantized
from flashrl_registry.profiling.channels import Heads, channel_maps, feeding_rows, mapped
from flashrl_registry.profiling.facts import factor_fault, linear_facts
from flashrl_registry.profiling.faults import Fault
from flashrl_registry.profiling.layout import F32, Mask
from flashrl_registry.profiling.linear import Columns, Linear, Pair, Sample, read_linear, row_factor
from flashrl_registry.profiling.relations import Relation, find_relations, is_measured_always

Role = Literal["quantized", "rescaled", "unchanged"]

LARGEST_RESIDUAL = 0.75
"""Residual in codes, root mean square, above which a relation is wrong. Rounding to nearest leaves 0.29 to 0.31 and
GPTQ up to 0.41; the factor of another norm, or none, left 5 to 166 (all measured on a 135M model)."""
ROUNDING_ONLY = 0.33
"""Residual that leaves nothing to explain."""
_OVER_BEST, _SLACK = 1.3, 0.03
"""How much more than the best factor there is a candidate may leave: quotients of two bfloat16 values are not exact."""


@dataclass(frozen=True)
class Task:
    """A layer, or a tensor that belongs to none: what one thread or one Ray task works on.

    Attributes:
        key: Prefix of the names, for people and for the file of the result.
        names: Tensors of the reference.
        linears: Those of them that are codes in the quantized checkpoint.
    """

    key: str
    names: tuple[str, ...]
    linears: tuple[str, ...]


@dataclass
class Result:
    """What was found in a task."""

    roles: dict[str, Role] = field(default_factory=dict)
    groups: list[SmoothingGroup] = field(default_factory=list)
    facts: list[LinearFacts] = field(default_factory=list)
    vectors: dict[str, F32] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)


@dataclass
class _Fed:
    """A linear and what its columns were found to carry."""

    linear: Linear
    source: str | None
    columns: Columns
    carries_rows: bool
    offset: int = 0


class Layer:
    """Measures one task.

    Args:
        pair: Both checkpoints, open.
        task: The layer.
        heads: Attention heads of the model.
        every_row: Compare every row of each linear, not a sample.
        tick: Called with the name of each tensor that is done.
    """

    def __init__(
        self, pair: Pair, task: Task, heads: Heads | None, *, every_row: bool, tick: Callable[[str], None]
    ) -> None:
        self._pair, self._task, self._heads = pair, task, heads
        self._every_row, self._tick = every_row, tick
        self._result = Result()
        self._changed: dict[str, ChangedVector] = {}
        self._linears: dict[str, Linear] = {}
        self._fed: dict[str, _Fed] = {}
        self._rows: dict[str, tuple[F32, Mask]] = {}
        self._row_groups: dict[str, tuple[ChannelMap | None, list[str]]] = {}
        self._unexplained: dict[str, float | None] = {}
        self._excused: set[str] = set()
        self._hints: dict[str, Relation] = {}
        for relation in find_relations(task.names):
            self._hints |= dict.fromkeys(relation.targets, relation)

    def run(self) -> Result:
        """Measure everything; faults are collected, not raised."""
        result = self._result
        for name in self._task.names:
            if name not in self._task.linears:
                result.roles[name] = "unchanged"
        self._changed, faults = compare_unquantized(
            self._pair, [name for name in self._task.names if name not in self._task.linears], self._tick
        )
        result.faults += faults
        for name in self._task.linears:
            result.roles[name] = "quantized"
            self._linears[name], faults = read_linear(self._pair.reference, self._pair.quantized, name, self._pair.form)
            result.faults += faults
            if faults:
                self._excused.add(name)
            self._keep_scales(self._linears[name])
        self._feed()
        self._add_norms()
        self._add_rows()
        self._compare()
        return result

    def _keep_scales(self, linear: Linear) -> None:
        for key, grid in ((linear.scale_key, linear.scale_PJ), ("stored_zero_point", linear.zero_PJ)):
            if grid.size:
                self._result.vectors[f"{key}/{linear.name}"] = grid.reshape(-1) if grid.shape[1] == 1 else grid

    # What feeds each linear.

    def _feed(self) -> None:
        later = []
        for name, linear in self._linears.items():
            if name in self._excused:
                continue
            source = self._forced_source(name)
            if source is not None:
                later.append((name, source))
            else:
                self._feed_by_vector(linear)
        for name, source in later:
            self._feed_by_rows(self._linears[name], [source], forced=True)
        while True:
            before = len(self._unexplained)
            for name in list(self._unexplained):
                linear = self._linears[name]
                carrying = [fed.linear for fed in self._fed.values() if fed.carries_rows and fed.linear.name != name]
                self._feed_by_rows(linear, self._ordered(linear, carrying), forced=False)
            if len(self._unexplained) == before:
                return

    def _forced_source(self, name: str) -> Linear | None:
        """The linear whose row factor is measured whether or not there is one, as FlashRL does; int8 only."""
        hint = self._hints.get(name)
        if hint is None or hint.source not in self._linears or not is_measured_always(hint.source, name):
            return None
        source = self._linears[hint.source]
        fits = source.is_int and source.num_rows == self._linears[name].num_columns and source.num_parts == 1
        return source if fits else None

    def _candidates(self, linear: Linear) -> list[tuple[str | None, int, Columns]]:
        """No factor, and every vector that changed and fits; what the name hints at comes first."""
        hint = self._hints.get(linear.name)
        found: list[tuple[str | None, int, Columns]] = [(None, 0, Columns.ones(linear.num_columns))]
        for name, vector in self._changed.items():
            if name.endswith(".bias"):
                continue  # what is added is no factor; it goes with the weight beside it
            for offset, (factor, dead) in vector.factors.items():
                if factor.size == linear.num_columns:
                    found.append((name, offset, Columns.of(factor, dead)))
        expected = hint.source if hint is not None and hint.source in self._changed else None
        return sorted(found, key=lambda candidate: (candidate[0] != expected, candidate[0] is not None))

    def _feed_by_vector(self, linear: Linear) -> None:
        sample = self._sample(linear)
        if sample is None:
            return
        tried = []
        for source, offset, columns in self._candidates(linear):
            plain, best = sample.residuals(columns)
            tried.append((best, plain, _Fed(linear, source, columns, _carries_rows(plain, best), offset)))
            if best < ROUNDING_ONLY:
                break
        best, _, fed = min(tried, key=lambda entry: entry[0])
        floor = None
        if best >= ROUNDING_ONLY and linear.num_parts == 1:
            floor = sample.fit()[1]
        if best <= _limit(floor):
            self._fed[linear.name] = fed
        else:
            self._unexplained[linear.name] = floor

    def _sample(self, linear: Linear) -> Sample | None:
        """Some rows; None, and a fault, where they cannot be used."""
        sample = Sample(self._pair, linear)
        if not sample.is_finite:
            reason = "holds weights that are not finite"
        elif not sample.y_RI.any() and sample.x_RI.any():
            reason = "has codes that are all zero, and weights that are not"
        else:
            return sample
        self._result.faults.append(Fault(linear.name, reason))
        self._excused.add(linear.name)
        self._unexplained.pop(linear.name, None)
        return None

    def _ordered(self, target: Linear, sources: list[Linear]) -> list[Linear]:
        hint = self._hints.get(target.name)
        expected = hint.source if hint is not None else None
        return sorted(sources, key=lambda source: (source.name != expected, -_num_shared(source.name, target.name)))

    def _feed_by_rows(self, target: Linear, sources: list[Linear], *, forced: bool) -> None:
        sample = self._sample(target)
        if sample is None:
            return
        floor, best = self._unexplained.get(target.name), None
        for source in sources:
            if forced and source.name not in self._fed:
                self._excused.add(target.name)  # the source is refused itself
                return
            for channels in channel_maps(source, target, self._heads):
                if source.name in self._row_groups and self._row_groups[source.name][0] != channels:
                    continue
                factor, dead = self._row_factor(source)
                if forced and factor_fault(factor):
                    self._row_groups[source.name] = (channels, [target.name])
                    self._excused.add(target.name)
                    return
                columns = Columns.of(mapped(factor, channels), mapped(dead, channels))
                plain, left = sample.residuals(columns)
                if np.isfinite(left) and (best is None or left < best[0]):
                    best = left, source, channels, _Fed(target, source.name, columns, _carries_rows(plain, left))
            if best is not None and best[0] < ROUNDING_ONLY:
                break
        if best is None or (not forced and best[0] > _limit(floor)):
            return
        _, source, channels, fed = best
        self._fed[target.name] = fed
        self._unexplained.pop(target.name, None)
        self._row_groups.setdefault(source.name, (channels, []))[1].append(target.name)

    def _row_factor(self, linear: Linear) -> tuple[F32, Mask]:
        if linear.name not in self._rows:
            self._rows[linear.name] = row_factor(self._pair, linear, self._fed[linear.name].columns)
        return self._rows[linear.name]

    # Groups.

    def _add_norms(self) -> None:
        claimed: dict[str, list[_Fed]] = {}
        for fed in self._fed.values():
            if fed.source in self._changed:
                claimed.setdefault(fed.source, []).append(fed)
        for name, vector in self._changed.items():
            if name in claimed:
                self._add_norm(name, vector, claimed[name])
        for name, vector in self._changed.items():
            if name not in claimed and not self._is_rescaled_bias(name, vector):
                self._refuse_vector(name, vector)

    def _add_norm(self, name: str, vector: ChangedVector, fed: list[_Fed]) -> None:
        votes = [entry.offset for entry in fed]
        offset = max(set(votes), key=lambda value: (votes.count(value), -value))
        factor, dead = vector.factors[offset]
        for entry in fed:  # one norm works in one way; the facts tell whether all agree
            entry.columns, entry.offset = Columns.of(factor, dead), offset
        hints = [hint for hint in self._hints.values() if hint.source == name]
        unquantized = [
            target for target in (hints[0].targets if hints else ())
            if target not in self._task.linears and self._pair.reference.index.specs[target].shape[-1:] == [factor.size]
        ]  # fmt: skip
        if unquantized:
            reason = f"differs between the checkpoints, but feeds unquantized {', '.join(unquantized)}"
            self._result.faults.append(Fault(name, reason))
            return
        order = hints[0].targets if hints else ()
        targets = sorted(
            (entry.linear.name for entry in fed),
            key=lambda target: (order.index(target) if target in order else len(order), natural_key(target)),
        )
        self._result.roles[name] = "rescaled"
        self._add_group(name, "norm", targets, factor, dead, offset=1 if offset else None)

    def _is_rescaled_bias(self, name: str, vector: ChangedVector) -> bool:
        """A bias goes with the rows, or the norm, that it is added to."""
        source = name.removesuffix(".bias") + ".weight"
        if not name.endswith(".bias"):
            return False
        factor = self._rows[source][0] if source in self._row_groups and source in self._rows else None
        factor = self._result.vectors.get(f"inv_smoothing/{source}", factor)
        if factor is None or factor.size != vector.reference.size:
            return False
        wanted = vector.reference * factor
        same = bool((np.abs(vector.quantized - wanted) <= 0.02 * np.abs(wanted) + 1e-6).all())
        if same:
            self._result.roles[name] = "rescaled"
        return same

    def _refuse_vector(self, name: str, vector: ChangedVector) -> None:
        if vector.fault and not name.endswith(".bias"):
            self._result.faults.append(Fault(name, f"differs between the checkpoints, and {vector.fault}"))
            fed = {target for target, hint in self._hints.items() if hint.source == name}
            self._excused |= fed & set(self._unexplained)
        else:
            reason = "differs between the checkpoints, and feeds no quantized linear that carries its factor"
            self._result.faults.append(Fault(name, reason))

    def _add_rows(self) -> None:
        for name, (channels, targets) in self._row_groups.items():
            factor, dead = self._rows[name]
            feeds = feeding_rows(factor.size, channels)
            if reason := factor_fault(factor[feeds]):
                self._result.faults.append(Fault(name, reason))
                self._excused.add(name)
                continue
            factor = np.where(feeds, factor, np.float32(1))
            self._rows[name] = factor, dead
            self._add_group(name, "linear", targets, factor, dead & feeds, channels=channels)

    def _add_group(
        self, source: str, kind: Literal["norm", "linear"], targets: list[str], factor: F32, dead: Mask, *,
        offset: Literal[1] | None = None, channels: ChannelMap | None = None,
    ) -> None:  # fmt: skip
        self._result.vectors[f"inv_smoothing/{source}"] = factor
        inner = factor[feeding_rows(factor.size, channels)]
        self._result.groups.append(
            SmoothingGroup(
                source=source, kind=kind, targets=targets, smallest=float(inner.min()), largest=float(inner.max()),
                num_zero_channels=int(dead.sum()), offset=offset, channels=channels,
            )
        )  # fmt: skip

    # How well all of it explains the codes.

    def _compare(self) -> None:
        used: dict[str, np.ndarray[tuple[int], np.dtype[np.uint8]]] = {}
        for name, linear in self._linears.items():
            if name in self._fed and name not in self._excused:
                fed = self._fed[name]
                rows = self._rows[name][0] if name in self._row_groups else None
                facts, columns = linear_facts(self._pair, linear, fed.columns, rows, every_row=self._every_row)
                if columns is not None:
                    used[name] = columns
                self._judge(fed, facts)
            elif name in self._unexplained and name not in self._excused:
                self._result.faults.append(Fault(name, self._unexplained_reason(name)))
            self._tick(name)
        if self._every_row:
            self._result.groups = [self._with_dead_channels(group, used) for group in self._result.groups]

    def _judge(self, fed: _Fed, facts: LinearFacts | None) -> None:
        name = fed.linear.name
        if facts is None:
            self._result.faults.append(Fault(name, "holds weights that are not finite"))
        elif facts.residual_rms <= LARGEST_RESIDUAL:
            self._result.facts.append(facts)
        elif fed.carries_rows and name not in self._row_groups:
            reason = "has rows that carry a factor, and no linear of its layer divides it out"
            self._result.faults.append(Fault(name, reason))
        else:
            self._result.faults.append(Fault(name, _not_explained(fed.source)))

    def _unexplained_reason(self, name: str) -> str:
        hint, floor = self._hints.get(name), self._unexplained[name]
        expected = hint.source if hint is not None and (hint.source in self._changed) else None
        reason = _not_explained(expected)
        if floor is None:
            return reason
        if floor > LARGEST_RESIDUAL:
            return reason + ", whatever factors its rows and columns carry: it is another weight"
        return reason + "; its columns carry a factor that no tensor of its layer carries too"

    def _with_dead_channels(self, group: SmoothingGroup, used: dict[str, np.ndarray]) -> SmoothingGroup:
        if group.channels is not None or any(target not in used for target in group.targets):
            return group
        alive = np.zeros_like(used[group.targets[0]])
        for target in group.targets:
            alive |= used[target]
        return group.model_copy(update={"num_dead_channels": int((alive == 0).sum())})


def _num_shared(left: str, right: str) -> int:
    """Path segments that two names begin with."""
    pairs = zip(left.split("."), right.split("."), strict=False)
    return next((index for index, (ours, theirs) in enumerate(pairs) if ours != theirs), 0)


def _carries_rows(plain: float, best: float) -> bool:
    """Whether a factor of the rows is needed to explain the codes, and does."""
    return best <= LARGEST_RESIDUAL and best * 1.25 + 0.05 < plain


def _limit(floor: float | None) -> float:
    """What a candidate may leave."""
    return LARGEST_RESIDUAL if floor is None else min(LARGEST_RESIDUAL, _OVER_BEST * floor + _SLACK)


def _not_explained(source: str | None) -> str:
    fed_by = "nothing" if source is None else source.removesuffix(".weight").rpartition(".")[2]
    return f"is not explained by what feeds it ({fed_by}): its codes are off by more than rounding"
