"""A checkpoint pair of random weights in the shapes of a real model, smoothed and rounded to int8.

    python bench/synthetic_pair.py --shape 0.5b --out .cache/bench

``0.5b`` and ``1.5b`` have every tensor of Qwen2.5-0.5B and -1.5B. ``32b`` is a stand-in: the embedding and the head
of Qwen2.5-32B, sparse on disk, and two of its layers. Written tensor by tensor, without torch.
"""

import argparse
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Shape:
    """Sizes of a Qwen2.5."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head: int = 64
    vocab: int = 151936
    tied: bool = True
    sparse_ends: bool = False


SHAPES = {
    "0.5b": Shape(896, 4864, 24, 14, 2),
    "1.5b": Shape(1536, 8960, 28, 12, 2, head=128),
    "32b": Shape(5120, 27648, 2, 40, 8, head=128, vocab=152064, tied=False, sparse_ends=True),
}
ARGS = {"num_bits": 8, "type": "int", "symmetric": True}
QUANTIZATION = {
    "quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {**ARGS, "strategy": "channel", "dynamic": False},
            "input_activations": {**ARGS, "strategy": "token", "dynamic": True},
        }
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder that gets SHAPE/reference and SHAPE/quantized")
    args = parser.parse_args()
    make_pair(SHAPES[args.shape], args.out / args.shape)


def config(shape: Shape) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "vocab_size": shape.vocab,
        "tie_word_embeddings": shape.tied, "torch_dtype": "bfloat16", "max_position_embeddings": 32768,
    }  # fmt: skip


class Writer:
    """One safetensors file whose header is made before its bytes are."""

    def __init__(self, path: Path, entries: dict[str, tuple[str, list[int], int]]) -> None:
        header, offset = {}, 0
        for name, (dtype, sizes, num_bytes) in entries.items():
            header[name] = {"dtype": dtype, "shape": sizes, "data_offsets": [offset, offset + num_bytes]}
            offset += num_bytes
        text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
        text += b" " * (-len(text) % 8)
        self._start = {name: 8 + len(text) + entry["data_offsets"][0] for name, entry in header.items()}
        self._file = path.open("w+b")
        self._file.write(struct.pack("<Q", len(text)) + text)
        self._file.truncate(8 + len(text) + offset)

    def put(self, name: str, data: NDArray[Any]) -> None:
        """Write a tensor at its place."""
        self._file.seek(self._start[name])
        self._file.write(data.tobytes())

    def close(self) -> None:
        """Tensors that were not put are zeros that take no space."""
        self._file.close()


def bfloat16(values: Floats) -> NDArray[np.uint16]:
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def wide(values: NDArray[np.uint16]) -> Floats:
    return (values.astype(np.uint32) << 16).view(np.float32)


def shapes(shape: Shape) -> dict[str, list[int]]:
    """Every tensor of the bf16 checkpoint."""
    q, kv, hidden, inner = shape.heads * shape.head, shape.kv_heads * shape.head, shape.hidden, shape.intermediate
    found = {"model.embed_tokens.weight": [shape.vocab, hidden], "model.norm.weight": [hidden]}
    if not shape.tied:
        found["lm_head.weight"] = [shape.vocab, hidden]
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        found |= {f"{prefix}{norm}.weight": [hidden] for norm in ("input_layernorm", "post_attention_layernorm")}
        found |= {f"{prefix}self_attn.{n}_proj.bias": [size] for n, size in (("q", q), ("k", kv), ("v", kv))}
        found |= {
            f"{prefix}self_attn.q_proj.weight": [q, hidden], f"{prefix}self_attn.k_proj.weight": [kv, hidden],
            f"{prefix}self_attn.v_proj.weight": [kv, hidden], f"{prefix}self_attn.o_proj.weight": [hidden, q],
            f"{prefix}mlp.gate_proj.weight": [inner, hidden], f"{prefix}mlp.up_proj.weight": [inner, hidden],
            f"{prefix}mlp.down_proj.weight": [hidden, inner],
        }  # fmt: skip
    return found


def make_pair(shape: Shape, folder: Path) -> tuple[Path, Path]:
    """Write the pair, unless it is there."""
    reference, quantized = folder / "reference", folder / "quantized"
    if (quantized / "config.json").exists():
        return reference, quantized
    reference.mkdir(parents=True, exist_ok=True)
    quantized.mkdir(parents=True, exist_ok=True)
    sizes = shapes(shape)
    low: dict[str, tuple[str, list[int], int]] = {}
    for name, size in sizes.items():
        if name.endswith("_proj.weight"):
            low[name] = ("I8", size, size[0] * size[1])
            low[f"{name}_scale"] = ("BF16", [size[0], 1], 2 * size[0])
        else:
            low[name] = ("BF16", size, 2 * int(np.prod(size)))
    ours = Writer(
        reference / "model.safetensors", {n: ("BF16", size, 2 * int(np.prod(size))) for n, size in sizes.items()}
    )
    theirs = Writer(quantized / "model.safetensors", low)
    rng = np.random.default_rng(0)

    def both(name: str, mean: float, deviation: float) -> None:
        rows = rng.standard_normal(sizes[name], np.float32)
        data = bfloat16(rows * np.float32(deviation) + np.float32(mean))
        ours.put(name, data)
        theirs.put(name, data)

    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in sizes and not shape.sparse_ends:
            both(name, 0, 0.02)
    both("model.norm.weight", 1, 0.1)
    for layer in range(shape.layers):
        prefix = f"model.layers.{layer}."
        for bias in ("q", "k", "v"):
            both(f"{prefix}self_attn.{bias}_proj.bias", 0, 0.1)
        write_layer(prefix, sizes, rng, ours.put, theirs.put)
    ours.close()
    theirs.close()
    (reference / "config.json").write_text(json.dumps(config(shape)))
    (quantized / "config.json").write_text(json.dumps({**config(shape), "quantization_config": QUANTIZATION}))
    return reference, quantized


Put = Callable[[str, NDArray[Any]], None]


def write_layer(prefix: str, sizes: dict[str, list[int]], rng: np.random.Generator, ours: Put, theirs: Put) -> None:
    """Norms divided by a factor, linears multiplied by it, up_proj into down_proj too; then rounded."""
    factors: dict[str, Floats] = {}
    for norm in ("input_layernorm", "post_attention_layernorm"):
        name = f"{prefix}{norm}.weight"
        factors[norm] = np.exp(rng.standard_normal(sizes[name], np.float32) * np.float32(0.7))
        weight = bfloat16(1 + rng.standard_normal(sizes[name], np.float32) * np.float32(0.1))
        quotient = bfloat16(wide(weight) / factors[norm])
        factors[norm] = wide(weight) / wide(quotient)  # what the norm really holds
        ours(name, weight)
        theirs(name, quotient)
    factors["up"] = np.exp(rng.standard_normal(sizes[f"{prefix}mlp.up_proj.weight"][:1], np.float32) * np.float32(0.5))
    fed = {"q": "input_layernorm", "k": "input_layernorm", "v": "input_layernorm", "gate": "post_attention_layernorm",
           "up": "post_attention_layernorm", "down": "up"}  # fmt: skip
    for module in ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "mlp.gate", "mlp.up", "mlp.down"):
        name, leaf = f"{prefix}{module}_proj.weight", module.partition(".")[2]
        weight = bfloat16(rng.standard_normal(sizes[name], np.float32) * np.float32(0.02))
        ours(name, weight)
        smooth = wide(weight)
        if leaf in fed:
            smooth *= factors[fed[leaf]]
        if leaf == "up":
            smooth /= factors["up"][:, None]
        scale = bfloat16(np.abs(smooth).max(axis=1, keepdims=True) / 127)
        smooth /= wide(scale)
        theirs(name, np.clip(np.rint(smooth, out=smooth), -128, 127).astype(np.int8))
        theirs(f"{name}_scale", scale)


if __name__ == "__main__":
    main()
