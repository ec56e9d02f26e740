"""``profile.pt`` to checked entries.

The pickle is read with ``weights_only``, which builds tensors and plain values and runs nothing. Every name is
checked against the model's headers, every scale against the shape it must have, and all faults are reported at once.
"""

import pickle  # noqa: TID251 - only for the name of the error that torch.load(weights_only=True) raises
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashrl_registry.compiler.match import dead_target
from flashrl_registry.documents import Inventory, TensorSpec
from flashrl_registry.errors import Finding, InteropError, SchemaError

_KEYS = ("input_scale", "output_scale", "type")
_SUGGESTIONS = 8
_REFUSED = re.compile(r"GLOBAL (\S+)")


@dataclass(frozen=True)
class Entry:
    """What FlashRL does to one tensor.

    Attributes:
        name: Tensor of the bf16 checkpoint.
        columns: ``input_scale``: multiplies the input columns of a linear, or a norm elementwise; float32, 1-D; None
            for the number 1.
        rows: ``output_scale``: multiplies the rows of a linear; float32, 1-D; None for the number 1.
        quantized: The result is int8, not a float.
    """

    name: str
    columns: Tensor | None
    rows: Tensor | None
    quantized: bool


def read_profile_pt(path: Path, inventory: Inventory) -> tuple[dict[str, Entry] | list[str], list[str]]:
    """Read a FlashRL profile.

    Args:
        path: The file that ``flashrl profile`` of FlashRL wrote.
        inventory: The bf16 checkpoint that it is for.

    Returns:
        An int8 profile's entries by name, or an fp8 profile's names in their order; and notes.

    Raises:
        InteropError: Not readable without running code, or not such a profile.
        SchemaError: Every entry that does not fit the model.
    """
    data = _load(path)
    checker = _Checker(path, inventory)
    if isinstance(data, list):
        found: dict[str, Entry] | list[str] = checker.names(data)
    elif isinstance(data, dict):
        found = {str(name): entry for name, value in data.items() if (entry := checker.entry(name, value))}
    else:
        raise InteropError(f"{path} holds a {type(data).__name__}; an int8 profile is a dict and an fp8 profile a list")
    if not data:
        checker.fault("", "is empty")
    if checker.faults:
        raise SchemaError(checker.faults, hint=f"the profile must be of {inventory.name}, the bf16 model of the pair")
    return found, checker.notes()


def _load(path: Path) -> Any:
    if not path.is_file():
        raise InteropError(f"no FlashRL profile at {path}", hint="give it with --profile")
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as exc:
        raise InteropError(
            f"{path} is no profile that can be read without running code: {_reason(exc)}",
            hint="FlashRL's profiles hold tensors, numbers and names only; do not load others",
        ) from exc


def _reason(exc: Exception) -> str:
    """Why torch refused a file, without its advice to run the code in it."""
    text = str(exc)
    if refused := _REFUSED.search(text):
        return f"it calls for {refused[1]}, which is code"
    lines = [line for line in text.splitlines() if line.strip() and "weights_only" not in line]
    return lines[0].strip().partition(". ")[0] if lines else type(exc).__name__


class _Checker:
    """Collects the faults of one file."""

    def __init__(self, path: Path, inventory: Inventory) -> None:
        self._path = path
        self._inventory = inventory
        self._specs = {spec.name: spec for spec in inventory.tensors}
        self._retyped: dict[str, int] = {}
        self.faults: list[Finding] = []

    def fault(self, name: str, message: str) -> None:
        self.faults.append(Finding(str(self._path), message, pointer=name, code="flashrl-profile"))

    def notes(self) -> list[str]:
        return [
            f"{count} entries have type {wrong}; the checkpoint's headers say otherwise, and they count"
            for wrong, count in self._retyped.items()
        ]

    def names(self, data: list[Any]) -> list[str]:
        seen: set[str] = set()
        for name in data:
            spec = self._spec(name)
            if spec is not None and (len(spec.shape) != 2 or not spec.name.endswith(".weight")):
                self.fault(str(name), f"is no linear weight: its shape is {spec.shape}")
            if name in seen:
                self.fault(str(name), "is listed twice")
            seen.add(str(name))
        return [str(name) for name in data]

    def entry(self, name: Any, value: Any) -> Entry | None:
        spec = self._spec(name)
        if spec is None:
            return None
        if not isinstance(value, dict) or set(value) != set(_KEYS):
            given = list(value) if isinstance(value, dict) else type(value).__name__
            self.fault(spec.name, f"is not a dict of {', '.join(_KEYS)}: {given}")
            return None
        kind = value["type"]
        if not isinstance(kind, torch.dtype) or not (kind == torch.int8 or kind.is_floating_point):
            self.fault(spec.name, f"has type {kind!r}; FlashRL knows int8, and floats for what it only scales")
            return None
        quantized = kind == torch.int8
        if quantized and len(spec.shape) != 2:
            self.fault(spec.name, f"has type torch.int8, and its shape {spec.shape} is no linear's")
            return None
        if not quantized and str(kind) != f"torch.{spec.dtype}":
            self._retyped[str(kind)] = self._retyped.get(str(kind), 0) + 1
        columns = self._scale(spec, "input_scale", value["input_scale"], [1, spec.shape[-1]] if quantized else None)
        rows = self._scale(spec, "output_scale", value["output_scale"], [spec.shape[0], 1])
        if not quantized and rows is not None:
            self.fault(spec.name, "has an output_scale, which FlashRL gives to int8 linears only")
        return Entry(spec.name, columns, rows, quantized)

    def _spec(self, name: Any) -> TensorSpec | None:
        spec = self._specs.get(name) if isinstance(name, str) else None
        if spec is None:
            # A profile of another model has hundreds of wrong names, and each search costs.
            search = isinstance(name, str) and len(self.faults) < _SUGGESTIONS
            near = dead_target("profile", str(name), list(self._specs)).hint if search else None
            self.fault(str(name), f"is no tensor of {self._inventory.name}" + (f"; {near}" if near else ""))
        return spec

    def _scale(self, spec: TensorSpec, key: str, value: Any, shape: list[int] | None) -> Tensor | None:
        """A scale as a vector; None for the number 1 and where there is a fault."""
        if isinstance(value, float | int) and not isinstance(value, bool):
            if value != 1:
                self.fault(spec.name, f"{key} is the number {value!r}; FlashRL writes 1.0 or a tensor")
            return None
        if not isinstance(value, Tensor):
            self.fault(spec.name, f"{key} is a {type(value).__name__}")
            return None
        shape = shape or list(spec.shape)
        vector = value.detach()
        if list(vector.shape) != shape or vector.dtype != torch.float32:
            self.fault(spec.name, f"{key} is {vector.dtype} {list(vector.shape)}, not torch.float32 {shape}")
            return None
        vector = vector.flatten()
        bad = int((~(torch.isfinite(vector) & (vector > 0))).sum())
        if bad:
            self.fault(spec.name, f"{key} is not positive and finite in {bad} of {vector.numel()} channels")
            return None
        return vector.contiguous()
