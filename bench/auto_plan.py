"""What each scheme costs a real model, and what ``compile --auto`` makes of a budget: KL to bf16 on held-out text.

    python bench/auto_plan.py --pair .cache/demo/pair --out bench/results/auto_plan.json --rank

Scores come from one text and every KL from another; see text.py. Random plans keep random groups in bf16 until no
other fits the same budget. ``--rank`` also quantizes every group alone and compares the order of these KLs with that
of the scores, which takes longest.
"""

import argparse
import json
import platform
import random
import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from scipy.stats import spearmanr
from text import gather
from torch import Tensor

from flashrl_registry.compiler import auto_plan, compile_plan, parse_budget, preset_rules
from flashrl_registry.compiler.groups import fused_groups
from flashrl_registry.compiler.modules import module_of
from flashrl_registry.compiler.notes import notes_of
from flashrl_registry.documents import Inventory, Plan, Profile, Rule, Rules, Sensitivity, UpdateSettings
from flashrl_registry.documents.names import expand, factor
from flashrl_registry.errors import CompileError
from flashrl_registry.profiling import profile_pair
from flashrl_registry.quality import measure_sensitivity
from flashrl_registry.quality.divergence import Divergence, divergence
from flashrl_registry.quality.fake import fake_input, fake_weight
from flashrl_registry.quality.loaded import Loaded, device_name, load, measured_text, sequences_of, versions
from flashrl_registry.quality.treated import Treated, treat
from flashrl_registry.registry import read_profile

MODEL = "SmolLM2-135M-Instruct"
SEEDS = (0, 1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pair", type=Path, required=True, help="folder that demo/prepare_pair.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--score-tokens", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=4096, help="held-out tokens")
    parser.add_argument("--rank", action="store_true", help="also measure every group alone, on 256 tokens")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as scratch:
        result = run(args, Path(scratch))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print("\n" + markdown(result))


def run(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    model = args.pair / MODEL
    scored, held_out = gather(scratch)
    profile_path, _ = profile_pair(str(model), str(args.pair / f"{MODEL}-quantized.w8a8"), scratch / "profile")
    start = time.monotonic()
    scores = measure_sensitivity(str(model), [scored], profile=profile_path, num_tokens=args.score_tokens)
    seconds = time.monotonic() - start
    print(f"scored in {seconds:.0f} s: {[(s.scheme, s.kl) for s in scores.schemes]}", flush=True)
    profile, sidecar = read_profile(profile_path)
    loaded = load(str(model), "cpu")
    sequences = sequences_of(loaded.tokenizer, [held_out], num_tokens=args.tokens, sequence_tokens=512)
    result: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "model": MODEL,
        "device": f"{device_name(loaded.device)}, {platform.machine()}",
        "versions": {**versions(), "python": platform.python_version()},
        "scored_text": scores.text.model_dump(),
        "held_out_text": measured_text(sequences).model_dump(),
        "sensitivity_seconds": round(seconds, 1),
        "schemes_on_scored_text": [entry.model_dump() for entry in scores.schemes],
        "plans": {},
        "not_possible": {},
    }
    for name, make in candidates(loaded.inventory, profile, scores).items():
        try:
            plan = make()
        except CompileError as exc:
            result["not_possible"][name] = exc.diagnostics[0].message
            continue
        total = sum(group.num_weights for group in scores.groups)
        result["plans"][name] = measured(loaded, sequences, plan, sidecar if plan.profile else None, total)
        print(f"{name:45} {result['plans'][name]}", flush=True)
    cut = cut_blocks(loaded, sequences)
    result["fp8_block_with_cut_blocks"] = asdict(cut)
    print(f"fp8 per block, edges cut: {cut}", flush=True)
    if args.rank:
        result["rank"] = rank(loaded, [scored], scores)
    result["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return result


def markdown(result: dict[str, Any]) -> str:
    """The table of docs/quality.md."""
    lines = ["| plan | bf16 % | KL | +- | mean abs dlogprob | predicted KL |", "|---|---|---|---|---|---|"]
    for name, entry in result["plans"].items():
        predicted = "" if entry["predicted_kl"] is None else f"{entry['predicted_kl']:.5f}"
        lines.append(
            f"| {name} | {100 * entry['bf16_share']:.1f} | {entry['kl']:.5f} | {entry['kl_standard_error']:.5f} "
            f"| {entry['mean_abs_dlogprob']:.4f} | {predicted} |"
        )
    return "\n".join(lines)


def candidates(inventory: Inventory, profile: Profile, scores: Sensitivity) -> dict[str, Any]:
    """Plans by name, made when asked for."""

    def whole(scheme: Any, of: Profile | None = None, scales: Any = "recompute") -> Plan:
        rules = preset_rules(scheme, inventory, of).model_copy(update={"update": UpdateSettings(scales=scales)})
        return compile_plan(rules, inventory, of).plan

    def auto(budget: str, device: str, of: Profile | None = None) -> Plan:
        return auto_plan(inventory, scores, parse_budget(budget), profile=of, device=device).compiled.plan

    plans: dict[str, Any] = {
        "int8, smoothed, scales recomputed": lambda: whole("int8", profile),
        "int8, smoothed, scales frozen": lambda: whole("int8", profile, "frozen"),
        "int8, plain": lambda: whole("int8"),
        "fp8 per channel": lambda: whole("fp8_channel"),
        "fp8 per tensor": lambda: whole("fp8_tensor"),
        "fp8 per block": lambda: whole("fp8_block"),
    }
    for share in ("0.05", "0.15", "0.25"):
        plans[f"auto, smoothed int8 and bf16={share}"] = lambda s=share: auto(f"bf16={s}", "cpu", profile)
    for seed in SEEDS:
        plans[f"random {seed}, smoothed int8 and bf16=0.25"] = lambda s=seed: chance(inventory, profile, 0.25, s)
    plans["auto, plain int8 and bf16=0.25"] = lambda: auto("bf16=0.25", "cpu")
    for seed in SEEDS:
        plans[f"random {seed}, plain int8 and bf16=0.25"] = lambda s=seed: chance(inventory, None, 0.25, s)
    plans["auto, every format and bf16=0"] = lambda: auto("bf16=0", "cuda", profile)
    plans["auto, every format and bf16=0.25"] = lambda: auto("bf16=0.25", "cuda", profile)
    plans["auto, every format and kl=0.005"] = lambda: auto("kl=0.005", "cuda", profile)
    return plans


def chance(inventory: Inventory, profile: Profile | None, share: float, seed: int) -> Plan:
    """Random groups in bf16 as long as one fits, everything else in int8."""
    sizes = {tensor.name: tensor.shape[0] * tensor.shape[1] for tensor in inventory.tensors if len(tensor.shape) == 2}
    whole = preset_rules("int8", inventory)
    groups = fused_groups(name for name in sizes if module_of(name) in _modules(whole))
    left = share * sum(sizes[name] for names in groups.values() for name in names)
    order = list(groups)
    random.Random(seed).shuffle(order)
    kept: list[str] = []
    for module in order:
        size = sum(sizes[name] for name in groups[module])
        if size <= left:
            kept += groups[module]
            left -= size
    return compile_plan(with_bf16(whole, inventory, kept), inventory, profile).plan


def with_bf16(whole: Rules, inventory: Inventory, kept: Sequence[str]) -> Rules:
    """Whole-model rules with some weights taken out."""
    low = _modules(whole) - {module_of(name) for name in kept}
    rest = {module_of(tensor.name) for tensor in inventory.tensors} - low
    return Rules(rules=[Rule(name="linears", scheme="int8", targets=factor(low)),
                        Rule(name="rest", scheme="bf16", targets=factor(rest))])  # fmt: skip


def _modules(rules: Rules) -> set[str]:
    return {name for family in rules.rules[0].targets for name in expand(family)}


def measured(
    loaded: Loaded, sequences: Sequence[Tensor], plan: Plan, sidecar: Path | None, num_weights: int
) -> dict[str, Any]:
    start = time.monotonic()
    found = divergence(loaded, sequences, treat(loaded, plan, sidecar))
    low = sum(f.num_members * f.shape[0] * f.shape[1] for f in plan.tensors if f.treatment not in {"keep", "rescale"})
    notes = notes_of(plan)
    return {
        **asdict(found),
        "bf16_share": round(1 - low / num_weights, 4),
        "predicted_kl": notes.predicted_kl if notes else None,
        "seconds": round(time.monotonic() - start, 1),
    }


def cut_blocks(loaded: Loaded, sequences: Sequence[Tensor]) -> Divergence:
    """fp8 per block where 128 does not divide a weight: its last blocks, and its inputs' last group, are smaller.

    No plan can say this, for not every kernel of vLLM takes such weights; it is here for the comparison alone.
    """

    def padded(scheme: Any, value: Tensor, *, rows: bool = False, to: Any = fake_input) -> Tensor:
        sides = (0, -value.shape[-1] % 128, 0, -value.shape[0] % 128 if rows else 0)
        whole = to(scheme, torch.nn.functional.pad(value, sides))
        return whole[..., : value.shape[-1]][: value.shape[0]] if rows else whole[..., : value.shape[-1]]

    parameters = dict(loaded.model.named_parameters())
    places = loaded.places.values()
    weights = {p.parameter: padded("fp8_block", parameters[p.parameter], rows=True, to=fake_weight) for p in places}
    with mock.patch("flashrl_registry.quality.inputs.fake_input", padded):
        return divergence(loaded, sequences, Treated(weights, dict.fromkeys((p.module for p in places), "fp8_block")))


def rank(loaded: Loaded, files: list[Path], scores: Sensitivity) -> dict[str, Any]:
    """Spearman of the scores with the KL of each group alone, under plain int8."""
    sequences = sequences_of(loaded.tokenizer, files, num_tokens=256, sequence_tokens=256)
    whole = preset_rules("int8", loaded.inventory)
    every = fused_groups(loaded.places)
    alone, by_score, by_error, by_peak = [], [], [], []
    for group in scores.groups:
        others = [name for module, names in every.items() if module != group.module for name in names]
        plan = compile_plan(with_bf16(whole, loaded.inventory, others), loaded.inventory).plan
        alone.append(divergence(loaded, sequences, treat(loaded, plan, None)).kl)
        entry = next(score for score in group.scores if score.scheme == "int8_plain")
        by_score.append(entry.score)
        by_error.append(entry.output_error)
        by_peak.append(group.peak_over_rms)
    ranks = {name: float(spearmanr(alone, values).statistic) for name, values in
             (("score", by_score), ("output_error", by_error), ("peak_over_rms", by_peak))}  # fmt: skip
    print(f"Spearman with the KL of each group alone: {ranks}", flush=True)
    return {"scheme": "int8_plain", "num_tokens": 256, "num_groups": len(alone), "spearman": ranks,
            "sum_of_single_kls": sum(alone)}  # fmt: skip


if __name__ == "__main__":
    main()
