"""What profiles say of one model that was quantized in four ways: factors found, rounding recognized, codes equal.

    python demo/prepare_pair.py --out .cache/pair
    python bench/profile_recipes.py --pair .cache/pair

SmolLM2-135M-Instruct, smoothed as llm-compressor does by default (norms only), with up_proj into down_proj besides,
that one rounded by GPTQ, and not smoothed at all. Every row is compared. Exits with 1 where a factor is not found or
the rounding is taken for another.

Shape legend: T tokens, O output channels, I input columns.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "demo")]

import prepare_pair  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from flashrl_registry.documents import Profile  # noqa: E402
from flashrl_registry.profiling import profile_pair, verify_profile  # noqa: E402

NORMS = ("input_layernorm", "post_attention_layernorm")
RECIPES: dict[str, tuple[tuple[str, ...], bool]] = {
    "no smoothing, nearest": ((), False),
    "norms (llm-compressor's default), nearest": (NORMS, False),
    "norms and up_proj, nearest": ((*NORMS, "mlp.up_proj"), False),
    "norms and up_proj, GPTQ": ((*NORMS, "mlp.up_proj"), True),
}
DAMPING = 0.01


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pair", type=Path, default=ROOT / ".cache" / "pair", help="folder of prepare_pair.py")
    parser.add_argument("--out", type=Path, default=ROOT / ".cache" / "bench" / "recipes", help="folder for the twins")
    args = parser.parse_args()
    reference = args.pair / prepare_pair.REFERENCE
    rows, good = [], True
    for number, (title, (sources, gptq)) in enumerate(RECIPES.items()):
        folder = args.out / str(number)
        if not (folder / "config.json").exists():
            with torch.no_grad():
                make(reference, folder, sources, gptq=gptq)
        document, profile = profile_pair(reference, folder, args.out / f"{number}-profile", every_row=True, threads=2)
        verify_profile(document, reference, folder, threads=2)
        row, fine = describe(title, profile, sources, gptq=gptq)
        rows.append(row)
        good &= fine
    print(
        "| recipe | norms found | up_proj's factor | rounding | residual, codes | codes equal | in bfloat16 | clipped |"
    )
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))
    return 0 if good else 1


def describe(title: str, profile: Profile, sources: tuple[str, ...], *, gptq: bool) -> tuple[str, bool]:
    """One row, and whether it is what was done."""
    layers = len(profile.linears) // 7
    norms = [group for group in profile.smoothing if group.kind == "norm"]
    rows = [group for group in profile.smoothing if group.kind == "linear"]
    kinds = {kind: sum(facts.rounding == kind for facts in profile.linears) for kind in ("nearest", "gptq", "unclear")}
    residuals = [facts.residual_rms for facts in profile.linears]

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    smallest, largest = min(group.smallest for group in rows), max(group.largest for group in rows)
    shown = ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)
    row = (
        f"| {title} | {len(norms)} | {smallest:.3g} to {largest:.3g} | {shown} "
        f"| {min(residuals):.3f}-{max(residuals):.3f} | {mean([f.codes_equal for f in profile.linears]):.2%} "
        f"| {mean([f.codes_equal_in_dtype or 0.0 for f in profile.linears]):.2%} "
        f"| {mean([f.clip_rate for f in profile.linears]):.1e} |"
    )
    expected_norms = layers * len([source for source in sources if source in NORMS])
    folded = largest / smallest > 2
    return row, len(norms) == expected_norms and folded == ("mlp.up_proj" in sources) and kinds[
        "gptq" if gptq else "nearest"
    ] == len(profile.linears)


def make(reference: Path, folder: Path, sources: tuple[str, ...], *, gptq: bool) -> None:
    """Smooth, quantize and save one twin."""
    model = AutoModelForCausalLM.from_pretrained(reference, dtype=torch.bfloat16)
    tokens = prepare_pair.calibration_tokens(AutoTokenizer.from_pretrained(reference))
    peaks = prepare_pair.input_peaks(model, tokens)
    for index in range(model.config.num_hidden_layers):
        prefix = f"model.layers.{index}."
        for source in sources:
            alpha, targets = prepare_pair.SMOOTHED[source]
            linears = [model.get_submodule(prefix + target) for target in targets]
            prepare_pair.smooth(model.get_submodule(prefix + source), linears, peaks[prefix + targets[0]], alpha)
    state = prepare_pair.quantized_state(model)
    if gptq:
        for name, hessian in hessians(model, tokens).items():
            key = f"{name}.weight"
            scale = state[f"{key}_scale"].float()
            state[key] = pass_errors_on(model.get_submodule(name).get_parameter("weight").float() / scale, hessian)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    for file in reference.iterdir():
        if file.suffix != ".safetensors":
            shutil.copyfile(file, folder / file.name)
    config = json.loads((reference / "config.json").read_text())
    config["quantization_config"] = prepare_pair.quantization_config()
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def hessians(model: nn.Module, tokens_ST: Tensor) -> dict[str, Tensor]:
    """``X^T X`` of every linear's inputs in the layers."""
    found: dict[str, Tensor] = {}

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def record(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x_TI = inputs[0].flatten(0, -2).float()
            found[name] = found.get(name, torch.zeros(())) + x_TI.T @ x_TI

        return record

    handles = [
        module.register_forward_pre_hook(hook(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name != "lm_head"
    ]
    for sample_T in tokens_ST:
        model.get_submodule("model")(sample_T.unsqueeze(0), use_cache=False)
    for handle in handles:
        handle.remove()
    return found


def pass_errors_on(weight_OI: Tensor, hessian_II: Tensor) -> Tensor:
    """Round column by column, giving what is lost to the columns after it: GPTQ (arXiv 2210.17323), algorithm 1."""
    damped = hessian_II + torch.eye(len(hessian_II)) * hessian_II.diagonal().mean() * DAMPING
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    weight_OI, codes_OI = weight_OI.clone(), torch.zeros_like(weight_OI)
    size = 128
    for start in range(0, weight_OI.shape[1], size):
        stop = min(start + size, weight_OI.shape[1])
        errors = torch.zeros(len(weight_OI), stop - start)
        for column in range(start, stop):
            codes_OI[:, column] = weight_OI[:, column].round().clamp(-128, 127)
            errors[:, column - start] = (weight_OI[:, column] - codes_OI[:, column]) / upper[column, column]
            weight_OI[:, column:stop] -= errors[:, column - start, None] * upper[column, column:stop]
        weight_OI[:, stop:] -= errors @ upper[start:stop, stop:]
    return codes_OI.to(torch.int8)


if __name__ == "__main__":
    sys.exit(main())
