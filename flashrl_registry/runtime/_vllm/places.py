"""Where each checkpoint tensor is resident, if the engine computes from plain rows of its parameters.

Then an update need not go through vLLM's loaders, which load every layer into new tensors, process them and copy them
back: codes and scales are written to where they are read. A place counts only where two things hold. Every module is
of a kind that is known to keep nothing derived from its weights elsewhere, and what lies there is, to the bit, what the
last complete update left (the same fingerprints that :mod:`~flashrl_registry.runtime._vllm.verify` compares). In every
other case updates take vLLM's way.

Shape legend: O output channels, I input columns.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from vllm.model_executor.layers.linear import LinearBase
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

from flashrl_registry.documents import ResolvedPlan, ResolvedTensor
from flashrl_registry.runtime._vllm.layers import experts, layer_format, linears, resident_weight
from flashrl_registry.runtime._vllm.sent import SCALE, Sent
from flashrl_registry.runtime._vllm.verify import row_slice, shards_of_layers
from flashrl_registry.runtime.fingerprint import fingerprint

_LINEAR_METHODS = {"UnquantizedLinearMethod", "CompressedTensorsLinearMethod"}
_LINEAR_KERNELS = {
    "CutlassInt8ScaledMMLinearKernel",
    "CutlassFP8ScaledMMLinearKernel",
    "CutlassFp8BlockScaledMMKernel",
    "TritonInt8ScaledMMLinearKernel",
    "TritonFp8BlockScaledMMKernel",
}
_OTHER_METHODS = {
    "UnquantizedEmbeddingMethod",
    "UnquantizedFusedMoEMethod",
    "CompressedTensorsW8A8Int8MoEMethod",
    "CompressedTensorsW8A8Fp8MoEMethod",
    "CompressedTensorsKVCacheMethod",
}
_PROCESSED = {"Attention", *_OTHER_METHODS}
"""Modules with a step after loading that does not depend on weights; some methods are modules, too."""
_BLOCK = 128


@dataclass(frozen=True)
class Place:
    """Views of one tensor's rows in the engine's parameters.

    Attributes:
        value: Codes, or the tensor in the engine's dtype; (O, I), or (O,) for norms and biases. Contiguous.
        scale: float32 scales as an operation yields them, of any strides; None where there are no codes.
        owners: Module, attribute and address of the parameters that are viewed.
    """

    value: torch.Tensor
    scale: torch.Tensor | None
    owners: tuple[tuple[nn.Module, str, int], ...]


def find_places(
    model: nn.Module, resolved: ResolvedPlan, tensors: Mapping[str, ResolvedTensor], sent: Sent
) -> tuple[dict[str, Place], str]:
    """Find the place of every tensor.

    Args:
        model: With the weights of a whole update.
        resolved: Its plan.
        tensors: What an update sends, by name.
        sent: Fingerprints of the last complete update.

    Returns:
        Places by tensor name and an empty reason; or none, and the reason.
    """
    if (kind := _unknown_kind(model)) is not None:
        return {}, f"{kind} may keep more than its parameters"
    found = dict(_in_linears(model, resolved))
    found |= dict(_in_experts(model))
    found |= {name: place for name, place in _in_parameters(model) if name not in found}
    places = {}
    for name in tensors:
        place = found.get(name)
        if place is None or name not in sent.rows or not _fits(place, sent.rows[name]):
            return {}, f"{name} has no rows of its own"
        places[name] = place
    if (other := _differs(places, sent)) is not None:
        return {}, f"{other} is not resident as it was sent"
    return places, ""


def _unknown_kind(model: nn.Module) -> str | None:
    """The first module that is not known to compute from its parameters alone."""
    for layer in model.modules():
        kind = type(layer).__name__
        if hasattr(layer, "process_weights_after_loading") and kind not in _PROCESSED:
            return kind
        method = getattr(layer, "quant_method", None)
        allowed = _LINEAR_METHODS if isinstance(layer, LinearBase) else _OTHER_METHODS
        if method is not None and type(method).__name__ not in allowed:
            return type(method).__name__
        scheme = getattr(layer, "scheme", None)
        kernel = None if scheme is None else getattr(scheme, "kernel", None) or getattr(scheme, "fp8_linear", None)
        if scheme is not None and type(kernel).__name__ not in _LINEAR_KERNELS:
            return type(kernel or scheme).__name__
    return None


def _in_linears(model: nn.Module, resolved: ResolvedPlan) -> Iterator[tuple[str, Place]]:
    shards_of = shards_of_layers(model, resolved)
    for module, layer in linears(model).items():
        if module not in shards_of:
            continue
        weight_OI, first = resident_weight(layer), 0
        scale = getattr(layer, "weight_scale", None)
        for index, (name, total) in enumerate(shards_of[module]):
            rows = row_slice(layer, index, total, 0)
            last = first + rows.stop - rows.start
            owners = _owners(layer, "weight", *([] if scale is None else ["weight_scale"]))
            yield name, Place(weight_OI[first:last], _scale_rows(layer_format(layer), scale, first, last), owners)
            bias = getattr(layer, "bias", None)
            if isinstance(bias, nn.Parameter):
                yield name.removesuffix("weight") + "bias", Place(bias.data[first:last], None, _owners(layer, "bias"))
            first = last


def _scale_rows(how: str, scale: nn.Parameter | None, first: int, last: int) -> torch.Tensor | None:
    """The scales of some rows, in the shape that an operation yields."""
    if scale is None:
        return None
    if how == "fp8_tensor":
        return scale.data.reshape(-1)
    if how == "fp8_block":
        return scale.data[first // _BLOCK : -(-last // _BLOCK)]
    return scale.data.view(-1, 1)[first:last] if scale.data.numel() >= last else scale.data


def _in_experts(model: nn.Module) -> Iterator[tuple[str, Place]]:
    """``w13_weight`` holds each expert's gate rows, then its up rows; ``w2_weight`` its down projection."""
    for module, layer in experts(model).items():
        half = layer.w13_weight.shape[1] // 2
        for expert in range(layer.w13_weight.shape[0]):
            for projection, stack, rows in (
                ("gate_proj", "w13_weight", slice(0, half)),
                ("up_proj", "w13_weight", slice(half, 2 * half)),
                ("down_proj", "w2_weight", slice(0, layer.w2_weight.shape[1])),
            ):
                weight, scale = getattr(layer, stack).data, getattr(layer, f"{stack}_scale", None)
                view = None if scale is None else _expert_scale(scale.data[expert], rows, weight.shape[1])
                owners = _owners(layer, stack, *([] if scale is None else [f"{stack}_scale"]))
                yield f"{module}.{expert}.{projection}.weight", Place(weight[expert, rows], view, owners)


def _expert_scale(scale: torch.Tensor, rows: slice, num_rows: int) -> torch.Tensor:
    if scale.dim() == 2 and scale.shape[0] * _BLOCK == num_rows:
        return scale[rows.start // _BLOCK : rows.stop // _BLOCK]
    return scale[rows] if scale.dim() and scale.shape[0] == num_rows else scale.reshape(-1)


def _in_parameters(model: nn.Module) -> Iterator[tuple[str, Place]]:
    """Norms, embeddings and whatever else the engine holds under a name of the checkpoint."""
    through_kernel = set(linears(model))
    for module, layer in model.named_modules():
        for leaf, parameter in layer.named_parameters(recurse=False):
            if module in through_kernel:
                continue
            value = parameter.data
            if isinstance(layer, VocabParallelEmbedding):
                shard = layer.shard_indices
                value = value[: shard.org_vocab_end_index - shard.org_vocab_start_index]
            yield f"{module}.{leaf}", Place(value, None, _owners(layer, leaf))


def _owners(layer: nn.Module, *leaves: str) -> tuple[tuple[nn.Module, str, int], ...]:
    return tuple((layer, leaf, getattr(layer, leaf).data_ptr()) for leaf in leaves)


def _fits(place: Place, rows_RC: torch.Tensor) -> bool:
    value = place.value
    words = value.storage_offset() * value.element_size() % 4 == 0  # fingerprints are made of them, in place
    return words and value.is_contiguous() and value.dim() > 0 and int(value.shape[0]) == int(rows_RC.shape[0])


def _differs(places: Mapping[str, Place], sent: Sent) -> str | None:
    """The first tensor that does not lie in its place; one look at the device for all."""
    names, answers = [], []
    for name, place in places.items():
        pairs = [(place.value, sent.rows[name])]
        scale_rows = sent.rows.get(name + SCALE)
        if (place.scale is None) != (scale_rows is None):
            return name
        if place.scale is not None and scale_rows is not None:
            pairs.append((place.scale.contiguous(), scale_rows))
        for value, rows_RC in pairs:
            if value.shape[0] != rows_RC.shape[0]:
                return name
            names.append(name)
            answers.append((fingerprint(value, chunks=rows_RC.shape[1]) == rows_RC).all())
    equal = torch.stack(answers).tolist()
    return next((name for name, same in zip(names, equal, strict=True) if not same), None)
