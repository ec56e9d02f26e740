"""Tiny real transformers models, smoothed where each architecture allows it and rounded to int8.

What is folded is written down per architecture, and a test runs the folded model: its logits are those of the
original, so the truth that a profile is compared with is the model's own.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

VOCAB, HEADS, KV_HEADS, HEAD = 64, 4, 2, 16
BASE = {
    "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
MOE = {**BASE, "moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2, "decoder_sparse_step": 1}


@dataclass(frozen=True)
class Fold:
    """A factor that moves from a source into its targets, in every layer that has them.

    ``*`` stands for an expert. ``rows``, for linears: the first row and the number of rows that feed the targets.
    """

    source: str
    targets: tuple[str, ...]
    rows: tuple[int, int] | None = None
    repeats: int = 1


@dataclass(frozen=True)
class Architecture:
    """A model and what is folded in it."""

    model_type: str
    config: dict[str, Any]
    folds: tuple[Fold, ...]
    offset: int = 0
    fuse_experts: bool = False


QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
ATTENTION = Fold("input_layernorm", QKV)
VALUES = Fold("self_attn.v_proj", ("self_attn.o_proj",), repeats=HEADS // KV_HEADS)
MLP = Fold("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj"))
DOWN = Fold("mlp.up_proj", ("mlp.down_proj",))
EXPERTS = Fold("mlp.experts.*.up_proj", ("mlp.experts.*.down_proj",))
LLAMA = (ATTENTION, MLP, DOWN, VALUES)
GEMMA = (ATTENTION, Fold("pre_feedforward_layernorm", ("mlp.gate_proj", "mlp.up_proj")), DOWN, VALUES)

ARCHITECTURES = {
    "Llama": Architecture("llama", BASE, LLAMA),
    "Llama, tied embeddings": Architecture("llama", {**BASE, "tie_word_embeddings": True}, LLAMA),
    "Llama, norms only": Architecture("llama", BASE, (ATTENTION, MLP)),
    "Qwen2": Architecture("qwen2", BASE, LLAMA),
    "Qwen3": Architecture("qwen3", {**BASE, "head_dim": HEAD}, LLAMA),
    "Mistral": Architecture("mistral", BASE, LLAMA),
    "Granite": Architecture("granite", BASE, LLAMA),
    "Gemma-2": Architecture("gemma2", {**BASE, "head_dim": HEAD}, GEMMA, offset=1),
    "Gemma-3": Architecture("gemma3_text", {**BASE, "head_dim": HEAD}, GEMMA, offset=1),
    "Phi-3": Architecture(
        "phi3", BASE,
        (
            Fold("input_layernorm", ("self_attn.qkv_proj",)), Fold("post_attention_layernorm", ("mlp.gate_up_proj",)),
            Fold("mlp.gate_up_proj", ("mlp.down_proj",), rows=(96, 96)),
            Fold("self_attn.qkv_proj", ("self_attn.o_proj",), rows=(96, 32), repeats=HEADS // KV_HEADS),
        ),
    ),
    "Cohere": Architecture("cohere", BASE, (Fold("input_layernorm", (*QKV, "mlp.gate_proj", "mlp.up_proj")), DOWN)),
    "OLMo-2": Architecture("olmo2", BASE, (DOWN, VALUES)),
    "StarCoder2": Architecture("starcoder2", BASE, (ATTENTION, Fold("post_attention_layernorm", ("mlp.c_fc",)))),
    "Qwen2-MoE": Architecture(
        "qwen2_moe", {**MOE, "shared_expert_intermediate_size": 48},
        (ATTENTION, EXPERTS, Fold("mlp.shared_expert.up_proj", ("mlp.shared_expert.down_proj",))),
    ),
    "Qwen3-MoE": Architecture("qwen3_moe", {**MOE, "head_dim": HEAD}, (ATTENTION, VALUES, EXPERTS)),
    "Qwen3-MoE, fused experts": Architecture(
        "qwen3_moe", {**MOE, "head_dim": HEAD},
        (ATTENTION, VALUES, Fold("mlp.experts.gate_up_proj", ("mlp.experts.down_proj",), rows=(32, 32))),
        fuse_experts=True,
    ),
    "Mixtral": Architecture(
        "mixtral", {**BASE, "num_local_experts": 4},
        (ATTENTION, Fold("block_sparse_moe.experts.*.w3", ("block_sparse_moe.experts.*.w2",))),
    ),
    "DeepSeek-V3": Architecture(
        "deepseek_v3",
        {
            **BASE, "num_key_value_heads": HEADS, "moe_intermediate_size": 32, "n_routed_experts": 4,
            "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1,
            "kv_lora_rank": 32, "q_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16,
        },
        (
            Fold("input_layernorm", ("self_attn.q_a_proj", "self_attn.kv_a_proj_with_mqa")),
            Fold("self_attn.q_a_layernorm", ("self_attn.q_b_proj",)),
            Fold("self_attn.kv_a_layernorm", ("self_attn.kv_b_proj",)),
            DOWN, EXPERTS,
        ),
    ),
}  # fmt: skip
ROUTERS = (".mlp.gate.weight", ".shared_expert_gate.weight", ".block_sparse_moe.gate.weight")


@dataclass
class Model:
    """A model, its folded twin, and what was folded."""

    config: dict[str, Any]
    reference: dict[str, Tensor]
    folded: dict[str, Tensor] = field(default_factory=dict)
    groups: dict[str, tuple[tuple[str, ...], Fold]] = field(default_factory=dict)

    @property
    def linears(self) -> list[str]:
        """Weights that a checkpoint holds as codes."""
        return [
            name
            for name, tensor in self.reference.items()
            if tensor.dim() > 1 and ".layers." in name and not name.endswith(ROUTERS)
        ]


def build(architecture: Architecture, folder: Path, seed: int = 0) -> Model:
    """A random model with norms that are not all one, folded."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(seed)
    config = AutoConfig.for_model(architecture.model_type, **architecture.config)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    reference = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in reference.items():
        if tensor.dim() == 1:
            noise = torch.randn(tensor.shape, generator=generator) * 0.2
            reference[name] = (tensor.float() + noise).to(tensor.dtype)
        elif ".layers." in name:
            reference[name] = (tensor.float() * 4).to(tensor.dtype)
    if architecture.fuse_experts:
        reference = fuse_experts(reference)
    model = Model(json.loads((folder / "config.json").read_text()), reference)
    model.folded = {name: tensor.float() for name, tensor in reference.items()}
    for fold in architecture.folds:
        apply(model, fold, architecture.offset, generator)
    return model


def fuse_experts(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Experts as transformers 5 holds them: one tensor for all gates and ups, one for all downs."""
    fused = {name: tensor for name, tensor in state.items() if ".experts." not in name}
    for prefix in sorted({name.partition(".experts.")[0] for name in state if ".experts." in name}):
        experts = range(1 + max(int(name.split(".experts.")[1].split(".")[0]) for name in state if prefix in name
                                and ".experts." in name))  # fmt: skip
        each = [[state[f"{prefix}.experts.{e}.{leaf}_proj.weight"] for leaf in ("gate", "up", "down")] for e in experts]
        fused[f"{prefix}.experts.gate_up_proj"] = torch.stack([torch.cat([gate, up]) for gate, up, _ in each])
        fused[f"{prefix}.experts.down_proj"] = torch.stack([down for _, _, down in each])
    return fused


def tensor_name(prefix: str, module: str, state: dict[str, Tensor]) -> str | None:
    """The tensor of a module, which is a parameter itself where experts are fused."""
    return next((name for name in (f"{prefix}{module}.weight", f"{prefix}{module}") if name in state), None)


def apply(model: Model, fold: Fold, offset: int, generator: torch.Generator) -> None:
    """Divide a source by a random factor and multiply its targets by it, in float32, wherever both are."""
    state = model.folded
    for prefix in sorted({match[0] for name in state if (match := re.match(r".*?layers\.\d+\.", name))}):
        for expert in range(8) if "*" in fold.source else [0]:
            source = tensor_name(prefix, fold.source.replace("*", str(expert)), state)
            names = [tensor_name(prefix, target.replace("*", str(expert)), state) for target in fold.targets]
            targets = [name for name in names if name is not None]
            if source is None or not targets:
                continue
            weight = state[source]
            start, count = fold.rows or (0, weight.shape[-2] if weight.dim() > 1 else weight.numel())
            parts = weight.shape[:1] if weight.dim() == 3 else ()
            factor = torch.exp(torch.randn(*parts, count, generator=generator) * 0.7)
            if weight.dim() == 1:
                state[source] = (offset + weight) / factor - offset
                if (bias := source.removesuffix(".weight") + ".bias") in state:
                    state[bias] = state[bias] / factor
            else:
                rows = torch.ones(weight.shape[:-1])
                rows[..., start : start + count] = factor
                state[source] = weight / rows[..., None]
                if (bias := source.removesuffix(".weight") + ".bias") in state:
                    state[bias] = state[bias] / rows
                if fold.repeats > 1:
                    factor = factor.view(-1, HEAD).repeat_interleave(fold.repeats, dim=0).flatten()
            for target in targets:
                state[target] = state[target] * (factor if factor.dim() == 1 else factor[:, None, :])
            model.groups[source] = (tuple(targets), fold)


ARGS = {"num_bits": 8, "type": "int", "symmetric": True, "group_size": None, "observer": "minmax"}
QUANTIZATION = {
    "quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed",
    "kv_cache_scheme": None,
    "config_groups": {
        "group_0": {
            "targets": ["Linear"], "output_activations": None,
            "weights": {**ARGS, "strategy": "channel", "dynamic": False},
            "input_activations": {**ARGS, "strategy": "token", "dynamic": True},
        }
    },
}  # fmt: skip


def quantized_state(model: Model) -> dict[str, Tensor]:
    """The folded model in bfloat16, its linears rounded to int8 with one bfloat16 scale per output channel."""
    state = {}
    for name, tensor in model.folded.items():
        weight = tensor.to(torch.bfloat16)
        if name in model.linears:
            scale = (weight.float().abs().amax(dim=-1, keepdim=True) / 127).to(torch.bfloat16)
            state[name] = (weight.float() / scale.float()).round().clamp(-128, 127).to(torch.int8)
            state[f"{name}_scale"] = scale
        else:
            state[name] = weight
    return state


def write(folder: Path, state: dict[str, Tensor], config: dict[str, Any], num_shards: int) -> Path:
    """A sharded checkpoint; shards take every n-th tensor."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(state)
    files = {name: f"model-{index % num_shards}.safetensors" for index, name in enumerate(names)}
    for file in sorted(set(files.values())):
        shard = {name: state[name].contiguous() for name in names if files[name] == file}
        save_file(shard, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_pair(model: Model, folder: Path) -> tuple[Path, Path]:
    """Both checkpoints, sharded differently."""
    quantization = {**QUANTIZATION, "ignore": ["lm_head"]}
    return (
        write(folder / "reference", model.reference, model.config, 2),
        write(folder / "quantized", quantized_state(model), {**model.config, "quantization_config": quantization}, 3),
    )


def logits(config: dict[str, Any], state: dict[str, Tensor], folder: Path) -> Tensor:
    """What a checkpoint in float32 computes."""
    from transformers import AutoModelForCausalLM

    write(folder, state, {**config, "dtype": "float32"}, 1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        found: Tensor = model(torch.arange(24)[None] % VOCAB).logits
    return found
