"""A smoothed W8A8 checkpoint for a tiny Llama of ``tiny.py``, written as llm-compressor writes them."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

DEAD = 5
"""Channel that every linear behind the first norm nearly ignores, so that its int8 codes are zero there."""
_ARGS = {"num_bits": 8, "type": "int", "symmetric": True}
_SOURCE = {
    "q_proj": "input_layernorm", "k_proj": "input_layernorm", "v_proj": "input_layernorm",
    "gate_proj": "post_attention_layernorm", "up_proj": "post_attention_layernorm",
}  # fmt: skip


def deaden(folder: Path) -> Path:
    """Make one channel of the first layer's attention input dead under int8."""
    tensors = load_file(folder / "model.safetensors")
    for leaf in ("q_proj", "k_proj", "v_proj"):
        tensors[f"model.layers.0.self_attn.{leaf}.weight"][:, DEAD] *= 1e-4
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def add_biases(folder: Path) -> Path:
    """Give q, k, v and o biases."""
    generator = torch.Generator().manual_seed(3)
    tensors = load_file(folder / "model.safetensors")
    for name, value in list(tensors.items()):
        if ".self_attn." in name:
            bias = 0.1 * torch.randn(value.shape[0], generator=generator)
            tensors[name.removesuffix("weight") + "bias"] = bias.to(torch.bfloat16)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attention_bias": True}))
    return folder


def write_w8a8(reference: Path, folder: Path) -> Path:
    """Smooth by random factors, round to int8 with bf16 scales per row."""
    shutil.copytree(reference, folder)
    generator = torch.Generator().manual_seed(11)
    tensors, out = load_file(reference / "model.safetensors"), {}
    factors = {
        name: torch.exp2(torch.randint(-2, 3, value.shape, generator=generator).float())
        for name, value in tensors.items()
        if name.endswith("layernorm.weight")
    }
    for name, value in tensors.items():
        leaf = name.split(".")[-2]
        if name in factors:
            out[name] = (value.float() * factors[name]).to(torch.bfloat16)
        elif name.endswith("_proj.weight"):
            weight = value.float()
            if leaf in _SOURCE:
                weight /= factors[".".join(name.split(".")[:3]) + f".{_SOURCE[leaf]}.weight"]
            scale = (weight.abs().amax(dim=1, keepdim=True) / 127).to(torch.bfloat16)
            out[name] = (weight / scale.float()).round().clamp(-128, 127).to(torch.int8)
            out[f"{name}_scale"] = scale
        else:
            out[name] = value
    save_file(out, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {
            "targets": ["Linear"],
            "weights": {**_ARGS, "strategy": "channel", "dynamic": False},
            "input_activations": {**_ARGS, "strategy": "token", "dynamic": True},
        }},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder
