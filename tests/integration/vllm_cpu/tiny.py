"""A tiny random Llama checkpoint, untied unless asked, written without transformers."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

HIDDEN, LAYERS, HEADS, KV_HEADS, MLP, VOCAB = 128, 2, 4, 2, 192, 256


def tensors(seed: int, *, tied: bool = False) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int, around: float = 0.0, scale: float = 0.05) -> torch.Tensor:
        return (around + scale * torch.randn(*shape, generator=generator)).to(torch.bfloat16)

    head = HIDDEN // HEADS
    out = {"model.embed_tokens.weight": rand(VOCAB, HIDDEN, scale=0.5)}
    for layer in range(LAYERS):
        base = f"model.layers.{layer}"
        out[f"{base}.input_layernorm.weight"] = rand(HIDDEN, around=1.0)
        out[f"{base}.self_attn.q_proj.weight"] = rand(HEADS * head, HIDDEN, scale=0.2)
        out[f"{base}.self_attn.k_proj.weight"] = rand(KV_HEADS * head, HIDDEN, scale=0.2)
        out[f"{base}.self_attn.v_proj.weight"] = rand(KV_HEADS * head, HIDDEN, scale=0.2)
        out[f"{base}.self_attn.o_proj.weight"] = rand(HIDDEN, HEADS * head, scale=0.2)
        out[f"{base}.post_attention_layernorm.weight"] = rand(HIDDEN, around=1.0)
        out[f"{base}.mlp.gate_proj.weight"] = rand(MLP, HIDDEN, scale=0.2)
        out[f"{base}.mlp.up_proj.weight"] = rand(MLP, HIDDEN, scale=0.2)
        out[f"{base}.mlp.down_proj.weight"] = rand(HIDDEN, MLP, scale=0.2)
    out["model.norm.weight"] = rand(HIDDEN, around=1.0)
    if not tied:
        out["lm_head.weight"] = rand(VOCAB, HIDDEN, scale=0.5)
    return out


def write(folder: Path, seed: int, *, tied: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors(seed, tied=tied), folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
        "intermediate_size": MLP, "vocab_size": VOCAB, "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": tied, "torch_dtype": "bfloat16", "hidden_act": "silu", "rope_theta": 10000.0,
        "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder
