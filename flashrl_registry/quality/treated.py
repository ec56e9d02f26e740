"""A plan applied to transformers' model: the tensors that change, and how inputs are quantized."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from flashrl_registry import ops
from flashrl_registry.compiler.engine_config import scheme_of_op
from flashrl_registry.compiler.lowering import operations
from flashrl_registry.compiler.modules import module_of
from flashrl_registry.documents import (
    EngineFp8,
    Plan,
    QuantizeFp8,
    QuantizeInt8,
    Rescale,
    ResolvedTensor,
    SchemeName,
)
from flashrl_registry.errors import ProfilingError
from flashrl_registry.quality.fake import dequantized
from flashrl_registry.quality.loaded import Loaded
from flashrl_registry.quality.places import Place
from flashrl_registry.runtime.transform import Vectors, transform


@dataclass(frozen=True)
class Treated:
    """What a model becomes; the model itself stays as it is.

    Attributes:
        overrides: Parameter to the tensor in its place, for ``torch.func.functional_call``.
        inputs: Linear, or module that holds experts, to the scheme of its inputs.
    """

    overrides: dict[str, Tensor]
    inputs: dict[str, SchemeName]


def treat(loaded: Loaded, plan: Plan, sidecar: Path | None) -> Treated:
    """Apply a plan as an engine's loader does.

    vLLM's own online ``fp8`` is applied as ``fp8_tensor``.

    Raises:
        ProfilingError: The plan changes tensors that the model does not have; all are named.
    """
    vectors = read_vectors(sidecar, loaded.device)
    tensors = [_ours(tensor) for tensor in operations(plan)]
    changed = {tensor.name: tensor for tensor in tensors if tensor.op.kind != "keep"}
    overrides = _write(loaded, changed, lambda tensor, value: _treated(tensor, value, vectors))
    inputs = {
        loaded.places[name].module: scheme
        for name, tensor in changed.items()
        if (scheme := scheme_of_op(tensor.op)) is not None
    }
    return Treated(overrides, inputs)


def smoothed(loaded: Loaded, plan: Plan, sidecar: Path | None) -> dict[str, Tensor]:
    """The plan's smoothing alone, in float32: another model that computes the same function.

    Returns:
        Parameter to the tensor in its place.
    """
    vectors = read_vectors(sidecar, loaded.device)

    def apply(tensor: ResolvedTensor, value: Tensor) -> Tensor:
        if isinstance(tensor.op, Rescale):
            return dict(transform(tensor.model_copy(update={"dtype": "float32"}), value, vectors))[tensor.name]
        assert isinstance(tensor.op, QuantizeInt8)
        rows, columns = vectors.inv_smoothing(tensor.op.rows), vectors.inv_smoothing(tensor.op.columns)
        return ops.smoothed(value, inv_rows_O=rows, inv_columns_I=columns)

    moved = {tensor.name: tensor for tensor in operations(plan) if _is_smoothed(tensor)}
    return _write(loaded, moved, apply)


def read_vectors(sidecar: Path | None, device: torch.device) -> Vectors:
    """All vectors of a profile; its file's digest has been checked before."""
    if sidecar is None:
        return Vectors({})
    from safetensors import safe_open

    with safe_open(sidecar, framework="pt") as file:
        return Vectors({key: file.get_tensor(key).to(device) for key in file.keys()})  # noqa: SIM118 - no mapping


def _is_smoothed(tensor: ResolvedTensor) -> bool:
    op = tensor.op
    return isinstance(op, Rescale) or (isinstance(op, QuantizeInt8) and (op.rows or op.columns) is not None)


def _ours(tensor: ResolvedTensor) -> ResolvedTensor:
    if isinstance(tensor.op, EngineFp8):
        return tensor.model_copy(update={"op": QuantizeFp8(strategy="tensor")})
    return tensor


def _write(
    loaded: Loaded, tensors: Mapping[str, ResolvedTensor], apply: Callable[[ResolvedTensor, Tensor], Tensor]
) -> dict[str, Tensor]:
    parameters = dict(loaded.model.named_parameters())
    places = {name: loaded.places.get(name) or Place(module_of(name), name) for name in tensors}
    absent = [name for name, place in places.items() if place.parameter not in parameters or name in loaded.lost]
    if absent:
        shown = ", ".join(absent[:3]) + (f" and {len(absent) - 3} more" if len(absent) > 3 else "")
        raise ProfilingError(
            f"the plan changes tensors that transformers' model does not have under their names: {shown}",
            hint="only models whose linears have the checkpoint's names can be measured",
        )
    overrides: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, tensor in tensors.items():
            place = places[name]
            if place.expert is None:
                overrides[place.parameter] = apply(tensor, parameters[place.parameter])
                continue
            if place.parameter not in overrides:
                overrides[place.parameter] = parameters[place.parameter].clone()
            place.of(overrides).copy_(apply(tensor, place.of(parameters)))
    return overrides


def _treated(tensor: ResolvedTensor, value: Tensor, vectors: Vectors) -> Tensor:
    sent = dict(transform(tensor, value, vectors))
    codes, scale = sent[tensor.name], sent.get(tensor.name + "_scale")
    return (codes if scale is None else dequantized(codes, scale)).to(value.dtype)
