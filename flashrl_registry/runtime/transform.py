"""A stream of bf16 tensors to a stream in the engine's checkpoint format, by a resolved plan.

Shape legend: O output channels, I input columns.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from flashrl_registry.documents import QuantizeFp8, QuantizeInt8, Rescale, ResolvedPlan, ResolvedTensor
from flashrl_registry.documents.resolved import TensorOp
from flashrl_registry.errors import IntegrityError, MissingDependencyError

if TYPE_CHECKING:
    import torch

_FLOATS = ("torch.bfloat16", "torch.float16", "torch.float32")


@dataclass(frozen=True)
class Vectors:
    """The profile's vectors, float32, on one device.

    Attributes:
        by_key: ``inv_smoothing/<source>`` and ``weight_scale/<linear>`` to a 1-D tensor.
    """

    by_key: "dict[str, torch.Tensor]"
    _reciprocals: "dict[str, torch.Tensor]" = field(default_factory=dict, compare=False)

    def inv_smoothing(self, source: str | None) -> "torch.Tensor | None":
        """The factor of a source tensor, or None for no source."""
        return None if source is None else self.by_key[f"inv_smoothing/{source}"]

    def columns(self, source: str | None) -> "torch.Tensor | None":
        """What the columns behind a source are multiplied by, ``1 / inv_smoothing``; made once."""
        if source is None:
            return None
        if source not in self._reciprocals:
            self._reciprocals[source] = self.by_key[f"inv_smoothing/{source}"].reciprocal()
        return self._reciprocals[source]


def load_vectors(sidecar: Path | None, resolved: ResolvedPlan) -> Vectors:
    """Read the vectors that a resolved plan refers to.

    The file's bytes are read once, and the vectors are made of the bytes that were hashed. None of them stays in the
    file: an engine that lives for days must not multiply by what somebody writes there later.

    Args:
        sidecar: The file; None where the plan has none.
        resolved: The plan, with the digest of the file.

    Raises:
        MissingDependencyError: safetensors is not installed.
        IntegrityError: The bytes are not those that the plan refers to.
        KeyError: The sidecar lacks a vector; its digest would have told.
    """
    if sidecar is None:
        return Vectors({})
    try:
        from safetensors.torch import load
    except ImportError as exc:
        hint = "pip install 'flashrl-registry[torch]'"
        raise MissingDependencyError("safetensors is not installed", hint=hint) from exc
    needed: set[str] = set()
    wanted: set[str] = set()  # what telemetry compares with, where the profile has it
    for tensor in resolved.tensors:
        op = tensor.op
        if isinstance(op, Rescale):
            needed.add(f"inv_smoothing/{op.rows}")
        elif isinstance(op, QuantizeInt8):
            needed |= {f"inv_smoothing/{source}" for source in (op.rows, op.columns) if source is not None}
            (needed if op.scales == "frozen" else wanted).add(f"weight_scale/{tensor.name}")
    vectors = load(_checked_bytes(sidecar, resolved))
    return Vectors({key: vectors[key].clone() for key in sorted(needed | (wanted & vectors.keys()))})


def _checked_bytes(sidecar: Path, resolved: ResolvedPlan) -> bytes:
    data = sidecar.read_bytes()
    actual = "sha256:" + hashlib.sha256(data).hexdigest()
    expected = None if resolved.sidecar is None else resolved.sidecar.digest
    if actual != expected:
        raise IntegrityError(
            f"{sidecar} is not the file of vectors that the plan refers to: expected {expected}, actual {actual}",
            hint="it was changed while the engine started; profile again, or pull the plan again",
            context={"expected": expected, "actual": actual},
        )
    return data


def fault(tensor: ResolvedTensor, value: "torch.Tensor") -> str | None:
    """Why a sent tensor cannot be this tensor of the plan, or None."""
    if list(value.shape) != tensor.shape:
        return f"shape {list(value.shape)}, the plan says {tensor.shape}"
    if str(value.dtype) not in _FLOATS and str(value.dtype) != f"torch.{tensor.dtype}":
        return f"dtype {value.dtype}; a trainer sends bfloat16, float16 or float32"
    return None


def transform(tensor: ResolvedTensor, value: "torch.Tensor", vectors: Vectors) -> "Iterator[tuple[str, torch.Tensor]]":
    """Turn one sent tensor into what the engine's layer loads.

    Args:
        tensor: Its entry in the resolved plan.
        value: bfloat16, float16 or float32, shape as in the plan. Not modified.
        vectors: The profile's vectors on the value's device.

    Yields:
        The tensor, itself where it passes through, and, where it became codes, ``<name>_scale``: float32, (O, 1) per
        row, (O / 128, I / 128) per block, (1,) per tensor.
    """
    from flashrl_registry import ops

    op: TensorOp = tensor.op
    if isinstance(op, QuantizeInt8):
        frozen = vectors.by_key[f"weight_scale/{tensor.name}"] if op.scales == "frozen" else None
        codes_OI, scale_O1 = ops.quantize_int8(
            value,
            frozen,
            inv_rows_O=vectors.inv_smoothing(op.rows),
            columns_I=vectors.columns(op.columns),
        )
        yield tensor.name, codes_OI
        yield tensor.name + "_scale", scale_O1
    elif isinstance(op, QuantizeFp8):
        codes_OI, scale = ops.quantize_fp8(op.strategy, value)
        yield tensor.name, codes_OI
        yield tensor.name + "_scale", scale
    elif isinstance(op, Rescale):
        import torch

        factor = vectors.inv_smoothing(op.rows)
        assert factor is not None
        yield tensor.name, ops.rescale_rows(value, factor, getattr(torch, tensor.dtype))
    else:
        yield tensor.name, value
