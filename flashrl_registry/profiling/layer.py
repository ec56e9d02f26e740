"""One layer of a pair: which factor went from where to where, and how well all of it explains the codes.

``feeding.py`` finds what feeds each linear. Here every norm and every row factor becomes a group, or a fault with its
name; every linear is compared, and what is not explained is a fault too.

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
from flashrl_registry.profiling.channels import Heads, feeding_rows
from flashrl_registry.profiling.correspondence import scale_name
from flashrl_registry.profiling.facts import LARGEST_RESIDUAL, Compared, factor_fault, linear_facts
from flashrl_registry.profiling.faults import Fault
from flashrl_registry.profiling.feeding import Fed, Feeding
from flashrl_registry.profiling.layout import F32, Mask
from flashrl_registry.profiling.linear import Columns, Linear, Pair, read_linear
from flashrl_registry.profiling.plausible import count_and_first, far_factors, wrong_scales
from flashrl_registry.profiling.relations import find_relations

Role = Literal["quantized", "rescaled", "unchanged"]


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

    def run(self) -> Result:
        """Measure everything; faults are collected, not raised."""
        result = self._result
        others = [name for name in self._task.names if name not in self._task.linears]
        result.roles = {**dict.fromkeys(others, "unchanged"), **dict.fromkeys(self._task.linears, "quantized")}
        changed, faults = compare_unquantized(self._pair, others, self._tick)
        result.faults += faults
        linears: dict[str, Linear] = {}
        excused: set[str] = set()
        for name in self._task.linears:
            linears[name], faults = read_linear(self._pair.reference, self._pair.quantized, name, self._pair.form)
            result.faults += faults
            if faults:
                excused.add(name)
            self._keep_scales(linears[name])
        hints = {target: relation for relation in find_relations(self._task.names) for target in relation.targets}
        self._found = Feeding(self._pair, self._heads, linears, changed, hints, excused)
        self._found.find()
        result.faults += self._found.faults
        self._add_norms()
        self._add_rows()
        self._compare()
        return result

    def _keep_scales(self, linear: Linear) -> None:
        for key, grid in ((linear.scale_key, linear.scale_PJ), ("stored_zero_point", linear.zero_PJ)):
            if grid.size:
                self._result.vectors[f"{key}/{linear.name}"] = grid.reshape(-1) if grid.shape[1] == 1 else grid

    def _add_norms(self) -> None:
        claimed: dict[str, list[Fed]] = {}
        for fed in self._found.fed.values():
            if fed.source is not None and fed.source in self._found.changed:
                claimed.setdefault(fed.source, []).append(fed)
        for name, vector in self._found.changed.items():
            if name in claimed:
                self._add_norm(name, vector, claimed[name])
        for name, vector in self._found.changed.items():
            if name not in claimed and not self._is_rescaled_bias(name, vector):
                self._refuse_vector(name, vector)

    def _add_norm(self, name: str, vector: ChangedVector, fed: list[Fed]) -> None:
        votes = [entry.offset for entry in fed]
        offset = max(set(votes), key=lambda value: (votes.count(value), -value))
        factor, dead = vector.factors[offset]
        for entry in fed:  # one norm works in one way; the facts tell whether all agree
            entry.columns, entry.offset = Columns.of(factor, dead), offset
        hints = [hint for hint in self._found.hints.values() if hint.source == name]
        unquantized = [
            target for target in (hints[0].targets if hints else ())
            if target not in self._task.linears and self._pair.reference.index.specs[target].shape[-1:] == [factor.size]
        ]  # fmt: skip
        if unquantized:
            reason = f"differs between the checkpoints, but feeds unquantized {', '.join(unquantized)}"
            self._result.faults.append(Fault(name, reason))
            return
        order = hints[0].targets if hints else ()
        claimed = {entry.linear.name for entry in fed}
        for target in order:  # codes that say of themselves that nothing feeds them, behind a norm that was changed
            lacks = target in self._found.fed and target not in claimed and target not in self._found.excused
            if lacks and self._found.linears[target].num_columns == factor.size:
                reason = f"does not carry the factor of {name}, which feeds it by its name and was changed"
                self._result.faults.append(Fault(target, reason))
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
        factor, dead = self._factor_of(source)
        same = factor is not None and dead is not None and vector.follows(factor, dead)
        if same:
            self._result.roles[name] = "rescaled"
        return same

    def _factor_of(self, source: str) -> tuple[F32 | None, Mask | None]:
        """What a norm, or a linear's rows, were found to carry, and where nothing says."""
        for group in self._result.groups:
            if group.source == source:
                return self._found.changed[source].factors[group.offset or 0]
        return self._found.rows[source] if source in self._found.row_groups else (None, None)

    def _refuse_vector(self, name: str, vector: ChangedVector) -> None:
        if vector.fault and not name.endswith(".bias"):
            self._result.faults.append(Fault(name, f"differs between the checkpoints, and {vector.fault}"))
            fed = {target for target, hint in self._found.hints.items() if hint.source == name}
            self._found.excused |= fed & set(self._found.unexplained)
        else:
            reason = "differs between the checkpoints, and feeds no quantized linear that carries its factor"
            self._result.faults.append(Fault(name, reason))

    def _add_rows(self) -> None:
        for name, (channels, targets) in self._found.row_groups.items():
            factor, dead = self._found.rows[name]
            feeds = feeding_rows(factor.size, channels)
            if reason := factor_fault(factor[feeds]):
                self._result.faults.append(Fault(name, reason))
                self._found.excused.add(name)
                continue
            scale = scale_name(name, self._pair.form)
            known = any(fault.name == scale for fault in self._result.faults)
            if len(far := far_factors(factor[feeds])) and not known:
                reason = f"is a million times too large or too small: {count_and_first(far, int(feeds.sum()), 'rows')}"
                self._result.faults.append(Fault(scale, reason))
                self._found.excused.add(name)
                continue
            factor = np.where(feeds, factor, np.float32(1))
            self._found.rows[name] = factor, dead
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
        for name, linear in self._found.linears.items():
            if name in self._found.fed and name not in self._found.excused:
                fed = self._found.fed[name]
                rows = self._found.rows[name][0] if name in self._found.row_groups else None
                compared = linear_facts(
                    self._pair, linear, fed.columns, rows,
                    every_row=self._every_row, taken=self._found.samples.pop(name, None),
                )  # fmt: skip
                if compared.used is not None:
                    used[name] = compared.used
                self._judge(fed, compared, rows)
            elif name in self._found.unexplained and name not in self._found.excused:
                self._result.faults.append(Fault(name, self._unexplained_reason(name)))
            self._tick(name)
        if self._every_row:
            self._result.groups = [self._with_dead_channels(group, used) for group in self._result.groups]

    def _judge(self, fed: Fed, compared: Compared, rows: F32 | None) -> None:
        facts, name = compared.facts, fed.linear.name
        if facts is None:
            self._result.faults.append(Fault(name, "holds weights or codes that are not finite"))
        elif facts.residual_rms <= LARGEST_RESIDUAL:
            self._result.facts.append(facts)
            self._add_single_rows(fed, compared, rows)
        elif fed.carries_rows and name not in self._found.row_groups:
            reason = "has rows that carry a factor, and no linear of its layer divides it out"
            if fed.source in self._found.changed:
                reason += f"; or {fed.source} is off by a number"
            self._result.faults.append(Fault(name, reason))
        else:
            self._result.faults.append(Fault(name, _not_explained(fed.source)))

    def _add_single_rows(self, fed: Fed, compared: Compared, rows: F32 | None) -> None:
        linear = fed.linear
        if wrong := wrong_scales(self._pair, linear, fed.columns, rows):
            reason = f"does not fit the weights and the codes: {count_and_first(wrong, linear.num_rows, 'rows')}"
            self._result.faults.append(Fault(scale_name(linear.name, self._pair.form), reason))
        elif compared.wrong_rows:
            which = count_and_first(compared.wrong_rows, linear.num_rows, "rows")
            reason = f"has rows whose codes are not its weights: {which}"
            self._result.faults.append(Fault(linear.name, reason))

    def _unexplained_reason(self, name: str) -> str:
        hint, floor = self._found.hints.get(name), self._found.unexplained[name]
        expected = hint.source if hint is not None and (hint.source in self._found.changed) else None
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


def _not_explained(source: str | None) -> str:
    fed_by = "nothing" if source is None else source.removesuffix(".weight").rpartition(".")[2]
    return f"is not explained by what feeds it ({fed_by}): its codes are off by more than rounding"
