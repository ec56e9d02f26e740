"""What test modules ask of a pair that ``conftest.py`` made."""

from typing import Any

import torch

NORM_OF = {
    "q_proj": "input_layernorm", "k_proj": "input_layernorm", "v_proj": "input_layernorm",
    "gate_proj": "post_attention_layernorm", "up_proj": "post_attention_layernorm",
}  # fmt: skip


def linears(pair: Any) -> list[str]:
    """Weights that are codes."""
    return [name for name in pair.reference if name.endswith("_proj.weight")]


def folded(pair: Any, name: str) -> torch.Tensor:
    """A linear's weight after smoothing, float32."""
    weight = pair.reference[name].float()
    prefix, leaf = name.split(".self_attn.", maxsplit=1)[0].split(".mlp.", maxsplit=1)[0], name.split(".")[-2]
    up = f"{prefix}.mlp.up_proj.weight"
    if leaf in NORM_OF:
        weight = weight / pair.inv_smoothing[f"{prefix}.{NORM_OF[leaf]}.weight"]
    if leaf == "up_proj":
        weight = weight * pair.inv_smoothing[up][:, None]
    if leaf == "down_proj":
        weight = weight / pair.inv_smoothing[up]
    return weight
