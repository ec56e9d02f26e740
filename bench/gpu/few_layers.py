"""Shapes of large models with few layers, for benchmarks that compare formats and not models.

Importing this module makes them known: ``32b-4`` is Qwen2.5-32B with 4 layers, ``30b-a3b-4`` Qwen3-30B-A3B with 4.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from shapes import SHAPES, Shape


@dataclass(frozen=True)
class Experts(Shape):
    """Sizes of a Qwen3 mixture of experts; ``mlp`` is an expert's."""

    experts: int
    head: int

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes, layer by layer."""
        made: dict[str, tuple[int, ...]] = {}
        for name, shape in super().tensors().items():
            base, _, leaf = name.rpartition(".mlp.")
            if name.endswith(".bias"):
                continue
            if not base:
                made[name] = self.attention(name) or shape
                continue
            made |= {f"{base}.mlp.experts.{index}.{leaf}": shape for index in range(self.experts)}
            if leaf == "down_proj.weight":
                made[f"{base}.mlp.gate.weight"] = (self.experts, self.hidden)
                made |= {f"{base}.self_attn.{name}_norm.weight": (self.head,) for name in ("q", "k")}
        return made

    def attention(self, name: str) -> tuple[int, ...] | None:
        """Heads need not fill the hidden size."""
        rows = {"q_proj": self.heads, "k_proj": self.kv_heads, "v_proj": self.kv_heads}
        leaf = name.split(".")[-2]
        if leaf == "o_proj":
            return (self.hidden, self.heads * self.head)
        return (rows[leaf] * self.head, self.hidden) if leaf in rows else None

    def write(self, folder: Path) -> Path:
        """As other shapes, with the configuration of a mixture of experts."""
        super().write(folder)
        config = json.loads((folder / "config.json").read_text())
        config |= {
            "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "head_dim": self.head,
            "num_experts": self.experts, "num_experts_per_tok": 8, "moe_intermediate_size": self.mlp,
            "decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True, "attention_bias": False,
        }  # fmt: skip
        (folder / "config.json").write_text(json.dumps(config))
        return folder


SHAPES |= {"32b-4": Shape(5120, 4, 40, 8, 27648), "30b-a3b-4": Experts(2048, 4, 32, 4, 768, experts=128, head=128)}
