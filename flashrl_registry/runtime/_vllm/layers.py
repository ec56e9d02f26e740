"""What the engine's layers are, read from the layers themselves.

Kernels repack weights, and oneDNN keeps them in memory that Python cannot see. So resident weights are read back
through the layer's own kernel: one-hot inputs select one column each, and the output is that column. For int8 the
output is ``code * scale`` up to rounding far below half a code, so dividing by the scale gives the code exactly.

Shape legend: O output channels of this rank, I input columns of this rank.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from vllm.model_executor.layers.linear import LinearBase

from flashrl_registry.compiler.engine_config import treatment_of
from flashrl_registry.compiler.modules import FUSED, engine_module, module_of
from flashrl_registry.documents import ResolvedPlan
from flashrl_registry.documents.names import natural_key
from flashrl_registry.errors import PluginNotActiveError

_PROBE_ROWS = 2048
_METHODS = {
    "UnquantizedLinearMethod": "unquantized",
    "UnquantizedFusedMoEMethod": "unquantized",
    "NoneType": "unquantized",
    "Fp8PerTensorOnlineLinearMethod": "fp8",
    "Fp8PerTensorOnlineMoEMethod": "fp8",
    "CompressedTensorsW8A8Int8MoEMethod": "int8",
}


def layer_format(layer: nn.Module) -> str:
    """The scheme that a linear or a stack of experts is built for, ``unquantized``, or another method's name."""
    method = getattr(layer, "quant_method", None)
    scheme = getattr(layer, "scheme", None)
    if scheme is not None:
        name = type(scheme).__name__
        if name == "CompressedTensorsW8A8Fp8":
            return f"fp8_{getattr(scheme.strategy, 'value', scheme.strategy)}"
        return "int8" if name == "CompressedTensorsW8A8Int8" else name
    name = type(method).__name__
    if name == "CompressedTensorsW8A8Fp8MoEMethod":
        strategy = method.weight_quant.strategy  # type: ignore[union-attr]
        return f"fp8_{getattr(strategy, 'value', strategy)}"
    return _METHODS.get(name, name)


def linears(model: nn.Module) -> dict[str, LinearBase]:
    """Every linear layer of the engine by its module name."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LinearBase)}


def experts(model: nn.Module) -> dict[str, nn.Module]:
    """Every stack of routed experts by the name of the checkpoint's module; newer releases hold it one level down."""
    return {
        name.removesuffix(".routed_experts"): layer
        for name, layer in model.named_modules()
        if "w13_weight" in dict(layer.named_parameters(recurse=False))
    }


def count_formats(model: nn.Module) -> dict[str, int]:
    """Number of layers per format: linears, and each stack of experts as one."""
    return dict(Counter(layer_format(layer) for layer in (*linears(model).values(), *experts(model).values())))


def check_formats(model: nn.Module, resolved: ResolvedPlan) -> dict[str, int]:
    """Compare every linear layer of the engine with the plan.

    Returns:
        Number of linear layers per format.

    Raises:
        PluginNotActiveError: A layer has another format than the plan says; all are listed.
    """
    planned = {
        engine_name(tensor.name, model): treatment
        for tensor in resolved.tensors
        if (treatment := treatment_of(tensor.op)) not in {"keep", "rescale"} and tensor.name.endswith(".weight")
    }
    engine = {name: layer_format(layer) for name, layer in {**linears(model), **experts(model)}.items()}
    actual = {name: how for name, how in engine.items() if how != "unquantized"}
    wrong = [
        f"{name}: the plan says {planned.get(name, 'unquantized')}, the engine has {actual.get(name, 'unquantized')}"
        for name in planned.keys() | actual.keys()
        if planned.get(name) != actual.get(name)
    ]
    if wrong:
        lines = "\n  ".join(sorted(wrong, key=natural_key)[:20])
        raise PluginNotActiveError(f"{len(wrong)} layers do not have the format that the plan says:\n  {lines}")
    return count_formats(model)


def engine_name(tensor: str, model: nn.Module) -> str:
    """The engine's module for a weight of the checkpoint; the engine fuses siblings and may rename prefixes."""
    module = _mapped(module_of(tensor), model)
    stacked = engine_module(module + ".weight")
    if stacked.endswith(".experts"):
        return stacked
    parent, _, leaf = module.rpartition(".")
    for fused, shards in packed_modules(model).items():
        if leaf in shards:
            return f"{parent}.{fused}" if parent else fused
    return module


def packed_modules(model: nn.Module) -> Mapping[str, Any]:
    """Which modules of the checkpoint the model fuses into one, in the order of their rows."""
    return getattr(model, "packed_modules_mapping", None) or FUSED


def _mapped(module: str, model: nn.Module) -> str:
    mapper = getattr(model, "hf_to_vllm_mapper", None)
    return module if mapper is None else str(mapper._map_name(module + ".weight").removesuffix(".weight"))


def resident_digests(model: nn.Module) -> dict[str, str]:
    """SHA-256 of every resident tensor, kernels' private copies included.

    Returns:
        ``<module>.codes`` (int8) and ``<module>.weight_scale`` for int8 linears, ``<module>.weight`` read back
        through the kernel for other linears, and every other parameter under its own name.
    """
    digests: dict[str, str] = {}
    through_kernel = linears(model)
    for name, layer in through_kernel.items():
        how = layer_format(layer)
        if how == "int8":
            codes_OI, scale_O = read_back_int8(layer)
            digests[f"{name}.codes"] = _digest(codes_OI)
            digests[f"{name}.weight_scale"] = _digest(scale_O)
            # The product as the kernel computes it: a kernel that reads another scale than the layer's shows here.
            digests[f"{name}.product"] = _digest(read_back(layer))
        elif how.startswith("fp8"):
            # Kernels of float8 read the parameters themselves, which Python sees.
            digests[f"{name}.codes"] = _digest(layer.weight.data)
            digests[f"{name}.weight_scale"] = _digest(layer.weight_scale.data)
            digests[f"{name}.product"] = _digest(read_back(layer))
        else:
            digests[f"{name}.weight"] = _digest(read_back(layer))
    skip = {f"{name}.{leaf}" for name in through_kernel for leaf in ("weight", "weight_scale", "azp_adj")}
    for name, parameter in model.named_parameters():
        if name not in skip:
            digests[name] = _digest(parameter.data)
    return digests


def resident_weight(layer: LinearBase) -> torch.Tensor:
    """The weight or codes that a kernel reads, as a view with output channels first, (O, I)."""
    weight: torch.Tensor = layer.weight.data
    if weight.shape[0] == _columns(layer) != weight.shape[1] or not weight.is_contiguous():
        return weight.t()  # kernels take (I, O)
    return weight


def _columns(layer: LinearBase) -> int:
    """Input columns of this rank; a replicated linear has all of them."""
    return int(getattr(layer, "input_size_per_partition", layer.input_size))


def read_back(layer: LinearBase) -> torch.Tensor:
    """The weight that a linear layer multiplies by, (O, I), through its own kernel; bias excluded.

    A one-hot input times a bf16 weight is exact, so this is the weight itself, bit for bit.
    """
    size_I = _columns(layer)
    device = next((p.device for p in layer.parameters()), torch.device("cpu"))
    dtype = getattr(layer, "params_dtype", torch.bfloat16)
    columns = []
    for start in range(0, size_I, _PROBE_ROWS):
        rows = min(_PROBE_ROWS, size_I - start)
        one_hot = torch.zeros(rows, size_I, dtype=dtype, device=device)
        one_hot[torch.arange(rows), torch.arange(start, start + rows)] = 1
        with torch.no_grad():
            columns.append(layer.quant_method.apply(layer, one_hot, None).float().t())
    return torch.cat(columns, dim=1).contiguous()


def read_back_int8(layer: LinearBase) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (int8, (O, I)) and scales (float32, (O,)) that an int8 linear multiplies by."""
    scale_O = layer.weight_scale.data.float().reshape(-1)
    return torch.round(read_back(layer) / scale_O[:, None]).to(torch.int8), scale_O


def _digest(tensor: torch.Tensor) -> str:
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(data.tobytes()).hexdigest()
