"""CPU time to compile and lower a plan for a Qwen3-235B-A22B-shaped checkpoint, per scheme, on one core.

    python bench/compile_235b.py

The checkpoint is a shard index and headers, written by this script: names and shapes of the 36,945 tensors, no
weights. Measured are process times of one thread: from the scheme's name to the sealed plan, and from plan and
environment to the sealed resolved plan. Reading the headers is shown beside them. Exits with 1 where compile + lower
of a scheme takes longer than the limit.
"""

import argparse
import gc
import json
import math
import os
import platform
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from flashrl_registry.checkpoints import read_checkpoint
from flashrl_registry.compiler import PRESETS, compile_plan, lower, preset_rules
from flashrl_registry.documents import (
    Environment,
    Inventory,
    Plan,
    Profile,
    QuantizedCheckpoint,
    SchemeName,
    Sidecar,
    SmoothingGroup,
    TensorFamily,
    base_model_info,
)
from flashrl_registry.documents.quantization import INT8_ACTIVATIONS, INT8_WEIGHTS

LIMIT_SECONDS = 5.0
LAYERS, HIDDEN, VOCAB, EXPERTS, EXPERT_WIDTH = 94, 4096, 151_936, 128, 1536
HEADS, KV_HEADS, HEAD_DIM = 64, 4, 128
NUM_SHARDS = 118
CONFIG = {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "tie_word_embeddings": False}
T = TypeVar("T")


def shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes as in the published files."""
    result: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCAB, HIDDEN), "lm_head.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)
    }  # fmt: skip
    for index in range(LAYERS):
        layer = f"model.layers.{index}"
        result |= {
            f"{layer}.input_layernorm.weight": (HIDDEN,),
            f"{layer}.post_attention_layernorm.weight": (HIDDEN,),
            f"{layer}.self_attn.q_proj.weight": (HEADS * HEAD_DIM, HIDDEN),
            f"{layer}.self_attn.k_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
            f"{layer}.self_attn.v_proj.weight": (KV_HEADS * HEAD_DIM, HIDDEN),
            f"{layer}.self_attn.o_proj.weight": (HIDDEN, HEADS * HEAD_DIM),
            f"{layer}.self_attn.q_norm.weight": (HEAD_DIM,),
            f"{layer}.self_attn.k_norm.weight": (HEAD_DIM,),
            f"{layer}.mlp.gate.weight": (EXPERTS, HIDDEN),
        }
        for expert in range(EXPERTS):
            module = f"{layer}.mlp.experts.{expert}"
            result[f"{module}.gate_proj.weight"] = result[f"{module}.up_proj.weight"] = (EXPERT_WIDTH, HIDDEN)
            result[f"{module}.down_proj.weight"] = (HIDDEN, EXPERT_WIDTH)
    return result


def write_headers(folder: Path) -> int:
    """A sharded checkpoint whose files are sparse; the number of its parameters."""
    tensors = shapes()
    names = list(tensors)
    per_shard = -(-len(names) // NUM_SHARDS)
    weight_map = {}
    for shard in range(NUM_SHARDS):
        file = f"model-{shard + 1:05}-of-{NUM_SHARDS:05}.safetensors"
        header, offset = {}, 0
        for name in names[shard * per_shard : (shard + 1) * per_shard]:
            end = offset + 2 * math.prod(tensors[name])
            header[name] = {"dtype": "BF16", "shape": list(tensors[name]), "data_offsets": [offset, end]}
            offset, weight_map[name] = end, file
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as handle:
            handle.write(struct.pack("<Q", len(text)) + text)
            handle.truncate(8 + len(text) + offset)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return sum(math.prod(shape) for shape in tensors.values())


def made_up_profile(inventory: Inventory, plan: Plan) -> Profile:
    """What a measured pair would give, for time alone: every norm before linears has a factor. No vectors exist."""
    groups = []
    for index in range(LAYERS):
        layer = f"model.layers.{index}"
        attention = [f"{layer}.self_attn.{leaf}.weight" for leaf in ("q_proj", "k_proj", "v_proj")]
        experts = [
            f"{layer}.mlp.experts.{expert}.{leaf}.weight"
            for expert in range(EXPERTS)
            for leaf in ("gate_proj", "up_proj")
        ]
        for norm, targets in (("input_layernorm", attention), ("post_attention_layernorm", experts)):
            source = f"{layer}.{norm}.weight"
            groups.append(SmoothingGroup(source=source, kind="norm", targets=targets, smallest=0.5, largest=2.0))
    roles = {"int8": "quantized", "keep": "unchanged"}
    profile = Profile(
        scheme="int8",
        reference=base_model_info(inventory),
        quantized=QuantizedCheckpoint(
            name="made up", format="int-quantized", weights=INT8_WEIGHTS, input_activations=INT8_ACTIVATIONS
        ),
        sidecar=Sidecar(digest="sha256:" + "0" * 64, num_bytes=8),
        tensors=[
            TensorFamily(
                names=family.names, shape=family.shape, dtype=family.dtype,
                role="rescaled" if "_layernorm" in family.names else roles[family.treatment],  # type: ignore[arg-type]
            )
            for family in plan.tensors
        ],
        smoothing=groups,
        linears=[],
    )  # fmt: skip
    return profile.model_copy(update={"digest": profile.compute_digest()})


def cpu(work: Callable[[], T]) -> tuple[T, float]:
    """A result and the CPU seconds of this process that it took."""
    gc.collect()
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--limit", type=float, default=LIMIT_SECONDS, help="CPU seconds for compile + lower")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as scratch:
        num_parameters = write_headers(Path(scratch))
        index, seconds = cpu(lambda: read_checkpoint(Path(scratch), "Qwen/Qwen3-235B-A22B"))
    inventory = index.inventory
    print(f"{len(inventory.tensors):,} tensors, {num_parameters:,} parameters, {platform.machine()}, one core")
    print(f"headers read in {seconds:.2f} s; limit {args.limit:g} s CPU for compile + lower\n")
    print(f"{'scheme':<20} {'compile':>8} {'lower':>8} {'sum':>8}")
    profile = made_up_profile(inventory, compile_plan(preset_rules("int8", inventory), inventory).plan)
    # Pruning has nothing to do without a profile, and vLLM's experts do not take one scale per tensor.
    cases = [(scheme, None) for scheme in PRESETS if scheme not in {"int8_prune", "fp8_tensor"}]
    slowest = 0.0
    for scheme, given in [*cases, ("int8", profile), ("int8_prune", profile)]:
        total = measure(scheme, inventory, given, args.limit)
        slowest = max(slowest, total)
    return 1 if slowest > args.limit else 0


def measure(scheme: SchemeName, inventory: Inventory, profile: Profile | None, limit: float) -> float:
    """Print one scheme's line; its seconds."""
    compiled, compile_seconds = cpu(lambda: compile_plan(preset_rules(scheme, inventory, profile), inventory, profile))
    environment = Environment(vllm="0.32.0", device="cuda", tensor_parallel_size=4)
    _, lower_seconds = cpu(lambda: lower(compiled.plan, environment))
    total = compile_seconds + lower_seconds
    label = scheme + (", profile" if profile else "")
    print(f"{label:<20} {compile_seconds:>8.2f} {lower_seconds:>8.2f} {total:>8.2f}{'  OVER' * (total > limit)}")
    return total


if __name__ == "__main__":
    sys.exit(main())
