"""A two-layer Llama-like checkpoint pair with known factors, small enough to write in a millisecond."""

import copy
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

sys.path.append(str(Path(__file__).parent))  # architectures.py is shared by test modules

HIDDEN, INTERMEDIATE, KV, VOCAB, LAYERS = 32, 48, 16, 20, 2
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KV, HIDDEN),
    "self_attn.v_proj": (KV, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
    "mlp.up_proj": (INTERMEDIATE, HIDDEN),
    "mlp.down_proj": (HIDDEN, INTERMEDIATE),
}
NORM_OF = {
    "self_attn.q_proj": "input_layernorm",
    "self_attn.k_proj": "input_layernorm",
    "self_attn.v_proj": "input_layernorm",
    "mlp.gate_proj": "post_attention_layernorm",
    "mlp.up_proj": "post_attention_layernorm",
}
ARGS = {"num_bits": 8, "type": "int", "symmetric": True, "group_size": None, "actorder": None, "observer": "minmax"}
QUANTIZATION = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "kv_cache_scheme": None,
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {**ARGS, "strategy": "channel", "dynamic": False},
            "input_activations": {**ARGS, "strategy": "token", "dynamic": True},
            "output_activations": None,
        }
    },
}
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": False}


@dataclass
class Pair:
    """Two checkpoints in memory, to be changed by a test and then written."""

    folder: Path
    reference: dict[str, Tensor] = field(default_factory=dict)
    quantized: dict[str, Tensor] = field(default_factory=dict)
    inv_smoothing: dict[str, Tensor] = field(default_factory=dict)
    reference_config: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(CONFIG))
    quantized_config: dict[str, Any] = field(
        default_factory=lambda: copy.deepcopy({**CONFIG, "quantization_config": QUANTIZATION})
    )

    def write(self) -> tuple[Path, Path]:
        """Write both checkpoints; the folders' names are ``reference`` and ``quantized``."""
        folders = self.folder / "reference", self.folder / "quantized"
        states = (self.reference, self.reference_config), (self.quantized, self.quantized_config)
        for folder, (state, config) in zip(folders, states, strict=True):
            folder.mkdir(parents=True, exist_ok=True)
            save_file({name: tensor.clone() for name, tensor in state.items()}, folder / "model.safetensors")
            (folder / "config.json").write_text(json.dumps(config))
        return folders

    @property
    def group(self) -> dict[str, Any]:
        """The only group of the quantization_config."""
        group: dict[str, Any] = self.quantized_config["quantization_config"]["config_groups"]["group_0"]
        return group


def make_pair(folder: Path, *, smooth: bool = True) -> Pair:
    """Random weights; factors that are powers of two, so that smoothing is exact in bf16."""
    generator = torch.Generator().manual_seed(7)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(torch.bfloat16)

    def inv_factor(size: int) -> Tensor:
        exponent = torch.randint(-3, 4, (size,), generator=generator)
        return torch.exp2(exponent.float()) if smooth else torch.ones(size)

    pair = Pair(folder)
    for name, size in (("model.embed_tokens.weight", VOCAB), ("lm_head.weight", VOCAB)):
        pair.reference[name] = pair.quantized[name] = random(size, HIDDEN)
    pair.reference["model.norm.weight"] = pair.quantized["model.norm.weight"] = random(HIDDEN)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            name = f"{prefix}{norm}.weight"
            pair.inv_smoothing[name] = inv_factor(HIDDEN)
            pair.reference[name] = random(HIDDEN)
            pair.quantized[name] = (pair.reference[name].float() * pair.inv_smoothing[name]).to(torch.bfloat16)
        up = f"{prefix}mlp.up_proj.weight"
        pair.inv_smoothing[up] = inv_factor(INTERMEDIATE)
        for module, shape in SHAPES.items():
            name = f"{prefix}{module}.weight"
            weight = pair.reference[name] = random(*shape)
            weight = weight.float()
            if module in NORM_OF:
                weight = weight / pair.inv_smoothing[f"{prefix}{NORM_OF[module]}.weight"]
            if module == "mlp.up_proj":
                weight = weight * pair.inv_smoothing[up][:, None]
            if module == "mlp.down_proj":
                weight = weight / pair.inv_smoothing[up]
            scale = (weight.abs().amax(dim=1, keepdim=True) / 127).to(torch.bfloat16)
            pair.quantized[name] = (weight / scale.float()).round().clamp(-128, 127).to(torch.int8)
            pair.quantized[f"{name}_scale"] = scale
    return pair


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """A smoothed pair, not yet written."""
    return make_pair(tmp_path)


@pytest.fixture
def unsmoothed_pair(tmp_path: Path) -> Pair:
    """A pair that was quantized without smoothing."""
    return make_pair(tmp_path, smooth=False)
