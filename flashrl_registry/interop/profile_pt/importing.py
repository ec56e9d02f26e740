"""An int8 ``profile.pt`` to a Profile and its sidecar.

FlashRL writes no relations: which norm feeds which linears is found by comparing the vectors. A linear's
``input_scale`` is the reciprocal of the ``input_scale`` of the norm before it, bit for bit. A linear that another
linear feeds is found from the scales: with the right one of them, the stored numbers come from bfloat16 scales, and
with any other they do not. Only for checkpoints whose scales are float32, where every linear would fit, names say
which one to take; FlashRL's profiler itself went by those names. Otherwise names appear in messages alone.

A vector of ones changes nothing and is no smoothing; it is kept (see ``writing``) so that it comes back at export.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from flashrl_registry.compiler.modules import module_of
from flashrl_registry.documents import (
    Inventory,
    Profile,
    QuantizedCheckpoint,
    SmoothingGroup,
    TensorFamily,
    base_model_info,
)
from flashrl_registry.documents.names import expand, factor, natural_key
from flashrl_registry.documents.quantization import INT8_ACTIVATIONS, INT8_WEIGHTS
from flashrl_registry.documents.tensors import DType
from flashrl_registry.errors import Finding, SchemaError
from flashrl_registry.interop.profile_pt.entries import Entry
from flashrl_registry.interop.profile_pt.reciprocals import factored_scale, invert
from flashrl_registry.interop.profile_pt.writing import INPUT_KEY, OUTPUT_KEY, Factor, derived_entries
from flashrl_registry.profiling.output import write_sidecar
from flashrl_registry.profiling.relations import find_relations

Role = Literal["quantized", "rescaled", "unchanged"]

_PROBED = 16
"""Channels in which a linear is first compared with what it might feed."""


@dataclass(frozen=True)
class ImportedProfile:
    """A Profile made of a FlashRL profile.

    Attributes:
        profile: Sealed; its facts about rounding are unknown, so ``linears`` is empty.
        sidecar: Path of its vectors.
    """

    profile: Profile
    sidecar: Path


def import_int8(
    entries: Mapping[str, Entry], inventory: Inventory, folder: Path, *, quantized_name: str, source: str
) -> ImportedProfile:
    """Make a Profile and write its sidecar.

    Args:
        entries: As :func:`read_profile_pt` returned them.
        inventory: The bf16 checkpoint.
        folder: Where the sidecar goes.
        quantized_name: Name of the quantized checkpoint, for people.
        source: Name of the file, for messages.

    Raises:
        SchemaError: Every entry that no relation explains.
    """
    relations = _Relations(entries, source)
    relations.find()
    vectors = relations.vectors()
    sidecar = write_sidecar(vectors, folder)
    linears = {name for name, entry in entries.items() if entry.quantized}
    groups = [
        SmoothingGroup(
            source=found.source,
            kind="linear" if found.source in linears else "norm",
            targets=sorted(found.targets, key=natural_key),
            smallest=float(vectors[f"inv_smoothing/{found.source}"].min()),
            largest=float(vectors[f"inv_smoothing/{found.source}"].max()),
        )
        for found in sorted(relations.factors, key=lambda found: natural_key(found.source))
    ]
    roles: dict[str, Role] = dict.fromkeys((group.source for group in groups if group.kind == "norm"), "rescaled")
    roles |= dict.fromkeys(linears, "quantized")
    profile = Profile(
        scheme="int8",
        reference=base_model_info(inventory),
        quantized=QuantizedCheckpoint(
            name=quantized_name, format="int-quantized", weights=INT8_WEIGHTS, input_activations=INT8_ACTIVATIONS
        ),
        sidecar=sidecar,
        tensors=_families(inventory, roles),
        smoothing=groups,
        linears=[],
    )
    sealed = profile.model_copy(update={"digest": profile.compute_digest()})
    return ImportedProfile(sealed, folder / sidecar.file_name)


@dataclass
class _Relations:
    """Finds what feeds what among the entries of one profile."""

    entries: Mapping[str, Entry]
    source: str
    factors: list[Factor] = field(default_factory=list)
    found: dict[str, Tensor] = field(default_factory=dict)
    """Vectors by their key in the sidecar."""
    faults: list[Finding] = field(default_factory=list)

    def find(self) -> None:
        """Fill ``factors`` and ``found``.

        Raises:
            SchemaError: Everything that cannot be explained.
        """
        left = self._fed_by_norms()
        self._fed_by_linears(left)
        self._scales()
        self._check_biases()
        if self.faults:
            raise SchemaError(self.faults, hint="profile the pair again with: flashrl profile")

    def vectors(self) -> dict[str, Tensor]:
        """What the sidecar holds: the profile's vectors, and exact numbers where they do not lead back."""
        linears = [name for name, entry in self.entries.items() if entry.quantized]
        again = derived_entries(self.factors, linears, self._biases(), self.found)
        vectors = dict(self.found)
        for name, entry in self.entries.items():
            derived = again.get(name) or Entry(name, None, None, entry.quantized)
            for prefix, given, ours in (
                (INPUT_KEY, entry.columns, derived.columns),
                (OUTPUT_KEY, entry.rows, derived.rows),
            ):
                if given is not None and (ours is None or not torch.equal(given, ours)):
                    vectors[prefix + name] = given.clone()
        return vectors

    def _fault(self, name: str, message: str) -> None:
        self.faults.append(Finding(self.source, message, pointer=name, code="flashrl-profile"))

    def _fed_by_norms(self) -> dict[bytes, list[str]]:
        """Relations between norms and linears; linears with another vector, by it."""
        norms: dict[bytes, list[str]] = defaultdict(list)
        fed: dict[bytes, list[str]] = defaultdict(list)
        for name, entry in self.entries.items():
            if entry.columns is None or bool((entry.columns == 1).all()) or name.endswith(".bias"):
                continue
            if entry.quantized:
                fed[_bits(entry.columns)].append(name)
            else:
                norms[_bits(1.0 / entry.columns)].append(name)
        for vector, sources in norms.items():
            targets = fed.pop(vector, [])
            if not targets:
                for name in sources:
                    self._fault(name, "is multiplied by factors that no int8 linear divides out")
            elif len(sources) > 1:
                for name in targets:
                    self._fault(name, f"could be fed by each of {', '.join(sources)}: their factors are equal")
            else:
                self._add(sources[0], targets, self._columns(sources[0]))
        return fed

    def _fed_by_linears(self, left: Mapping[bytes, list[str]]) -> None:
        """Relations between linears, and their scales."""
        for targets in left.values():
            columns = self._columns(targets[0])
            sources = self._sources(columns, targets)
            if len(sources) != 1:
                which = f"could be fed by each of {', '.join(sources)}" if sources else "is fed by nothing known here"
                for name in targets:
                    self._fault(name, f"{which}: its input_scale is no norm's reciprocal, and no one linear's factor")
                continue
            rows = self.entries[sources[0]].rows
            assert rows is not None
            scale, vector, _ = factored_scale(rows, columns)
            self.found[f"weight_scale/{sources[0]}"] = scale
            self._add(sources[0], targets, vector)

    def _sources(self, columns: Tensor, targets: Sequence[str]) -> list[str]:
        fitting = [
            name
            for name, entry in self.entries.items()
            if entry.quantized and entry.rows is not None and entry.rows.shape == columns.shape and name not in targets
        ]
        if not fitting:
            return []
        # Few channels of all of them first: a model has hundreds of linears of one size.
        rows = torch.stack([self._rows(name)[:_PROBED] for name in fitting])
        probed = factored_scale(rows, columns[:_PROBED].expand_as(rows))[2].all(dim=1)
        exact = [
            name
            for name, good in zip(fitting, probed.tolist(), strict=True)
            if good and bool(factored_scale(self._rows(name), columns)[2].all())
        ]
        if exact:
            return exact
        hinted = {
            relation.source
            for relation in find_relations(self.entries)
            if relation.kind == "linear" and set(targets) <= set(relation.targets)
        }
        return [name for name in fitting if name in hinted]

    def _scales(self) -> None:
        for name, entry in self.entries.items():
            if not entry.quantized or f"weight_scale/{name}" in self.found:
                continue
            if entry.rows is None:
                self._fault(name, "has no output_scale, so its codes have no scale")
            else:
                self.found[f"weight_scale/{name}"] = invert(entry.rows)[0]

    def _check_biases(self) -> None:
        for name, source in self._biases().items():
            entry, wanted = self.entries[name], self.found.get(f"inv_smoothing/{source}")
            if wanted is None or entry.columns is None or not torch.equal(entry.columns, wanted):
                self._fault(name, f"is not multiplied as {source} is")

    def _biases(self) -> dict[str, str]:
        return {name: f"{module_of(name)}.weight" for name in self.entries if name.endswith(".bias")}

    def _add(self, source: str, targets: Sequence[str], vector: Tensor) -> None:
        self.found[f"inv_smoothing/{source}"] = vector.clone()
        self.factors.append(Factor(source, tuple(targets)))

    def _columns(self, name: str) -> Tensor:
        columns = self.entries[name].columns
        assert columns is not None
        return columns

    def _rows(self, name: str) -> Tensor:
        rows = self.entries[name].rows
        assert rows is not None
        return rows


def _bits(vector: Tensor) -> bytes:
    data: bytes = vector.contiguous().numpy().tobytes()
    return data


def _families(inventory: Inventory, roles: Mapping[str, Role]) -> list[TensorFamily]:
    alike: dict[tuple[tuple[int, ...], DType, Role], list[str]] = defaultdict(list)
    for spec in inventory.tensors:
        alike[tuple(spec.shape), spec.dtype, roles.get(spec.name, "unchanged")].append(spec.name)
    families = [
        TensorFamily(names=names, shape=list(shape), dtype=dtype, role=role)
        for (shape, dtype, role), members in alike.items()
        for names in factor(members)
    ]
    return sorted(families, key=lambda family: natural_key(expand(family.names)[0]))
