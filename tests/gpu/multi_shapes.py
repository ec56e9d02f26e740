"""One layer of Qwen2.5-32B and of Qwen3-30B-A3B, in their true width, with random weights and a small vocabulary.

SmolLM2-135M is not here: its 9 heads and 3 KV heads do not divide among 2 or 4 workers, and vLLM refuses it.
"""

import json
import math
from pathlib import Path
from typing import Any

import tiny
import torch
from safetensors.torch import save_file

# A prime, so that no two rows, and no two workers' parts, are the same piece of it.
POOL = 16_777_213
SPREAD = {"embed_tokens": 0.5, "lm_head": 0.5, "gate": 0.5}
COMMON: dict[str, Any] = {
    "num_hidden_layers": 1, "vocab_size": tiny.VOCAB, "max_position_embeddings": 256, "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "hidden_act": "silu", "rope_theta": 1e6,
    "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "Qwen2.5-32B": {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 5120, "num_attention_heads": 40,
        "num_key_value_heads": 8, "intermediate_size": 27648, "use_sliding_window": False, "max_window_layers": 1,
    },
    "Qwen3-30B-A3B": {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 2048, "head_dim": 128,
        "num_attention_heads": 32, "num_key_value_heads": 4, "intermediate_size": 6144, "num_experts": 128,
        "num_experts_per_tok": 8, "moe_intermediate_size": 768, "decoder_sparse_step": 1, "mlp_only_layers": [],
        "norm_topk_prob": True, "attention_bias": False,
    },
}  # fmt: skip


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint."""
    hidden, base = config["hidden_size"], "model.layers.0"
    head = config.get("head_dim", hidden // config["num_attention_heads"])
    out: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (tiny.VOCAB, hidden)}
    rows = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"], "v": config["num_key_value_heads"]}
    for name, heads in rows.items():
        out[f"{base}.self_attn.{name}_proj.weight"] = (heads * head, hidden)
        if config["model_type"] == "qwen2":
            out[f"{base}.self_attn.{name}_proj.bias"] = (heads * head,)
    out[f"{base}.self_attn.o_proj.weight"] = (hidden, rows["q"] * head)
    mlp, parts = config["intermediate_size"], ["mlp"]
    if config["model_type"] == "qwen3_moe":
        out |= {f"{base}.self_attn.{name}_norm.weight": (head,) for name in ("q", "k")}
        out[f"{base}.mlp.gate.weight"] = (config["num_experts"], hidden)
        mlp, parts = config["moe_intermediate_size"], [f"mlp.experts.{i}" for i in range(config["num_experts"])]
    for part in parts:
        out |= {f"{base}.{part}.{name}_proj.weight": (mlp, hidden) for name in ("gate", "up")}
        out[f"{base}.{part}.down_proj.weight"] = (hidden, mlp)
    out |= {f"{base}.{name}_layernorm.weight": (hidden,) for name in ("input", "post_attention")}
    return out | {"model.norm.weight": (hidden,), "lm_head.weight": (tiny.VOCAB, hidden)}


def write(folder: Path, name: str, seed: int) -> Path:
    """Write a checkpoint folder; seconds, since every tensor is a piece of the same random numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    config = COMMON | CONFIGS[name]
    generator = torch.Generator().manual_seed(seed)
    pool = torch.randn(POOL, generator=generator).to(torch.bfloat16)
    tensors, start = {}, 0
    for key, shape in shapes(config).items():
        count = math.prod(shape)
        times = -(-(start + count) // POOL)
        value = (pool if times == 1 else pool.repeat(times))[start : start + count].view(shape)
        spread = SPREAD.get(key.split(".")[-2], 0.03125)
        tensors[key] = 1 + 0.0625 * value if "norm" in key else spread * value
        start = (start + count) % POOL
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder
