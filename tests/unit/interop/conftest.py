"""Files that flash-llm-rl 1.0.3 itself wrote, and a tiny model pair that it profiled.

FlashRL is installed from its wheel into ``.cache/flashrl``, as ``bench/profile_vs_flashrl.py`` does and the Makefile
does beforehand: a folder that no Python starts from, so its hook is never written. Its modules run in one child
process, under an empty package in place of ``flash_rl``'s ``__init__``, which would configure logging and patch vLLM.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from flashrl_cli.app import run
from flashrl_registry.checkpoints import read_checkpoint
from flashrl_registry.documents import Inventory

ROOT = Path(__file__).parents[3]
HIDDEN, INTERMEDIATE, KV, VOCAB, LAYERS = 32, 48, 16, 20, 2
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": False, "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": VOCAB, "dtype": "bfloat16", "max_position_embeddings": 64,
}  # fmt: skip
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KV, HIDDEN),
    "self_attn.v_proj": (KV, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
    "mlp.up_proj": (INTERMEDIATE, HIDDEN),
    "mlp.down_proj": (HIDDEN, INTERMEDIATE),
}
UNTOUCHED = {"model.embed_tokens": (VOCAB, HIDDEN), "lm_head": (VOCAB, HIDDEN), "model.norm": (HIDDEN,)}
NORM_OF = {
    "self_attn.q_proj": "input_layernorm",
    "self_attn.k_proj": "input_layernorm",
    "self_attn.v_proj": "input_layernorm",
    "mlp.gate_proj": "post_attention_layernorm",
    "mlp.up_proj": "post_attention_layernorm",
}
INT8_ARGS = {"num_bits": 8, "type": "int", "symmetric": True}
FP8_ARGS = {"num_bits": 8, "type": "float", "symmetric": True}

FUNCTIONS = (
    "fp8", "fp8_fast", "fp8_vllm", "fp8_vllm_fast", "fp8_channel", "fp8_tensor", "int8", "int8_fast",
    "int8_wo_prune", "int8_prune",
)  # fmt: skip

CHILD = """
import importlib, json, sys, types
from dataclasses import asdict
from pathlib import Path
site, out, pairs, functions = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]), json.loads(sys.argv[4])
package = types.ModuleType("flash_rl")
package.__path__ = [str(site / "flash_rl")]
sys.modules["flash_rl"] = package
commands = importlib.import_module("flash_rl.commands")
configs = importlib.import_module("flash_rl.configs")
quantization = importlib.import_module("flash_rl.flash_quantization")
commands.setup_flashrl_env = lambda: None  # it writes into site-packages

def flashrl(*arguments):
    sys.argv = ["flashrl", *map(str, arguments)]
    commands.run()

for fn in functions:
    flashrl("setup", "-m", "org/model-quantized", "-p", "profiles/profile.pt", "--fn", fn, "-o", out / f"{fn}.yaml")
for fn in ("int8", "fp8_channel"):
    flashrl("setup", "-a", "-m", "org/model-quantized", "--fn", fn, "-o", out / "two.yaml")
flashrl("setup", "-m", "Q", "-o", out / "columns.yaml", "--fn", "int8", 'note="a b: c"', "steps=1e-5", "flag=True",
        'module_attribute_to_preserve=["workspace"]', "nothing=None", 'nested={"a": [1, 2.5]}')
try:
    flashrl("setup", "-a", "--fn", "bf16", "-o", out / "two.yaml")
except AssertionError as exc:
    (out / "bf16_appended.txt").write_text(str(exc))
import yaml
(out / "bf16.yaml").write_text(yaml.dump({"configs": [asdict(configs.get_default_config("bf16"))]}))
(out / "defaults.json").write_text(json.dumps({fn: asdict(configs.get_default_config(fn)) for fn in
                                               [*functions, "bf16"]}))
quantization.AutoTokenizer = types.SimpleNamespace(from_pretrained=lambda folder: None)  # loaded and never used
for name, (fn, reference, quantized) in pairs.items():
    flashrl("profile", "-m", reference, "-q", quantized, "-o", out / f"{name}.pt", "--fn", fn)
"""


def bench() -> ModuleType:
    """The benchmark, which knows how FlashRL is installed."""
    spec = importlib.util.spec_from_file_location("profile_vs_flashrl", ROOT / "bench" / "profile_vs_flashrl.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def random(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator).to(torch.bfloat16)


def make_pair(folder: Path, *, smooth: bool = True, scale_dtype: torch.dtype = torch.bfloat16) -> tuple[Path, Path]:
    """A Llama of two layers in bf16 and in W8A8; factors are any numbers, as real ones are."""
    generator = torch.Generator().manual_seed(11)
    reference: dict[str, Tensor] = {}
    quantized: dict[str, Tensor] = {}

    def factor(size: int) -> Tensor:
        return torch.exp(torch.randn(size, generator=generator)) if smooth else torch.ones(size)

    for name, shape in (
        ("model.embed_tokens", (VOCAB, HIDDEN)),
        ("lm_head", (VOCAB, HIDDEN)),
        ("model.norm", (HIDDEN,)),
    ):
        reference[f"{name}.weight"] = quantized[f"{name}.weight"] = random(generator, *shape)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        inverse = {norm: factor(HIDDEN) for norm in ("input_layernorm", "post_attention_layernorm")}
        for norm, vector in inverse.items():
            name = f"{prefix}{norm}.weight"
            reference[name] = random(generator, HIDDEN)
            quantized[name] = (reference[name].float() * vector).to(torch.bfloat16)
        up = factor(INTERMEDIATE)
        for module, shape in SHAPES.items():
            name = f"{prefix}{module}.weight"
            reference[name] = random(generator, *shape)
            weight = reference[name].float()
            if module in NORM_OF:
                weight = weight / inverse[NORM_OF[module]]
            if module == "mlp.up_proj":
                weight = weight * up[:, None]
            if module == "mlp.down_proj":
                weight = weight / up
            scale = (weight.abs().amax(dim=1, keepdim=True) / 127).to(scale_dtype)
            quantized[name] = (weight / scale.float()).round().clamp(-128, 127).to(torch.int8)
            quantized[f"{name}_scale"] = scale
    args = {
        "weights": {**INT8_ARGS, "strategy": "channel"},
        "input_activations": {**INT8_ARGS, "strategy": "token", "dynamic": True},
    }
    return write_pair(folder, reference, quantized, args, "int-quantized")


def make_fp8_pair(folder: Path) -> tuple[Path, Path]:
    """The same model, its linears in float8 with a scale per row."""
    generator = torch.Generator().manual_seed(11)
    reference: dict[str, Tensor] = {}
    quantized: dict[str, Tensor] = {}
    for name, shape in (
        ("model.embed_tokens", (VOCAB, HIDDEN)),
        ("lm_head", (VOCAB, HIDDEN)),
        ("model.norm", (HIDDEN,)),
    ):
        reference[f"{name}.weight"] = quantized[f"{name}.weight"] = random(generator, *shape)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            reference[f"{prefix}{norm}.weight"] = quantized[f"{prefix}{norm}.weight"] = random(generator, HIDDEN)
        for module, shape in SHAPES.items():
            name = f"{prefix}{module}.weight"
            reference[name] = random(generator, *shape)
            scale = (reference[name].float().abs().amax(dim=1, keepdim=True) / 448).to(torch.bfloat16)
            quantized[name] = (reference[name].float() / scale.float()).to(torch.float8_e4m3fn)
            quantized[f"{name}_scale"] = scale
    args = {
        "weights": {**FP8_ARGS, "strategy": "channel"},
        "input_activations": {**FP8_ARGS, "strategy": "token", "dynamic": True},
    }
    return write_pair(folder, reference, quantized, args, "float-quantized")


def write_pair(
    folder: Path, reference: dict[str, Tensor], quantized: dict[str, Tensor], args: dict[str, Any], form: str
) -> tuple[Path, Path]:
    config = {
        "quant_method": "compressed-tensors", "format": form, "quantization_status": "compressed",
        "ignore": ["lm_head"], "config_groups": {"group_0": {"targets": ["Linear"], **args}},
    }  # fmt: skip
    folders = folder / "reference", folder / "quantized"
    for place, state, extra in ((folders[0], reference, {}), (folders[1], quantized, {"quantization_config": config})):
        place.mkdir(parents=True)
        save_file(
            {name: tensor.clone() for name, tensor in state.items()}, place / "model.safetensors", {"format": "pt"}
        )
        (place / "config.json").write_text(json.dumps({**CONFIG, **extra}))
    return folders


@dataclass(frozen=True)
class FlashRL:
    """What FlashRL wrote.

    Attributes:
        folder: Config files ``<fn>.yaml`` and others; profiles ``<pair>.pt``.
        references: bf16 checkpoints of the pairs.
        quantized: Their quantized twins.
    """

    folder: Path
    references: dict[str, Path]
    quantized: dict[str, Path]

    def inventory(self, pair: str) -> Inventory:
        """The bf16 model of a pair."""
        return read_checkpoint(self.references[pair]).inventory


@pytest.fixture(scope="session")
def flashrl(tmp_path_factory: pytest.TempPathFactory) -> FlashRL:
    """Files by flash-llm-rl 1.0.3."""
    out = tmp_path_factory.mktemp("flashrl")
    pairs = {
        "smooth": ("int8", *make_pair(out / "pairs" / "smooth")),
        "plain": ("int8", *make_pair(out / "pairs" / "plain", smooth=False)),
        "float_scales": ("int8", *make_pair(out / "pairs" / "float_scales", scale_dtype=torch.float32)),
        "half_scales": ("int8", *make_pair(out / "pairs" / "half_scales", scale_dtype=torch.float16)),
        "fp8": ("fp8", *make_fp8_pair(out / "pairs" / "fp8")),
    }
    if real := os.environ.get("FLASHRL_TEST_PAIR"):
        reference, quantized = sorted(path for path in Path(real).iterdir() if path.is_dir())
        pairs["real"] = ("int8", reference, quantized)
    source = bench().install_flashrl(ROOT / ".cache" / "flashrl")
    arguments = [str(source.parents[1]), str(out), json.dumps(pairs, default=str), json.dumps(FUNCTIONS)]
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_PLUGINS": ""}
    ran = subprocess.run(
        [sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, env=environ, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return FlashRL(out, {n: p[1] for n, p in pairs.items()}, {n: p[2] for n, p in pairs.items()})


@dataclass(frozen=True)
class Ran:
    """What a user sees of a finished command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        data: dict[str, Any] = json.loads(self.out)
        return data


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run one of our console scripts in this process."""
    monkeypatch.setenv("FLASHRL_REGISTRY", str(tmp_path / "registry"))

    def command(*arguments: object, program: str = "flashrl-registry") -> Ran:
        capsys.readouterr()
        code = run(program, [str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return command
