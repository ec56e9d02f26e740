"""Linears that must have one format, since the engine makes one weight of them."""

from collections.abc import Iterable

from flashrl_registry.compiler.modules import engine_module
from flashrl_registry.documents.names import natural_key

# vLLM fuses these too, in some models; a choice that ties them where it does not is still a choice.
_ALSO_FUSED = {
    "q_a_proj": "fused_qkv_a_proj",
    "kv_a_proj_with_mqa": "fused_qkv_a_proj",
    "in_proj_qkvz": "in_proj_qkvz_ba",
    "in_proj_ba": "in_proj_qkvz_ba",
}


def fused_groups(names: Iterable[str]) -> dict[str, list[str]]:
    """Weights by the engine's module that they go into.

    Returns:
        Module to its weights, in natural order: ``a.qkv_proj`` to q, k and v; ``m.experts`` to those of all experts.
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(names, key=natural_key):
        module = engine_module(name)
        parent, _, leaf = module.rpartition(".")
        groups.setdefault(f"{parent}.{_ALSO_FUSED[leaf]}" if leaf in _ALSO_FUSED else module, []).append(name)
    return dict(sorted(groups.items(), key=lambda item: natural_key(item[0])))
