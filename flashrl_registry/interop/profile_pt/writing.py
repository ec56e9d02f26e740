"""A Profile's vectors to FlashRL's ``profile.pt``.

An entry's scales are the reciprocals of the profile's vectors, taken the way FlashRL 1.0.3 takes them, so that a
profile that FlashRL wrote comes back bit for bit. Where a vector could not be inverted exactly at import, the exact
numbers lie in the sidecar under ``flashrl/input_scale/<tensor>`` or ``flashrl/output_scale/<tensor>`` and go before
what is derived; nothing else reads those keys.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashrl_registry.compiler.smoothing import smoothing_sources
from flashrl_registry.documents import Plan, write_atomically
from flashrl_registry.documents.names import expand
from flashrl_registry.errors import Diagnostic, NotExpressibleError
from flashrl_registry.interop.profile_pt.entries import Entry

INPUT_KEY, OUTPUT_KEY = "flashrl/input_scale/", "flashrl/output_scale/"


@dataclass(frozen=True)
class Factor:
    """Where a smoothing vector goes.

    Attributes:
        source: Tensor whose output channels take it.
        targets: Linears whose input columns divide it out.
    """

    source: str
    targets: tuple[str, ...]


def derived_entries(
    factors: Sequence[Factor], linears: Iterable[str], biases: Mapping[str, str], vectors: Mapping[str, Tensor]
) -> dict[str, Entry]:
    """FlashRL's entries from a profile's vectors, in the order in which FlashRL writes them.

    Args:
        factors: Smoothing.
        linears: Quantized linear weights.
        biases: Biases that are scaled with their weight, by name, and the source whose factor that is.
        vectors: ``inv_smoothing/<source>`` and ``weight_scale/<linear>``, float32, 1-D.

    Source:
        FlashRL 1.0.3, ``profiling_int8``.
    """
    quantized = list(linears)
    is_linear = set(quantized)
    factor_of = {factor.source: vectors[f"inv_smoothing/{factor.source}"] for factor in factors}
    columns = {target: 1.0 / factor_of[factor.source] for factor in factors for target in factor.targets}
    fed_by_linears = {target for factor in factors if factor.source in is_linear for target in factor.targets}
    entries = {
        source: Entry(source, vector, None, quantized=False)
        for source, vector in factor_of.items()
        if source not in is_linear
    }
    for bias, source in biases.items():
        entries[bias] = Entry(bias, factor_of[source], None, quantized=False)
    for name in sorted(quantized, key=fed_by_linears.__contains__):
        scale = vectors[f"weight_scale/{name}"]
        if name in factor_of:
            scale = scale / factor_of[name]
        entries[name] = Entry(name, columns.get(name), 1.0 / scale, quantized=True)
    return entries


def with_exact(entries: Mapping[str, Entry], vectors: Mapping[str, Tensor], allowed: set[str]) -> dict[str, Entry]:
    """Entries with the exact numbers that the sidecar holds for some of them."""
    result = dict(entries)
    for key, vector in vectors.items():
        for prefix in (INPUT_KEY, OUTPUT_KEY):
            name = key.removeprefix(prefix)
            if name == key or name not in allowed:
                continue
            entry = result.get(name) or Entry(name, None, None, quantized=False)
            result[name] = replace(entry, **{"columns" if prefix == INPUT_KEY else "rows": vector})
    return result


def int8_entries(plan: Plan, vectors: Mapping[str, Tensor]) -> dict[str, Entry]:
    """What FlashRL does to each tensor to do what an int8 plan with frozen scales does.

    Args:
        plan: Its treatments are ``keep``, ``rescale`` and ``int8``.
        vectors: Content of the plan's sidecar.

    Raises:
        NotExpressibleError: The profile has no scale for a linear that the plan quantizes; lists all.
    """
    treatment = {name: family.treatment for family in plan.tensors for name in expand(family.names)}
    linears = [name for name, how in treatment.items() if how == "int8"]
    if missing := [name for name in linears if f"weight_scale/{name}" not in vectors]:
        raise NotExpressibleError(
            "a FlashRL profile has fixed scales, and the plan's profile has none for some linears",
            [Diagnostic("no-scale", "error", name, "is quantized by row absmax") for name in missing],
        )
    sources = smoothing_sources(plan)
    targets: dict[str, list[str]] = {}
    for target, source in sources.columns.items():
        targets.setdefault(source, []).append(target)
    factors = [Factor(source, tuple(names)) for source, names in targets.items()]
    biases = {name: sources.rows[name] for name, how in treatment.items() if how == "rescale" and name not in targets}
    kept = {name for name, how in treatment.items() if how == "keep"}
    return with_exact(derived_entries(factors, linears, biases, vectors), vectors, {*linears, *targets, *kept})


def write_int8(path: Path, plan: Plan, sidecar: Path) -> int:
    """Write an int8 ``profile.pt``.

    Args:
        path: The file.
        plan: An int8 plan; see :func:`int8_entries`.
        sidecar: Vectors of its profile.

    Returns:
        Number of entries.
    """
    from safetensors.torch import load_file

    shapes = {name: (family.shape, family.dtype) for family in plan.tensors for name in expand(family.names)}
    entries = int8_entries(plan, load_file(sidecar))
    data = {name: _plain(entry, *shapes[name]) for name, entry in entries.items()}
    _save(path, data)
    return len(data)


def write_names(path: Path, names: Sequence[str]) -> int:
    """Write an fp8 ``profile.pt``: the list of linears that get codes."""
    _save(path, list(names))
    return len(names)


def _plain(entry: Entry, shape: Sequence[int], dtype: str) -> dict[str, Any]:
    """One value of FlashRL's dict, with its shapes."""
    columns_shape = (1, -1) if entry.quantized else tuple(shape)
    return {
        "input_scale": 1.0 if entry.columns is None else entry.columns.view(columns_shape),
        "output_scale": 1.0 if entry.rows is None else entry.rows.view(-1, 1),
        "type": torch.int8 if entry.quantized else getattr(torch, dtype),
    }


def _save(path: Path, data: Any) -> None:
    buffer = io.BytesIO()
    torch.save(data, buffer)
    write_atomically(path, buffer.getvalue())
