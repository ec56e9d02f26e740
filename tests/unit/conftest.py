"""A toy model and its documents, without torch: checkpoints are headers and zeros."""

import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from flashrl_registry.checkpoints import read_checkpoint
from flashrl_registry.compiler import compile_plan, preset_rules
from flashrl_registry.documents import (
    Inventory,
    Plan,
    Profile,
    QuantizedCheckpoint,
    Sidecar,
    SmoothingGroup,
    TensorFamily,
    base_model_info,
)
from flashrl_registry.documents.quantization import INT8_ACTIVATIONS, INT8_WEIGHTS
from flashrl_registry.registry import PlanBundle, read_bundle, write_bundle

HIDDEN, MLP, KV, VOCAB = 16, 24, 8, 32
LINEARS = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KV, HIDDEN),
    "self_attn.v_proj": (KV, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (MLP, HIDDEN),
    "mlp.up_proj": (MLP, HIDDEN),
    "mlp.down_proj": (HIDDEN, MLP),
}
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": True}


def toy_shapes(num_layers: int = 2) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for layer in range(num_layers):
        base = f"model.layers.{layer}"
        for name, shape in LINEARS.items():
            shapes[f"{base}.{name}.weight"] = shape
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"{base}.{norm}.weight"] = (HIDDEN,)
    return shapes


def safetensors_bytes(shapes: Mapping[str, tuple[int, ...]], dtype: str = "BF16") -> bytes:
    """A safetensors file with zeros for weights."""
    width = {"BF16": 2, "F32": 4, "I8": 1}[dtype]
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = width
        for dim in shape:
            size *= dim
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(offset)


@pytest.fixture
def toy() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the toy model."""
    return toy_shapes()


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Write a checkpoint folder; the toy model's tensors unless others are given."""

    def make(
        name: str = "toy", shapes: Mapping[str, tuple[int, ...]] | None = None, dtype: str = "BF16", **config: object
    ) -> Path:
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
        (folder / "model.safetensors").write_bytes(safetensors_bytes(shapes or toy_shapes(), dtype))
        return folder

    return make


@pytest.fixture
def checkpoint(make_checkpoint: Callable[..., Path]) -> Path:
    """The toy model on disk."""
    return make_checkpoint()


@pytest.fixture
def inventory(checkpoint: Path) -> Inventory:
    """Names and shapes of the toy model."""
    return read_checkpoint(checkpoint).inventory


@pytest.fixture
def sidecar_file(tmp_path: Path) -> Path:
    """Vectors of the toy profile; their content is nobody's business here, their digest is."""
    data = b"vectors of the toy profile"
    folder = tmp_path / "profile"
    folder.mkdir()
    file = folder / f"{hashlib.sha256(data).hexdigest()}.safetensors"
    file.write_bytes(data)
    return file


@pytest.fixture
def profile(inventory: Inventory, sidecar_file: Path) -> Profile:
    """A profile of the toy model: norms into q, k, v and gate, up; up into down."""
    data = sidecar_file.read_bytes()
    numbers = {"smallest": 0.5, "largest": 2.0}
    groups = []
    for layer in range(2):
        base = f"model.layers.{layer}"
        attention = [f"{base}.self_attn.{leaf}.weight" for leaf in ("q_proj", "k_proj", "v_proj")]
        up, down = f"{base}.mlp.up_proj.weight", f"{base}.mlp.down_proj.weight"
        groups += [
            SmoothingGroup(source=f"{base}.input_layernorm.weight", kind="norm", targets=attention, **numbers),
            SmoothingGroup(source=up, kind="linear", targets=[down], **numbers),
            SmoothingGroup(
                source=f"{base}.post_attention_layernorm.weight",
                kind="norm",
                targets=[f"{base}.mlp.gate_proj.weight", up],
                **numbers,
            ),
        ]
    linear = [f"model.layers.{{0..1}}.{name}.weight" for name in LINEARS]
    shapes = toy_shapes()

    def family(names: str, role: str) -> TensorFamily:
        shape = list(shapes[names.replace("{0..1}", "0")])
        return TensorFamily(names=names, shape=shape, dtype="bfloat16", role=role)  # type: ignore[arg-type]

    made = Profile(
        scheme="int8",
        reference=base_model_info(inventory),
        quantized=QuantizedCheckpoint(
            name="toy-w8a8", format="int-quantized", weights=INT8_WEIGHTS, input_activations=INT8_ACTIVATIONS
        ),
        sidecar=Sidecar(digest="sha256:" + hashlib.sha256(data).hexdigest(), num_bytes=len(data)),
        tensors=[
            family("model.embed_tokens.weight", "unchanged"),
            family("model.layers.{0..1}.input_layernorm.weight", "rescaled"),
            family("model.layers.{0..1}.post_attention_layernorm.weight", "rescaled"),
            *(family(names, "quantized") for names in linear),
            family("model.norm.weight", "unchanged"),
        ],
        smoothing=groups,
        linears=[],
    )
    return made.model_copy(update={"digest": made.compute_digest()})


@pytest.fixture
def plan(inventory: Inventory) -> Plan:
    """int8 without a profile."""
    return compile_plan(preset_rules("int8", inventory), inventory).plan


@pytest.fixture
def smoothed_plan(inventory: Inventory, profile: Profile) -> Plan:
    """int8 with the toy profile."""
    return compile_plan(preset_rules("int8", inventory, profile), inventory, profile).plan


@pytest.fixture
def bundle(tmp_path: Path, smoothed_plan: Plan, profile: Profile, sidecar_file: Path) -> PlanBundle:
    """A bundle with all its files, on disk."""
    write_bundle(tmp_path / "bundle", smoothed_plan, profile=profile, sidecar=sidecar_file)
    return read_bundle(tmp_path / "bundle")


@pytest.fixture
def other_bundle(tmp_path: Path, inventory: Inventory) -> PlanBundle:
    """Another plan of the same model: bf16."""
    write_bundle(tmp_path / "other", compile_plan(preset_rules("bf16", inventory), inventory).plan)
    return read_bundle(tmp_path / "other")
