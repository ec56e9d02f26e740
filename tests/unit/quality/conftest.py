"""Tiny random models with a tokenizer, as transformers saves them, and text for them."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from flashrl_registry.checkpoints import read_checkpoint
from flashrl_registry.documents import (
    Profile,
    QuantizedCheckpoint,
    Sidecar,
    SmoothingGroup,
    TensorFamily,
    base_model_info,
    write_document,
)
from flashrl_registry.documents.quantization import INT8_ACTIVATIONS, INT8_WEIGHTS

HIDDEN, LAYERS = 128, 2
COMMON: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
    "num_key_value_heads": 4, "head_dim": 32, "max_position_embeddings": 128, "initializer_range": 0.06,
}  # fmt: skip
OUTLIER = 7
"""Channel that the second layer's attention reads fifty times as large."""


def save_model(folder: Path, model_type: str, **config: Any) -> Path:
    """A random model; the second layer's attention has an outlier channel in its inputs."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **COMMON, **config), dtype=torch.bfloat16)
    with torch.no_grad():
        made.model.layers[1].input_layernorm.weight[OUTLIER] = 50.0
        for leaf in "qkv":  # it says no more than other channels
            made.model.layers[1].self_attn.get_submodule(f"{leaf}_proj").weight[:, OUTLIER] /= 50.0
    made.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(64)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads cost more than they save on matrices this small, and others run beside this."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense model, all of whose linears hold whole blocks of 128."""
    return save_model(tmp_path_factory.mktemp("llama"), "llama", intermediate_size=256, tie_word_embeddings=True)


@pytest.fixture(scope="session")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of experts, whose checkpoint names experts one by one."""
    return save_model(
        tmp_path_factory.mktemp("mixture"), "qwen3_moe", intermediate_size=256, moe_intermediate_size=64, num_experts=4,
        num_experts_per_tok=2, decoder_sparse_step=1, mlp_only_layers=[], tie_word_embeddings=False,
    )  # fmt: skip


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hundred words that the tokenizer knows."""
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(1, 64, (200,), generator=generator).tolist()
    file = tmp_path_factory.mktemp("text") / "words.txt"
    file.write_text(" ".join(f"w{word}" for word in words))
    return file


@pytest.fixture(scope="session")
def smoothing(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile of the dense model: norms into q, k, v, and up into down; the outlier is smoothed away."""
    inventory = read_checkpoint(llama).inventory
    generator = torch.Generator().manual_seed(2)
    vectors, groups = {}, []
    for layer in range(LAYERS):
        base = f"model.layers.{layer}"
        sources = {
            f"{base}.input_layernorm.weight": [f"{base}.self_attn.{leaf}_proj.weight" for leaf in "qkv"],
            f"{base}.mlp.up_proj.weight": [f"{base}.mlp.down_proj.weight"],
        }
        for source, targets in sources.items():
            size = HIDDEN if "norm" in source else 256
            vector = 0.5 + torch.rand(size, generator=generator)
            if layer == 1 and "norm" in source:
                vector[OUTLIER] = 0.02
            vectors[f"inv_smoothing/{source}"] = vector
            kind = "norm" if "norm" in source else "linear"
            numbers = {"smallest": float(vector.min()), "largest": float(vector.max())}
            groups.append(SmoothingGroup(source=source, kind=kind, targets=targets, **numbers))  # type: ignore[arg-type]
    folder = tmp_path_factory.mktemp("profile")
    save_file(vectors, folder / "vectors")
    data = (folder / "vectors").read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    (folder / "vectors").rename(folder / f"{digest}.safetensors")
    made = Profile(
        scheme="int8",
        reference=base_model_info(inventory),
        quantized=QuantizedCheckpoint(
            name="twin", format="int-quantized", weights=INT8_WEIGHTS, input_activations=INT8_ACTIVATIONS
        ),
        sidecar=Sidecar(digest="sha256:" + digest, num_bytes=len(data)),
        tensors=[
            TensorFamily(
                names=tensor.name, shape=tensor.shape, dtype=tensor.dtype,
                role="quantized" if "_proj." in tensor.name else "unchanged",
            )
            for tensor in inventory.tensors
        ],
        smoothing=groups,
        linears=[],
    )  # fmt: skip
    write_document(made.model_copy(update={"digest": made.compute_digest()}), folder / "profile.yaml")
    return folder
