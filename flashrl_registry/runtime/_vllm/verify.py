"""Proof that what is resident is what the plan made of what was sent.

Each row of the last complete update left a fingerprint (``sent.py``). Here the engine's layers are read back, the rows
and columns that this worker holds are found, and their fingerprints are compared: exactly, no tolerance.

Shape legend: O output channels of this rank, I input columns of this rank.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from vllm.model_executor.layers.linear import (
    LinearBase,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    ReplicatedLinear,
    RowParallelLinear,
)
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

from flashrl_registry.documents import ResolvedPlan
from flashrl_registry.documents.names import natural_key
from flashrl_registry.runtime._vllm.layers import (
    engine_name,
    experts,
    layer_format,
    linears,
    packed_modules,
    read_back,
    read_back_int8,
    resident_weight,
)
from flashrl_registry.runtime._vllm.sent import Sent
from flashrl_registry.runtime.fingerprint import fingerprint
from flashrl_registry.runtime.updates import evenly_spaced

_REQUANTIZED = "vLLM itself quantizes it, or quantizes it again"
_UNSEEN = "this release does not read it back"
_NEVER_SENT = "no complete update has brought it yet"


def verify_resident(
    model: nn.Module, resolved: ResolvedPlan, sent: Sent, rank: int, limit: int | None
) -> dict[str, Any]:
    """Compare resident tensors with the last complete update.

    Args:
        model: The engine's model.
        resolved: Its plan.
        sent: Fingerprints of the last complete update.
        rank: This worker's tensor-parallel rank.
        limit: Read back at most so many of the engine's linears, evenly spaced; None reads all.

    Returns:
        ``compared`` and ``equal`` (numbers of checkpoint tensors), ``different`` (their names) and
        ``not_compared`` (reason to names).
    """
    if not sent.rows:  # random weights that the program asked for
        return {"compared": 0, "equal": 0, "different": [], "not_compared": {_NEVER_SENT: _names(resolved)}}
    checked: dict[str, bool] = {}
    skipped: dict[str, list[str]] = {}
    shards_of = {module: [name for name, _ in shards] for module, shards in shards_of_layers(model, resolved).items()}
    layers = {name: layer for name, layer in linears(model).items() if name in shards_of}
    chosen = evenly_spaced(list(layers), limit)
    for name in chosen:
        if never_sent := [shard for shard in shards_of[name] if shard not in sent.rows]:
            skipped.setdefault(_NEVER_SENT, []).extend(never_sent)
            continue
        how = layer_format(layers[name])
        checked.update(_compare_biases(layers[name], shards_of[name], sent, rank))
        if how == "fp8" or (how == "fp8_tensor" and len(shards_of[name]) > 1):
            skipped.setdefault(_REQUANTIZED, []).extend(shards_of[name])
            continue
        checked.update(_compare_linear(layers[name], shards_of[name], sent, rank))
    checked.update(_compare_experts(model, sent, rank))
    checked.update(_compare_parameters(model, sent))
    left_out = layers.keys() - set(chosen)
    unseen = [t.name for t in resolved.tensors if t.name not in checked and engine_name(t.name, model) not in left_out]
    skipped.setdefault(_UNSEEN, []).extend(name for name in unseen if not any(name in v for v in skipped.values()))
    return {
        "compared": len(checked),
        "equal": sum(checked.values()),
        "different": sorted((name for name, equal in checked.items() if not equal), key=natural_key),
        "not_compared": {reason: names for reason, names in skipped.items() if names},
    }


def _names(resolved: ResolvedPlan) -> list[str]:
    return [tensor.name for tensor in resolved.tensors]


def shards_of_layers(model: nn.Module, resolved: ResolvedPlan) -> dict[str, list[tuple[str, int]]]:
    """The weights that each of the engine's modules holds, in the order of its rows, with their numbers of rows."""
    found: dict[str, list[tuple[str, int]]] = {}
    for tensor in resolved.tensors:
        if tensor.name.endswith(".weight"):
            found.setdefault(engine_name(tensor.name, model), []).append((tensor.name, tensor.shape[0]))
    for module, shards in found.items():
        order = list(packed_modules(model).get(module.rpartition(".")[2], ()))
        places = {leaf: place for place, leaf in enumerate(order)}
        shards.sort(key=lambda shard: places.get(shard[0].split(".")[-2], 0))
    return found


def _compare_linear(layer: LinearBase, shards: list[str], sent: Sent, rank: int) -> Iterator[tuple[str, bool]]:
    """Each shard's rows on this worker: codes (or weights) and scales."""
    codes_OI, scale = _resident(layer)
    first = 0
    for index, name in enumerate(shards):
        rows_RC = sent.rows[name]
        rows = row_slice(layer, index, rows_RC.shape[0], rank)
        count = rows.stop - rows.start
        mine_OI = codes_OI[first : first + count]
        if isinstance(layer, RowParallelLinear) and rows_RC.shape[1] > 1:
            expected = rows_RC[rows, rank : rank + 1]
            actual = fingerprint(mine_OI, first_chunk=rank)
        else:
            expected, actual = rows_RC[rows], fingerprint(mine_OI, chunks=rows_RC.shape[1])
        equal = torch.equal(actual, expected.to(actual.device))
        if scale is not None and (sent_scale := sent.rows.get(name + "_scale")) is not None:
            equal = equal and _same_scale(scale, sent_scale, rows, first, count)
        first += count
        yield name, equal


def _compare_biases(layer: LinearBase, shards: list[str], sent: Sent, rank: int) -> Iterator[tuple[str, bool]]:
    """Each shard's part of a linear's bias, which kernels add as it is."""
    bias = getattr(layer, "bias", None)
    first = 0
    for index, weight in enumerate(shards):
        if not isinstance(bias, torch.Tensor) or weight not in sent.rows:
            return
        rows = row_slice(layer, index, sent.rows[weight].shape[0], rank)
        count = rows.stop - rows.start
        name = weight.removesuffix("weight") + "bias"
        if name in sent.rows:
            expected = sent.rows[name][rows]
            yield name, torch.equal(fingerprint(bias.data[first : first + count]), expected.to(bias.device))
        first += count


def _same_scale(scale: torch.Tensor, sent_RC: torch.Tensor, rows: slice, first: int, count: int) -> bool:
    """Row scales row by row; block and tensor scales where this worker holds all of them."""
    if sent_RC.shape[0] >= rows.stop and scale.shape[0] >= first + count:
        actual = fingerprint(scale[first : first + count].reshape(count, -1).contiguous())
        return bool(torch.equal(actual, sent_RC[rows].to(actual.device)))
    return True


def _resident(layer: LinearBase) -> tuple[torch.Tensor, torch.Tensor | None]:
    how = layer_format(layer)
    if how == "int8":
        return read_back_int8(layer)
    if how.startswith("fp8"):
        scale = layer.weight_scale.data
        return resident_weight(layer).contiguous(), scale if scale.dim() else scale.reshape(1)
    return read_back(layer).to(getattr(layer, "params_dtype", torch.bfloat16)), None


def row_slice(layer: LinearBase, shard: int, total: int, rank: int) -> slice:
    """The rows of a whole shard that this worker holds."""
    if isinstance(layer, RowParallelLinear | ReplicatedLinear):
        return slice(0, total)
    if isinstance(layer, QKVParallelLinear) and shard > 0:
        size = layer.num_kv_heads * layer.head_size
        place = rank // layer.num_kv_head_replicas
    elif isinstance(layer, QKVParallelLinear):
        size, place = layer.num_heads * layer.head_size, rank
    elif isinstance(layer, MergedColumnParallelLinear):
        size, place = layer.output_partition_sizes[shard], rank
    else:
        size, place = int(layer.output_size_per_partition), rank
    return slice(place * size, (place + 1) * size)


def _compare_experts(model: nn.Module, sent: Sent, rank: int) -> Iterator[tuple[str, bool]]:
    """Stacks of experts whose kernels read the parameters themselves; on CPU they read a packed copy.

    ``w13_weight`` holds each expert's gate rows, then its up rows; ``w2_weight`` its down projection, cut by columns.
    """
    for module, layer in experts(model).items():
        w13, w2 = layer.w13_weight.data, layer.w2_weight.data
        if layer_format(layer) == "fp8" or w13.device.type == "cpu":
            continue
        for expert in range(w13.shape[0]):
            names = [f"{module}.{expert}.{leaf}.weight" for leaf in ("gate_proj", "up_proj", "down_proj")]
            if any(name not in sent.rows for name in names):
                continue
            half = w13.shape[1] // 2
            for name, mine_OI in zip(names, (w13[expert, :half], w13[expert, half:], w2[expert]), strict=True):
                rows_RC = sent.rows[name]
                if name.endswith("down_proj.weight"):
                    cut = rows_RC.shape[1] > 1
                    expected = rows_RC[:, rank : rank + 1] if cut else rows_RC
                    actual = fingerprint(mine_OI, first_chunk=rank if cut else 0)
                else:
                    expected = rows_RC[rank * half : (rank + 1) * half]
                    actual = fingerprint(mine_OI, chunks=rows_RC.shape[1])
                if actual.shape == expected.shape:
                    yield name, bool(torch.equal(actual, expected.to(actual.device)))


def _compare_parameters(model: nn.Module, sent: Sent) -> Iterator[tuple[str, bool]]:
    """Norms, embeddings and whatever else the engine holds under a name of the checkpoint."""
    through_kernel = set(linears(model))
    for name, layer in model.named_modules():
        if name in through_kernel:
            continue
        for leaf, parameter in layer.named_parameters(recurse=False):
            full = f"{name}.{leaf}"
            if full not in sent.rows:
                continue
            value, expected = parameter.data, sent.rows[full]
            if isinstance(layer, VocabParallelEmbedding):
                shard = layer.shard_indices
                expected = expected[shard.org_vocab_start_index : shard.org_vocab_end_index]
                value = value[: expected.shape[0]]
            if value.shape[0] != expected.shape[0]:
                continue
            actual = fingerprint(value, chunks=expected.shape[1])
            yield full, bool(torch.equal(actual, expected.to(actual.device)))
