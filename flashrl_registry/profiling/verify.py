"""Replay a profile on its pair: does it still say what the checkpoints hold?

Nothing is searched for here. The vectors are taken as the profile has them, every row of every linear is requantized
with them, and what comes out is compared with the checkpoint's codes and with what the profile said.
"""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flashrl_registry.documents import LinearFacts, Profile, SmoothingGroup, base_model_info, read_document
from flashrl_registry.documents.names import expand, natural_key
from flashrl_registry.errors import ProfilingError
from flashrl_registry.profiling.changes import ChangedVector, changed_vector, compare_unquantized, is_cast
from flashrl_registry.profiling.channels import mapped
from flashrl_registry.profiling.facts import LARGEST_RESIDUAL, linear_facts
from flashrl_registry.profiling.faults import Fault, refuse
from flashrl_registry.profiling.layout import F32, Mask
from flashrl_registry.profiling.linear import Columns, Pair, read_linear
from flashrl_registry.profiling.output import PICKLES, StoredVector, document_path
from flashrl_registry.profiling.pair import CheckedPair, check_pair, open_pair
from flashrl_registry.profiling.plausible import count_and_first, tolerated_factor, wrong_columns
from flashrl_registry.profiling.sample import Sample
from flashrl_registry.profiling.work import stored_vectors

TOLERANCE = 0.03
"""How far the share of equal codes may be from what a profile says of the same rows."""
_LAST_BITS = 2.0**-21
"""Of a float32: how far a norm may be from its reference times the factor, as a share."""


@dataclass(frozen=True)
class Verified:
    """What a replay found.

    Attributes:
        profile: The profile.
        linears: What every row of each linear says now, in natural order.
        num_vectors: Vectors of the sidecar that were compared or used.
        num_norms: Norms that were multiplied and compared with the quantized checkpoint's.
    """

    profile: Profile
    linears: list[LinearFacts]
    num_vectors: int
    num_norms: int

    @property
    def smallest(self) -> LinearFacts | None:
        """The linear with the smallest share of equal codes."""
        return min(self.linears, key=lambda facts: facts.codes_equal, default=None)

    @property
    def codes_equal(self) -> float:
        """Mean share of equal codes."""
        return sum(facts.codes_equal for facts in self.linears) / max(1, len(self.linears))


def verify_profile(
    document: Path, reference: str | Path, quantized: str | Path, *, tolerance: float = TOLERANCE, threads: int = 1
) -> Verified:
    """Replay a profile.

    Args:
        document: The profile, or the folder that holds ``profile.yaml``; its sidecar lies beside it.
        reference: The bf16 checkpoint.
        quantized: The low-bit checkpoint.
        tolerance: See :data:`TOLERANCE`.
        threads: Linears that are worked on at a time.

    Raises:
        CheckpointMismatchError: The profile does not describe this pair; lists every tensor.
        ProfilingError: The sidecar is missing or damaged, or the pair cannot be profiled.
        DocumentError: The document is no profile.
    """
    document = document_path(document) if document.is_dir() or document.suffix in PICKLES else document
    profile = read_document(document, Profile)
    vectors = _open_sidecar(document, profile)
    checked = check_pair(reference, quantized, profile.scheme)
    replay = _Replay(profile, vectors, checked, tolerance)
    with open_pair(checked, every_row=True) as pair:
        faults = [*replay.headers(), *replay.unquantized(pair)]
        with ThreadPoolExecutor(max(1, threads)) as pool:
            measured = list(pool.map(lambda name: replay.linear(pair, name), checked.linears))
    faults += [fault for _, found in measured for fault in found]
    refuse(
        sorted(faults, key=lambda fault: natural_key(fault.name)),
        f"{document} does not describe {checked.quantized.index.inventory.name}",
        hint="profile the pair again with: flashrl profile",
    )
    linears = [facts for facts, _ in measured if facts is not None]
    return Verified(profile, linears, len(vectors), sum(group.kind == "norm" for group in profile.smoothing))


class _Replay:
    """One profile against one pair."""

    def __init__(
        self, profile: Profile, vectors: dict[str, StoredVector], checked: CheckedPair, tolerance: float
    ) -> None:
        self._profile, self._vectors, self._checked, self._tolerance = profile, vectors, checked, tolerance
        self._recorded = {facts.name: facts for facts in profile.linears}
        self._columns = {target: group for group in profile.smoothing for target in group.targets}
        self._rows = {group.source for group in profile.smoothing if group.kind == "linear"}
        self._roles = {name: family.role for family in profile.tensors for name in expand(family.names)}

    def headers(self) -> Iterator[Fault]:
        """The same model, and the same linears."""
        ours = base_model_info(self._checked.reference.index.inventory)
        if ours.fingerprint != self._profile.reference.fingerprint:
            yield Fault(ours.name, f"is another model than {self._profile.reference.name}, which was profiled")
        for name in self._checked.linears:
            if self._roles.get(name) != "quantized":
                yield Fault(name, "is codes, and the profile does not say so")
        quantized = set(self._checked.linears)
        for name, role in self._roles.items():
            if role == "quantized" and name not in quantized:
                yield Fault(name, "is no codes, and the profile says so")

    def unquantized(self, pair: Pair) -> Iterator[Fault]:
        """Norms, biases and everything else that is a float."""
        names = [name for name in self._roles if name not in set(self._checked.linears)]
        known = [name for name in names if name in pair.reference.index.specs]
        changed, faults = compare_unquantized(pair, known, lambda _: None)
        yield from faults
        refused = {fault.name for fault in faults}
        for name in known:
            is_vector = len(pair.reference.index.specs[name].shape) == 1
            if self._roles[name] != "rescaled":
                if name in changed:
                    yield Fault(name, "differs between the checkpoints, and the profile says that it does not")
            elif is_vector and name not in refused:
                vector = changed[name] if name in changed else changed_vector(pair, name)
                if reason := self._replayed(pair, name, vector):
                    yield Fault(name, reason)

    def _replayed(self, pair: Pair, name: str, vector: ChangedVector) -> str | None:
        group = next((group for group in self._profile.smoothing if group.source == name), None)
        if group is None:
            return self._replayed_bias(name, vector)
        factor, offset = self._vector(f"inv_smoothing/{name}"), np.float32(group.offset or 0)
        again = (offset + vector.reference) * factor - offset if group.offset else vector.reference * factor
        if is_cast(again, vector.quantized, pair.quantized.index.specs[name].dtype):
            return None
        # A quotient in float32, multiplied again, may be some last bits off; where `w` is near minus one, those of one.
        wanted = vector.quantized + offset
        same = bool((np.abs(again + offset - wanted) <= _LAST_BITS * (np.abs(wanted) + offset)).all())
        return None if same else "is not the reference's norm times the profile's factor"

    def _replayed_bias(self, name: str, vector: ChangedVector) -> str | None:
        source = name.removesuffix(".bias") + ".weight"
        group = next((group for group in self._profile.smoothing if group.source == source), None)
        if group is not None:
            factor = self._vector(f"inv_smoothing/{source}")
            if vector.follows(factor, _dead(group, factor)):
                return None
        return "is not the reference's bias times the profile's factor"

    def linear(self, pair: Pair, name: str) -> tuple[LinearFacts | None, list[Fault]]:
        """Scales bit for bit, and every code."""
        linear, faults = read_linear(pair.reference, pair.quantized, name, pair.form)
        for key, grid in ((linear.scale_key, linear.scale_PJ), ("stored_zero_point", linear.zero_PJ)):
            stored = self._vectors.get(f"{key}/{name}")
            if grid.size and (stored is None or not np.array_equal(stored.read().reshape(-1), grid.reshape(-1))):
                faults.append(Fault(name, f"has other scales than the profile's {key}"))
        group = self._columns.get(name)
        columns = Columns.ones(linear.num_columns) if group is None else self._factor(group)
        rows = self._vector(f"inv_smoothing/{name}") if name in self._rows else None
        compared = linear_facts(pair, linear, columns, rows, every_row=True)
        facts = compared.facts
        if facts is None:
            return None, [*faults, Fault(name, "holds weights or codes that are not finite")]
        if facts.residual_rms > LARGEST_RESIDUAL:
            faults.append(Fault(name, "is not explained by the profile's vectors"))
        elif compared.wrong_rows:
            which = count_and_first(compared.wrong_rows, linear.num_rows, "rows")
            faults.append(Fault(name, f"has rows that are not explained by the profile's vectors: {which}"))
        else:
            sample = Sample(pair, linear)
            wrong = _wrong_columns(sample, columns, group, carries_rows=rows is not None)
            if wrong.any():
                which = count_and_first(np.flatnonzero(wrong), wrong.size, "columns")
                faults.append(Fault(name, f"has columns that are not explained by the profile's vectors: {which}"))
            elif name in self._recorded:
                seen = linear_facts(pair, linear, columns, rows, every_row=False, taken=sample.taken).facts
                faults += self._drift(self._recorded[name], facts, compared.spread, seen)
        return facts, faults

    def _drift(
        self, recorded: LinearFacts, every: LinearFacts, spread: float, seen: LinearFacts | None
    ) -> Iterator[Fault]:
        """The rows that the profile saw must be as it says; all rows as near as rows are to each other."""
        looks = [(every, self._tolerance + 2 * spread)]
        same_rows = every if every.rows_checked == recorded.rows_checked else seen
        if same_rows is not None and same_rows.rows_checked == recorded.rows_checked:
            looks.insert(0, (same_rows, self._tolerance))
        for facts, tolerance in looks:
            if abs(facts.codes_equal - recorded.codes_equal) > tolerance:
                said = recorded.codes_equal
                reason = f"has {facts.codes_equal:.1%} of its codes equal, and the profile says {said:.1%}"
                yield Fault(every.name, reason)
                return

    def _factor(self, group: SmoothingGroup) -> Columns:
        factor = self._vector(f"inv_smoothing/{group.source}")
        dead = _dead(group, factor)
        return Columns.of(mapped(factor, group.channels), mapped(dead, group.channels))

    def _vector(self, key: str) -> F32:
        return self._vectors[key].read()


def _dead(group: SmoothingGroup, factor: F32) -> Mask:
    """Where both are zero nothing is known; a factor of exactly one elsewhere loses nothing by it."""
    dead: Mask = factor == 1 if group.num_zero_channels else np.zeros(factor.size, np.bool_)
    return dead


def _wrong_columns(sample: Sample, columns: Columns, group: SmoothingGroup | None, *, carries_rows: bool) -> Mask:
    fitted, offset = (False, None) if group is None else (group.kind == "linear", group.offset)
    tolerated = tolerated_factor(fitted=fitted, offset=offset)
    return wrong_columns(sample, columns, tolerated, carries_rows=carries_rows)


def _open_sidecar(document: Path, profile: Profile) -> dict[str, StoredVector]:
    path = document.parent / profile.sidecar.file_name
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise ProfilingError(f"{path} cannot be read: {exc.strerror}", hint="it lies beside the profile") from exc
    if f"sha256:{digest}" != profile.sidecar.digest:
        raise ProfilingError(f"{path} is damaged: its digest is not the one in its name")
    return stored_vectors(path)
