"""What feeds each linear of a layer, found on the tensors.

The columns of a quantized linear carry a factor ``c``: ``codes ~ W * rows / c / scale``. Candidates for ``c`` are the
quotients of every vector of the layer that changed (for norms that multiply by ``1 + w`` too), no factor, and the
factors of other linears' rows. Each is tried on a sample of rows; what is left must be no more than rounding, and no
more than the best factor there could be leaves (a rank-one fit). Names order the candidates, and say what is expected
where a factor is near one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import hypot

import numpy as np

from flashrl_registry.documents.profile import ChannelMap
from flashrl_registry.profiling.changes import ChangedVector
from flashrl_registry.profiling.channels import Heads, channel_maps, mapped
from flashrl_registry.profiling.correspondence import scale_name
from flashrl_registry.profiling.facts import LARGEST_RESIDUAL, factor_fault
from flashrl_registry.profiling.faults import Fault
from flashrl_registry.profiling.layout import F32, Mask
from flashrl_registry.profiling.linear import Columns, Linear, Pair, row_factor
from flashrl_registry.profiling.plausible import (
    TOLERATED_IN_FITS,
    count_and_first,
    octaves_from_median,
    tolerated_factor,
    wrong_columns,
)
from flashrl_registry.profiling.relations import Relation, is_measured_always
from flashrl_registry.profiling.sample import Sample, SampledRows

ROUNDING_ONLY = 0.33
"""Residual that leaves nothing to explain."""
_KEPT_BYTES = 16 << 20
_OVER_BEST, _SLACK = 1.3, 0.03
"""How much more than the best factor there is a candidate may leave: quotients of two bfloat16 values are not exact."""


@dataclass
class Fed:
    """A linear and what its columns were found to carry.

    Attributes:
        linear: The linear.
        source: Vector or linear that feeds it; None where its columns carry nothing.
        columns: The factor.
        carries_rows: Its own rows carry a factor.
        offset: 1 where the source is a norm that multiplies by ``1 + w``.
    """

    linear: Linear
    source: str | None
    columns: Columns
    carries_rows: bool
    offset: int = 0


@dataclass
class Feeding:
    """The search in one layer, and what it found.

    Attributes:
        pair: Both checkpoints, open.
        heads: Attention heads of the model.
        linears: Quantized linears by name.
        changed: Vectors that differ between the checkpoints.
        hints: What names say of each linear.
        excused: Linears that are not looked at, or not blamed: another fault says why.
        fed: Linears whose columns are explained.
        rows: Factors of rows, and dead rows, of the linears that they were asked of.
        row_errors: Standard errors of those factors.
        row_groups: Linears that feed others: how, and which.
        samples: Samples of linears, for who looks at them next; as many as fit into a few megabytes.
        unexplained: Linears whose columns nothing explains, and what the best factor there could be leaves.
        faults: What is wrong with weights themselves.
    """

    pair: Pair
    heads: Heads | None
    linears: Mapping[str, Linear]
    changed: Mapping[str, ChangedVector]
    hints: Mapping[str, Relation]
    excused: set[str]
    fed: dict[str, Fed] = field(default_factory=dict)
    rows: dict[str, tuple[F32, Mask]] = field(default_factory=dict)
    row_errors: dict[str, F32] = field(default_factory=dict)
    row_groups: dict[str, tuple[ChannelMap | None, list[str]]] = field(default_factory=dict)
    samples: dict[str, SampledRows] = field(default_factory=dict)
    unexplained: dict[str, float | None] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def find(self) -> None:
        """Find what feeds every linear that can be used; the others are in ``unexplained`` or have a fault."""
        later = []
        for name, linear in self.linears.items():
            if name in self.excused:
                continue
            source = self._forced_source(name)
            if source is not None:
                later.append((name, source))
            else:
                self._feed_by_vector(linear)
        for name, source in later:
            self._feed_by_rows(self.linears[name], [source], forced=True)
        while True:
            before = len(self.unexplained)
            for name in list(self.unexplained):
                linear = self.linears[name]
                carrying = [fed.linear for fed in self.fed.values() if fed.carries_rows and fed.linear.name != name]
                self._feed_by_rows(linear, self._ordered(linear, carrying), forced=False)
            if len(self.unexplained) == before:
                return

    def _forced_source(self, name: str) -> Linear | None:
        """The linear whose row factor is measured whether or not there is one, as FlashRL does; int8 only."""
        hint = self.hints.get(name)
        if hint is None or hint.source not in self.linears or not is_measured_always(hint.source, name):
            return None
        source = self.linears[hint.source]
        fits = source.is_int and source.num_rows == self.linears[name].num_columns and source.num_parts == 1
        return source if fits else None

    def _candidates(self, linear: Linear) -> list[tuple[str | None, int, Columns]]:
        """No factor, and every vector that changed and fits; what the name hints at comes first."""
        hint = self.hints.get(linear.name)
        found: list[tuple[str | None, int, Columns]] = [(None, 0, Columns.ones(linear.num_columns))]
        found += [entry for entry in self._by_vectors if entry[2].inv_EI.shape[1] == linear.num_columns]
        expected = hint.source if hint is not None and hint.source in self.changed else None
        return sorted(found, key=lambda candidate: (candidate[0] != expected, candidate[0] is not None))

    @cached_property
    def _by_vectors(self) -> list[tuple[str | None, int, Columns]]:
        """The quotients of vectors that changed; what is added is no factor and goes with the weight beside it."""
        return [
            (name, offset, Columns.of(factor, dead))
            for name, vector in self.changed.items()
            if not name.endswith(".bias")
            for offset, (factor, dead) in vector.factors.items()
        ]

    def _feed_by_vector(self, linear: Linear) -> None:
        sample = self._sample(linear)
        if sample is None:
            return
        tried = []
        for source, offset, columns in self._candidates(linear):
            plain, best = sample.residuals(columns)
            tried.append((best, plain, Fed(linear, source, columns, _carries_rows(plain, best), offset)))
            if best < ROUNDING_ONLY:
                break
        best, _, fed = min(tried, key=lambda entry: entry[0])
        floor = None
        if best >= ROUNDING_ONLY and linear.num_parts == 1:
            floor = sample.fit()[1]
        if best > _limit(floor):
            best, fed = _without_lost(sample, fed, best)
        if best <= _limit(floor) or best <= _limit(floor, self._blur(sample, fed, None)):
            self.fed[linear.name] = fed
            self._check_columns(sample, fed)
        else:
            self.unexplained[linear.name] = floor

    def _sample(self, linear: Linear) -> Sample | None:
        """Some rows; None, and a fault, where they cannot be used."""
        sample = Sample(self.pair, linear)
        if not sample.is_finite:
            reason = "holds weights or codes that are not finite"
        elif not sample.y_RI.any() and sample.x_RI.any():
            reason = "has codes that are all zero, and weights that are not"
        else:
            if sum(taken.num_bytes for taken in self.samples.values()) < _KEPT_BYTES:
                self.samples[linear.name] = sample.taken
            return sample
        self.faults.append(Fault(linear.name, reason))
        self.excused.add(linear.name)
        self.unexplained.pop(linear.name, None)
        return None

    def _ordered(self, target: Linear, sources: list[Linear]) -> list[Linear]:
        hint = self.hints.get(target.name)
        expected = hint.source if hint is not None else None
        return sorted(sources, key=lambda source: (source.name != expected, -_num_shared(source.name, target.name)))

    def _feed_by_rows(self, target: Linear, sources: list[Linear], *, forced: bool) -> None:
        sample = self._sample(target)
        if sample is None:
            return
        floor, best = self.unexplained.get(target.name), None
        for source in sources:
            if forced and source.name not in self.fed:
                self.excused.add(target.name)  # the source is refused itself
                return
            for channels in channel_maps(source, target, self.heads):
                if source.name in self.row_groups and self.row_groups[source.name][0] != channels:
                    continue
                factor, dead = self._row_factor(source)
                if forced and factor_fault(factor):
                    self.row_groups[source.name] = (channels, [target.name])
                    self.excused.add(target.name)
                    return
                columns = Columns.of(mapped(factor, channels), mapped(dead, channels))
                plain, left = sample.residuals(columns)
                if np.isfinite(left) and (best is None or left < best[0]):
                    best = left, source, channels, Fed(target, source.name, columns, _carries_rows(plain, left))
            if best is not None and best[0] < ROUNDING_ONLY:
                break
        if best is None:
            return
        left, source, channels, fed = best
        if left > _limit(floor):
            left, fed = _without_lost(sample, fed, left)
            if not forced and left > _limit(floor, self._blur(sample, fed, channels)):
                return
        self.fed[target.name] = fed
        self.unexplained.pop(target.name, None)
        self.row_groups.setdefault(source.name, (channels, []))[1].append(target.name)
        self._check_columns(sample, fed)

    def _blur(self, sample: Sample, fed: Fed, channels: ChannelMap | None) -> float:
        """What the errors of a factor leave, in codes: norms are rounded, and rows are fitted to few codes."""
        if fed.source is None:
            return 0.0
        if fed.source in self.changed:
            dtype = self.pair.quantized.index.specs[fed.source].dtype
            return sample.blur(self.changed[fed.source].error(fed.offset, dtype).reshape(1, -1))
        return sample.blur(mapped(self.row_errors[fed.source], channels))

    def _check_columns(self, sample: Sample, fed: Fed) -> None:
        """A fault where what explains the linear as a whole does not explain some of its columns."""
        tolerated = tolerated_factor(fitted=fed.source in self.linears, offset=fed.offset)
        wrong = wrong_columns(sample, fed.columns, tolerated, carries_rows=fed.carries_rows)
        if not wrong.any():
            return
        which = count_and_first(np.flatnonzero(wrong), wrong.size, "channels")
        name, reason = fed.linear.name, f"has columns that carry a factor, and nothing that feeds them does: {which}"
        self.excused.add(name)
        if fed.source is not None:
            reason = f"has columns that do not carry the factor of {fed.source}: {which}"
        if fed.source is not None and fed.source in self.linears:
            reason += "; one of the two has a wrong scale or wrong codes there"
            with np.errstate(all="ignore"):
                octaves = octaves_from_median(1 / fed.columns.inv_EI[0])
            if (octaves[wrong] > np.log2(TOLERATED_IN_FITS)).all():  # no other row has such a factor: it is the source
                self.excused.add(fed.source)
                name = scale_name(fed.source, self.pair.form)
                reason = f"gives rows a factor that the columns of {fed.linear.name} do not carry: {which}"
        self.faults.append(Fault(name, reason))

    def _row_factor(self, linear: Linear) -> tuple[F32, Mask]:
        if linear.name not in self.rows:
            factor, dead, error = row_factor(self.pair, linear, self.fed[linear.name].columns)
            self.rows[linear.name], self.row_errors[linear.name] = (factor, dead), error
        return self.rows[linear.name]


def _without_lost(sample: Sample, fed: Fed, left: float) -> tuple[float, Fed]:
    """The same where columns that lost their codes are left out, if there are such."""
    lost = sample.lost(fed.columns)
    if lost is None:
        return left, fed
    columns = fed.columns.without(lost)
    plain, best = sample.residuals(columns)
    return best, replace(fed, columns=columns, carries_rows=_carries_rows(plain, best))


def _num_shared(left: str, right: str) -> int:
    """Path segments that two names begin with."""
    pairs = zip(left.split("."), right.split("."), strict=False)
    return next((index for index, (ours, theirs) in enumerate(pairs) if ours != theirs), 0)


def _carries_rows(plain: float, best: float) -> bool:
    """Whether a factor of the rows is needed to explain the codes, and does."""
    return best <= LARGEST_RESIDUAL and best * 1.25 + 0.05 < plain


def _limit(floor: float | None, blur: float = 0.0) -> float:
    """What a candidate may leave whose factor is only known as well as ``blur`` says."""
    return LARGEST_RESIDUAL if floor is None else min(LARGEST_RESIDUAL, hypot(_OVER_BEST * floor + _SLACK, 2 * blur))
