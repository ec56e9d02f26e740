"""Tiny random checkpoints, written without transformers: a Llama, untied unless asked, and a Qwen3 mixture of experts.

``wide`` ones have sides that are multiples of 128, which float8 blocks need.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

LAYERS, HEADS, KV_HEADS, VOCAB, EXPERTS = 2, 4, 2, 256, 4


def sizes(*, wide: bool) -> tuple[int, int]:
    """Hidden and MLP size."""
    return (256, 384) if wide else (128, 192)


def tensors(
    seed: int,
    *,
    tied: bool = False,
    moe: bool = False,
    wide: bool = False,
    bias: bool = False,
    layers: int = LAYERS,
) -> dict[str, torch.Tensor]:
    """Tensors of a checkpoint, bfloat16."""
    generator = torch.Generator().manual_seed(seed)
    hidden, mlp = sizes(wide=wide)
    head = hidden // HEADS

    def rand(*shape: int, around: float = 0.0, scale: float = 0.05) -> torch.Tensor:
        return (around + scale * torch.randn(*shape, generator=generator)).to(torch.bfloat16)

    out = {"model.embed_tokens.weight": rand(VOCAB, hidden, scale=0.5)}
    for layer in range(layers):
        base = f"model.layers.{layer}"
        out[f"{base}.input_layernorm.weight"] = rand(hidden, around=1.0)
        out[f"{base}.self_attn.q_proj.weight"] = rand(HEADS * head, hidden, scale=0.2)
        out[f"{base}.self_attn.k_proj.weight"] = rand(KV_HEADS * head, hidden, scale=0.2)
        out[f"{base}.self_attn.v_proj.weight"] = rand(KV_HEADS * head, hidden, scale=0.2)
        out[f"{base}.self_attn.o_proj.weight"] = rand(hidden, HEADS * head, scale=0.2)
        if bias:
            for part, rows in (("q", HEADS * head), ("k", KV_HEADS * head), ("v", KV_HEADS * head), ("o", hidden)):
                out[f"{base}.self_attn.{part}_proj.bias"] = rand(rows)
        out[f"{base}.post_attention_layernorm.weight"] = rand(hidden, around=1.0)
        if moe:
            out[f"{base}.self_attn.q_norm.weight"] = rand(head, around=1.0)
            out[f"{base}.self_attn.k_norm.weight"] = rand(head, around=1.0)
            out[f"{base}.mlp.gate.weight"] = rand(EXPERTS, hidden, scale=0.5)
        for part in [f"mlp.experts.{i}" for i in range(EXPERTS)] if moe else ["mlp"]:
            out[f"{base}.{part}.gate_proj.weight"] = rand(mlp, hidden, scale=0.2)
            out[f"{base}.{part}.up_proj.weight"] = rand(mlp, hidden, scale=0.2)
            out[f"{base}.{part}.down_proj.weight"] = rand(hidden, mlp, scale=0.2)
    out["model.norm.weight"] = rand(hidden, around=1.0)
    if not tied:
        out["lm_head.weight"] = rand(VOCAB, hidden, scale=0.5)
    return out


def write(
    folder: Path,
    seed: int,
    *,
    tied: bool = False,
    moe: bool = False,
    wide: bool = False,
    bias: bool = False,
    layers: int = LAYERS,
) -> Path:
    """Write a checkpoint folder."""
    folder.mkdir(parents=True, exist_ok=True)
    made = tensors(seed, tied=tied, moe=moe, wide=wide, bias=bias, layers=layers)
    save_file(made, folder / "model.safetensors", metadata={"format": "pt"})
    hidden, mlp = sizes(wide=wide)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
        "num_hidden_layers": layers, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
        "intermediate_size": mlp, "vocab_size": VOCAB, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": tied, "torch_dtype": "bfloat16", "hidden_act": "silu", "rope_theta": 10000.0,
        "bos_token_id": 0, "eos_token_id": 1, "attention_bias": bias,
    }  # fmt: skip
    if moe:
        config |= {
            "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "head_dim": hidden // HEADS,
            "num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": mlp, "decoder_sparse_step": 1,
            "mlp_only_layers": [], "norm_topk_prob": True, "attention_bias": False,
        }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder
