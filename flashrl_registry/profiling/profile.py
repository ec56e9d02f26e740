"""A checkpoint pair to a Profile, streamed.

Four steps, each of which reports all its faults at once: the headers must correspond; what was not quantized must
be unchanged, norms that feed quantized linears excepted; the factors between them are measured; every relation is
verified by requantizing rows of each linear with them. Memory holds a few chunks of tensors and the vectors.

Shape legend: O output channels, I input columns, R sampled rows.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from flashrl_registry.checkpoints import CheckpointIndex, read_checkpoint
from flashrl_registry.documents import (
    LinearFacts,
    Profile,
    QuantizedCheckpoint,
    Sidecar,
    SmoothingGroup,
    TensorFamily,
    base_model_info,
    write_document,
)
from flashrl_registry.documents.names import expand, factor, natural_key
from flashrl_registry.documents.tensors import DType
from flashrl_registry.errors import ProfilingError
from flashrl_registry.profiling.correspondence import corresponding_linears
from flashrl_registry.profiling.facts import (
    Factors,
    factor_fault,
    is_cast,
    linear_facts,
    norm_factor,
    row_factor,
    sample_rows,
    scale_fault,
)
from flashrl_registry.profiling.faults import Fault, refuse
from flashrl_registry.profiling.output import document_path, write_sidecar
from flashrl_registry.profiling.reader import TensorReader, chunks
from flashrl_registry.profiling.relations import Relation, find_relations
from flashrl_registry.profiling.scheme import check_reference, quantized_checkpoint

Progress = Callable[[int, int, str], None]
"""Called after each tensor of the reference with the number done, the number of all, and its name."""

Role = Literal["quantized", "rescaled", "unchanged"]

ROWS_CHECKED = 64
"""Rows of each linear that are requantized to verify its relations."""
LARGEST_RESIDUAL = 0.75
"""Residual in codes, root mean square, above which a relation is wrong. Rounding to nearest leaves 0.29 to 0.31 and
GPTQ up to 0.41; the factor of another norm, or none, left 5 to 166 (all measured on a 135M model)."""
_COMPARED_BYTES = 4 << 20


def profile_pair(
    reference: Path,
    quantized: Path,
    output: Path,
    *,
    scheme: str = "int8",
    progress: Progress | None = None,
) -> tuple[Path, Profile]:
    """Measure a checkpoint pair and write its profile and the sidecar with its vectors.

    The factor between an up_proj and its down_proj is always measured and stored, also where nothing was folded and
    it is near 1: FlashRL does the same, and profiles of one pair must agree. A norm whose bytes are equal in both
    checkpoints gets no factor.

    Args:
        reference: Local folder of the bf16 checkpoint.
        quantized: Local folder of the same model's W8A8 checkpoint in compressed-tensors' ``int-quantized`` format.
        output: See :func:`flashrl_registry.profiling.document_path`.
        scheme: Only ``int8``.
        progress: Called after each tensor.

    Returns:
        Path of the document and the sealed profile. The sidecar lies beside the document. The same pair gives the
        same bytes. Nothing is written where an error is raised.

    Raises:
        CheckpointError: A checkpoint is missing, incomplete or cut short.
        CheckpointMismatchError: The two are not one model, or a relation between their tensors is not known or does
            not hold; lists every tensor.
        ProfilingError: The scheme, or the way the checkpoint is quantized, is not supported.
    """
    if scheme != "int8":
        raise ProfilingError(f"no profile is made for scheme {scheme!r}", hint="the scheme of a profile is int8")
    document = document_path(output)
    reference_index, quantized_index = read_checkpoint(reference), read_checkpoint(quantized)
    check_reference(reference_index)
    low_bit = quantized_checkpoint(quantized_index)
    linears = corresponding_linears(reference_index, quantized_index)
    with ExitStack() as stack:
        readers = [stack.enter_context(TensorReader(index)) for index in (reference_index, quantized_index)]
        measured = _Measurement(readers[0], readers[1], linears, progress).run()
    sidecar = write_sidecar(measured.vectors, document.parent)
    profile = _profile(reference_index, low_bit, sidecar, measured)
    write_document(profile, document)
    return document, profile


@dataclass
class _Measured:
    """What was found in a pair."""

    vectors: dict[str, Tensor] = field(default_factory=dict)
    roles: dict[str, Role] = field(default_factory=dict)
    groups: list[SmoothingGroup] = field(default_factory=list)
    facts: list[LinearFacts] = field(default_factory=list)
    dead: dict[str, Tensor] = field(default_factory=dict)
    """Source to its channels that are zero in both checkpoints, where there are any."""

    def add_group(self, relation: Relation, factor_O: Tensor, dead_O: Tensor) -> None:
        self.vectors[f"inv_smoothing/{relation.source}"] = factor_O
        if dead_O.any():
            self.dead[relation.source] = dead_O
        self.groups.append(
            SmoothingGroup(
                source=relation.source,
                kind=relation.kind,
                targets=list(relation.targets),
                smallest=float(factor_O.min()),
                largest=float(factor_O.max()),
                num_zero_channels=int(dead_O.sum()),
            )
        )


class _Measurement:
    """One pass over a pair whose headers correspond."""

    def __init__(
        self, reference: TensorReader, quantized: TensorReader, linears: list[str], progress: Progress | None
    ) -> None:
        self._reference, self._quantized = reference, quantized
        self._linears = linears
        self._progress = progress
        self._num_done = 0
        self._measured = _Measured()
        relations = find_relations(reference.index.specs)
        is_linear = set(linears)
        self._norms = {r.source: r for r in relations if r.kind == "norm" and not is_linear.isdisjoint(r.targets)}
        # Rows can only be folded where both ends are quantized: an unquantized end is checked to be unchanged.
        self._rows = {
            r.source: r for r in relations if r.kind == "linear" and is_linear.issuperset([r.source, *r.targets])
        }
        self._source_of = {target: r.source for r in relations for target in r.targets}

    def run(self) -> _Measured:
        pair = f"{self._quantized.index.inventory.name} does not correspond to {self._reference.index.inventory.name}"
        hint = "the pair must be one model; nothing but norms before quantized linears may differ"
        refuse([*self._compare_unquantized(), *self._read_scales()], pair, hint=hint)
        # Sources of rows come first: their factor is needed for what they feed.
        order = sorted(self._linears, key=lambda name: self._source_of.get(name) in self._rows)
        faults = [fault for name in order for fault in self._measure_linear(name)]
        hint = "the checkpoints are not one model, or the model wires these tensors in another way"
        refuse(faults, pair, hint=hint)
        return self._measured

    def _done(self, name: str) -> None:
        self._num_done += 1
        if self._progress is not None:
            self._progress(self._num_done, len(self._reference.index.specs), name)

    def _compare_unquantized(self) -> Iterator[Fault]:
        """Norm factors; everything else that is not int8 must be unchanged."""
        is_linear = set(self._linears)
        for spec in self._reference.index.inventory.tensors:
            name = spec.name
            if name in is_linear:
                continue
            self._measured.roles[name] = "unchanged"
            if not self._is_unchanged(name):
                relation = self._norms.get(name)
                if relation is not None:
                    yield from self._measure_norm(relation)
                else:
                    yield Fault(name, "differs between the checkpoints, and feeds no quantized linear that is known")
            self._done(name)

    def _is_unchanged(self, name: str) -> bool:
        if self._reference.index.specs[name].dtype != self._quantized.index.specs[name].dtype:
            return self._is_only_cast(name)
        size = self._reference.index.locations[name].num_bytes
        return all(
            self._reference.read_bytes(name, start, length) == self._quantized.read_bytes(name, start, length)
            for start in range(0, size, _COMPARED_BYTES)
            for length in [min(_COMPARED_BYTES, size - start)]
        )

    def _is_only_cast(self, name: str) -> bool:
        shape = self._reference.index.specs[name].shape
        if len(shape) != 2:  # vectors are small enough to be read whole
            return is_cast(self._reference.tensor(name), self._quantized.tensor(name))
        return all(
            is_cast(self._reference.rows(name, start, stop), self._quantized.rows(name, start, stop))
            for start, stop in chunks(*shape)
        )

    def _measure_norm(self, relation: Relation) -> Iterator[Fault]:
        name = relation.source
        self._measured.roles[name] = "rescaled"
        factor_O, dead_O = norm_factor(self._reference.tensor(name), self._quantized.tensor(name))
        columns = self._reference.index.specs[relation.targets[0]].shape[1]
        unquantized = [target for target in relation.targets if target not in self._linears]
        if reason := factor_fault(factor_O):
            yield Fault(name, reason)
        elif factor_O.shape != (columns,):
            yield Fault(name, f"has {factor_O.numel()} channels, and feeds linears with {columns} columns")
        elif unquantized:
            yield Fault(name, f"differs between the checkpoints, but feeds unquantized {', '.join(unquantized)}")
        else:
            self._measured.add_group(relation, factor_O, dead_O)

    def _read_scales(self) -> Iterator[Fault]:
        for name in self._linears:
            scale_O = self._quantized.tensor(f"{name}_scale").flatten().float()
            self._measured.vectors[f"weight_scale/{name}"] = scale_O
            if reason := scale_fault(scale_O):
                yield Fault(f"{name}_scale", reason)

    def _measure_linear(self, name: str) -> Iterator[Fault]:
        """Row factor, where the linear feeds another one; then how well its factors explain its codes."""
        vectors = self._measured.vectors
        self._measured.roles[name] = "quantized"
        scale_O, source = vectors[f"weight_scale/{name}"], self._source_of.get(name, "")
        if source in self._rows and f"inv_smoothing/{source}" not in vectors:
            return  # the source has no usable factor and is refused itself
        factors = Factors(scale_O, None, vectors.get(f"inv_smoothing/{source}"), self._measured.dead.get(source))
        if relation := self._rows.get(name):
            rows_O, dead_O = self._row_factor(name, factors)
            if reason := factor_fault(rows_O):
                yield Fault(name, reason)
                return
            self._measured.add_group(relation, rows_O, dead_O)
            factors = replace(factors, rows_O=rows_O)
        rows = sample_rows(len(scale_O), ROWS_CHECKED)
        weight_RI = torch.cat([self._reference.rows(name, row, row + 1) for row in rows])
        codes_RI = torch.cat([self._quantized.rows(name, row, row + 1) for row in rows])
        facts = linear_facts(name, weight_RI, codes_RI, rows, factors)
        if facts is None:
            yield Fault(name, "holds weights that are not finite")
        elif facts.residual_rms > LARGEST_RESIDUAL:
            fed_by = "nothing" if factors.columns_I is None else source.removesuffix(".weight").rpartition(".")[2]
            yield Fault(name, f"is not explained by what feeds it ({fed_by}): its codes are off by more than rounding")
        else:
            self._measured.facts.append(facts)
        self._done(name)

    def _row_factor(self, name: str, factors: Factors) -> tuple[Tensor, Tensor]:
        parts = [
            row_factor(
                self._reference.rows(name, start, stop),
                self._quantized.rows(name, start, stop),
                factors.scale_O[start:stop],
                factors.columns_I,
                factors.dead_I,
            )
            for start, stop in chunks(*self._reference.index.specs[name].shape)
        ]
        return torch.cat([factor_O for factor_O, _ in parts]), torch.cat([dead_O for _, dead_O in parts])


def _profile(
    reference: CheckpointIndex, quantized: QuantizedCheckpoint, sidecar: Sidecar, measured: _Measured
) -> Profile:
    profile = Profile(
        scheme="int8",
        reference=base_model_info(reference.inventory),
        quantized=quantized,
        sidecar=sidecar,
        tensors=_families(reference, measured.roles),
        smoothing=sorted(measured.groups, key=lambda group: natural_key(group.source)),
        linears=sorted(measured.facts, key=lambda facts: natural_key(facts.name)),
    )
    return profile.model_copy(update={"digest": profile.compute_digest()})


def _families(reference: CheckpointIndex, roles: dict[str, Role]) -> list[TensorFamily]:
    alike: dict[tuple[tuple[int, ...], DType, Role], list[str]] = defaultdict(list)
    for spec in reference.inventory.tensors:
        alike[tuple(spec.shape), spec.dtype, roles[spec.name]].append(spec.name)
    families = [
        TensorFamily(names=names, shape=list(shape), dtype=dtype, role=role)
        for (shape, dtype, role), members in alike.items()
        for names in factor(members)
    ]
    return sorted(families, key=lambda family: natural_key(expand(family.names)[0]))
