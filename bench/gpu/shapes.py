"""Models of real shapes without weights, and what the benchmarks of this folder share.

A model is a folder with ``config.json`` and the header of a safetensors file whose data is a hole: plans are compiled
from names and shapes, and vLLM starts with ``load_format="dummy"``.
"""

import argparse
import datetime
import importlib.metadata
import json
import math
import os
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VOCAB = 152_064
_INT8 = {"num_bits": 8, "type": "int", "symmetric": True}
# vLLM's own words for what llm-compressor writes as W8A8.
W8A8: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": _INT8 | {"strategy": "channel", "dynamic": False},
            "input_activations": _INT8 | {"strategy": "token", "dynamic": True},
        }
    },
}
NATIVE: dict[str, dict[str, Any]] = {
    "vLLM bf16": {},
    "vLLM fp8": {"quantization": "fp8"},
    "vLLM fp8_per_channel": {"quantization": "fp8_per_channel"},
    "vLLM W8A8": {"hf_overrides": {"quantization_config": W8A8}},
}
"""Engine arguments of what vLLM does by itself."""
OF_PLAN = {
    "bf16": "vLLM bf16",
    "fp8": "vLLM fp8",
    "fp8_tensor": "vLLM fp8",
    "fp8_channel": "vLLM fp8_per_channel",
    "fp8_block": "vLLM fp8_per_channel",
    "int8": "vLLM W8A8",
}
"""What vLLM does by itself that is nearest to a plan."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a dense Qwen2 model."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    mlp: int

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes, layer by layer."""
        head = self.hidden // self.heads
        made: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, self.hidden)}
        for index in range(self.layers):
            base = f"model.layers.{index}"
            for name, rows in (("q", self.heads), ("k", self.kv_heads), ("v", self.kv_heads)):
                made[f"{base}.self_attn.{name}_proj.weight"] = (rows * head, self.hidden)
                made[f"{base}.self_attn.{name}_proj.bias"] = (rows * head,)
            made |= {
                f"{base}.self_attn.o_proj.weight": (self.hidden, self.hidden),
                f"{base}.mlp.gate_proj.weight": (self.mlp, self.hidden),
                f"{base}.mlp.up_proj.weight": (self.mlp, self.hidden),
                f"{base}.mlp.down_proj.weight": (self.hidden, self.mlp),
                f"{base}.input_layernorm.weight": (self.hidden,),
                f"{base}.post_attention_layernorm.weight": (self.hidden,),
            }
        return made | {"model.norm.weight": (self.hidden,), "lm_head.weight": (VOCAB, self.hidden)}

    def write(self, folder: Path) -> Path:
        """Write a model folder; its file is sparse."""
        folder.mkdir(parents=True, exist_ok=True)
        header, offset = {}, 0
        for name, shape in self.tensors().items():
            end = offset + 2 * math.prod(shape)
            header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(header).encode()
        with (folder / "model.safetensors").open("wb") as handle:
            handle.write(struct.pack("<Q", len(text)) + text)
            handle.truncate(8 + len(text) + offset)
        config = {
            "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": self.hidden,
            "num_hidden_layers": self.layers, "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.mlp, "vocab_size": VOCAB, "max_position_embeddings": 32768,
            "max_window_layers": self.layers, "use_sliding_window": False, "rms_norm_eps": 1e-6, "hidden_act": "silu",
            "rope_theta": 1e6, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "bos_token_id": 151643,
            "eos_token_id": 151645,
        }  # fmt: skip
        (folder / "config.json").write_text(json.dumps(config))
        return folder


SHAPES = {
    "tiny": Shape(256, 2, 4, 2, 384),
    "7b": Shape(3584, 28, 28, 4, 18944),
    "14b": Shape(5120, 48, 40, 8, 13824),
    "32b": Shape(5120, 64, 40, 8, 27648),
}


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """Options that every script has."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--json", type=Path, help="where to write all figures")
    parser.add_argument("--baseline", type=Path, help="an earlier file of the same GPU, to compare with")
    parser.add_argument("--only", default="", help="engines whose name holds this, of several with commas")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # an engine in a process of its own: arguments as JSON
    return parser


def machine() -> dict[str, Any]:
    """Device, versions, date; says so."""
    # Asked for in another process: a CUDA context here would take memory from the engines.
    ask = "import torch; print(torch.cuda.get_device_name())"
    device = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    versions = {name: importlib.metadata.version(name) for name in ("torch", "triton", "vllm", "flashrl-registry")}
    report = {
        "device": device,
        "versions": versions,
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "rows": [],
    }
    print(report["device"], versions, report["date"], flush=True)
    return report


def chosen(names: list[str], only: str) -> list[str]:
    return [name for name in names if any(part in name for part in only.split(","))]


def in_a_process_of_its_own(
    script: str, given: dict[str, Any], *, seconds: float, core_inside: bool = False
) -> dict[str, Any]:
    """Run ``script --one`` and return what it wrote; an engine that fails ends the benchmark with its log.

    Args:
        script: The benchmark.
        given: What the engine is, for its process.
        seconds: It is given up after that.
        core_inside: The engine's core lives in that process, too, and not in one below it.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        environ = {**os.environ, "VLLM_CACHE_ROOT": folder}
        if core_inside:
            environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        environ.pop("FLASHRL_CONFIG", None)
        if given["engine"] not in NATIVE:
            environ["FLASHRL_CONFIG"] = given["engine"]
        command = [sys.executable, script, "--one", json.dumps({**given, "out": str(out)})]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=seconds)
        if done.returncode != 0:
            print("\n".join((done.stdout + done.stderr).splitlines()[-30:]), flush=True)
            sys.exit(f"{given['engine']} on {given['shape']}: exit {done.returncode}")
        result: dict[str, Any] = json.loads(out.read_text())
        return result


def finish(report: dict[str, Any], given: argparse.Namespace, figure: str) -> None:
    """Write the report, and compare it with one of the same GPU."""
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(report, indent=1) + "\n")
    if not given.baseline:
        return
    before = json.loads(given.baseline.read_text())
    if before["device"] != report["device"]:
        sys.exit(f"{given.baseline} was measured on {before['device']}, this is {report['device']}: not compared")
    known = {(row["shape"], row["engine"]): row[figure] for row in before["rows"]}
    for row in report["rows"]:
        if old := known.get((row["shape"], row["engine"])):
            print(f"{row['shape']} {row['engine']}: {figure} {row[figure] / old:.3f} of the earlier one")
