"""What arrives from a trainer, under the names of the plan.

Trainers that build the engine's own module names send fused weights: ``qkv_proj``, ``gate_up_proj``, and stacks of
experts. They are taken apart into views of the shards that the plan decides; nothing is copied.

Shape legend: E experts, I input columns, M rows of one expert's gate or up projection.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from flashrl_registry.compiler.modules import FUSED
from flashrl_registry.documents import ResolvedTensor

if TYPE_CHECKING:
    import torch

_SENT = "a trainer sends dense torch tensors in bfloat16, float16 or float32"
_STACKED = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}


def unusable(name: object, value: object) -> str | None:
    """Why a sent pair is not a name and a tensor whose values can be read here, or None."""
    import torch

    if not isinstance(name, str):
        return f"a name of type {type(name).__name__}; a name is text"
    if not isinstance(value, torch.Tensor):
        return f"{type(value).__name__}, and not a torch.Tensor; {_SENT}"
    if hasattr(value, "full_tensor"):  # a DTensor: its shape is that of the whole, and its values are one rank's
        return f"a shard of a distributed tensor; send full_tensor(): {_SENT}"
    if value.layout is not torch.strided:
        return f"layout {value.layout}; send to_dense(): {_SENT}"
    if value.is_meta:
        return f"a meta tensor, which has no values; {_SENT}"
    return None


def unfused(
    name: str, value: "torch.Tensor", tensors: Mapping[str, ResolvedTensor]
) -> "Iterator[tuple[str, torch.Tensor]]":
    """Yield the plan's tensors that an arriving tensor holds.

    Args:
        name: As sent.
        value: As sent.
        tensors: The plan's tensors by name.

    Yields:
        (name, view) pairs: the tensor itself where the plan knows its name, or where it holds nothing that the plan
        knows, which the caller refuses by that name.
    """
    if name not in tensors and unusable(name, value) is None:
        shards = _fused_shards(name, value, tensors) or _stacked_experts(name, value, tensors)
        if shards:
            yield from shards
            return
    yield name, value


def _fused_shards(
    name: str, value: "torch.Tensor", tensors: Mapping[str, ResolvedTensor]
) -> "list[tuple[str, torch.Tensor]]":
    """Rows of ``qkv_proj`` or ``gate_up_proj``, weight or bias, in the order of the shards."""
    module, _, leaf = name.rpartition(".")
    parent, _, fused = module.rpartition(".")
    shards = [f"{parent}.{shard}.{leaf}" for shard in FUSED.get(fused, ())]
    if not shards or any(shard not in tensors for shard in shards) or value.dim() == 0:
        return []
    sizes = [tensors[shard].shape[0] for shard in shards]
    if sum(sizes) != value.shape[0]:
        return []
    return list(zip(shards, value.split(sizes), strict=True))


def _stacked_experts(
    name: str, value: "torch.Tensor", tensors: Mapping[str, ResolvedTensor]
) -> "list[tuple[str, torch.Tensor]]":
    """``experts.gate_up_proj`` (E, 2 M, I) and ``experts.down_proj`` (E, I, M), as transformers 5 holds them."""
    parent, _, leaf = name.removesuffix(".weight").rpartition(".experts.")
    names = _STACKED.get(leaf)
    if not parent or names is None or value.dim() != 3 or value.shape[1] % len(names):
        return []
    shards = []
    for expert, matrix in enumerate(value.unbind(0)):
        for shard, part in zip(names, matrix.chunk(len(names)), strict=True):
            full = f"{parent}.experts.{expert}.{shard}.weight"
            # A layout with rows and columns exchanged is not this one, and is refused under the name that was sent.
            if full not in tensors or list(part.shape) != tensors[full].shape:
                return []
            shards.append((full, part))
    return shards
