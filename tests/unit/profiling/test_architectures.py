"""Eighteen tiny real models: every factor that was folded is found, and nothing else.

``docs/architectures.md`` shows what is found; ``FLASHRL_WRITE_DOCS=1`` rewrites it. FlashRL runs in a process of its
own, from its wheel in ``.cache/flashrl``.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import architectures
import pytest
from architectures import ARCHITECTURES, HEAD, Fold, Model

from flashrl_registry.documents import Profile
from flashrl_registry.documents.names import natural_key
from flashrl_registry.documents.profile import ChannelMap
from flashrl_registry.profiling import Verified, profile_pair, verify_profile

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs" / "architectures.md"
FLASHRL = ROOT / ".cache" / "flashrl" / "flash_rl" / "flash_quantization.py"
GOOD = 0.85
"""Share of equal codes from which on a linear counts as reproduced; the least of ours is 0.88."""

CHILD = """
import importlib.util, json, sys, types
from pathlib import Path
import torch, transformers
from safetensors.torch import load_file
transformers.logging.set_verbosity_error()
spec = importlib.util.spec_from_file_location("flash_quantization", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.AutoTokenizer = types.SimpleNamespace(from_pretrained=lambda folder: None)  # loaded and never used
found = {}
for name, (reference, quantized, linears, out) in json.loads(sys.stdin.read()).items():
    try:
        module.profiling_int8(reference, quantized, out)
    except Exception as exc:
        found[name] = {"error": type(exc).__name__}
        continue
    profile = torch.load(out, weights_only=True)
    states = [{k: v for f in sorted(Path(folder).glob("*.safetensors")) for k, v in load_file(f).items()}
              for folder in (reference, quantized)]
    shares = []
    for linear in linears:
        if linear in profile:
            entry, weight = profile[linear], states[0][linear].float()
            with torch.no_grad():
                codes = (weight * entry["output_scale"] * entry["input_scale"]).round().clamp(-128, 127)
            shares.append(float((codes == states[1][linear].float()).float().mean()))
    found[name] = {"profiled": len(shares), "good": sum(share > 0.85 for share in shares)}
print(json.dumps(found))
"""


@dataclass
class Profiled:
    """A pair and what was made of it."""

    model: Model
    folders: tuple[Path, Path]
    profile: Profile
    verified: Verified


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Profiled]:
    made = {}
    for number, (name, architecture) in enumerate(ARCHITECTURES.items()):
        folder = tmp_path_factory.mktemp(f"architecture-{number}")
        model = architectures.build(architecture, folder / "raw")
        folders = architectures.write_pair(model, folder)
        document, profile = profile_pair(*folders, folder / "out")
        made[name] = Profiled(model, folders, profile, verify_profile(document, *folders))
    return made


@pytest.fixture(scope="module")
def flashrl(profiled: dict[str, Profiled], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What FlashRL 1.0.3 makes of the same pairs."""
    assert FLASHRL.exists(), f"{FLASHRL.parent} is missing: make test installs it"
    folder = tmp_path_factory.mktemp("flashrl")
    pairs = {
        name: [*map(str, made.folders), made.model.linears, str(folder / f"{number}.pt")]
        for number, (name, made) in enumerate(profiled.items())
    }
    command = [sys.executable, "-c", CHILD, str(FLASHRL)]
    ran = subprocess.run(command, input=json.dumps(pairs), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, dict[str, Any]] = json.loads(ran.stdout.splitlines()[-1])
    return found


def channels_of(fold: Fold, model: Model, source: str) -> ChannelMap | None:
    """How a fold's rows meet its targets' columns, in a profile's words."""
    shape = model.reference[source].shape
    if len(shape) == 1 or (fold.rows is None and fold.repeats == 1 and len(shape) == 2):
        return None
    start, count = fold.rows or (0, shape[-2])
    return ChannelMap(
        start=start, num_rows=count, repeats=fold.repeats, head_size=HEAD if fold.repeats > 1 else None,
        num_parts=shape[0] if len(shape) == 3 else 1,
    )  # fmt: skip


def is_vector(made: Profiled, source: str) -> bool:
    """A norm's weight, not a linear's."""
    return made.model.reference[source].dim() == 1


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_factor_that_was_folded_is_found_and_no_other(profiled: dict[str, Profiled], name: str) -> None:
    made, offset = profiled[name], ARCHITECTURES[name].offset
    found = {
        group.source: (sorted(group.targets), group.offset or 0, group.channels) for group in made.profile.smoothing
    }
    folded = {
        source: (
            sorted(targets),
            offset * (made.model.reference[source].dim() == 1),
            channels_of(fold, made.model, source),
        )
        for source, (targets, fold) in made.model.groups.items()
    }
    # The factor of an up_proj is there even where nothing was folded, as FlashRL's profiles have it.
    measured = {source for source in found if source.endswith("mlp.up_proj.weight")} - set(folded)
    for source in measured:
        (group,) = (group for group in made.profile.smoothing if group.source == source)
        assert (round(group.smallest, 1), round(group.largest, 1)) == (1, 1)
    assert {source: entry for source, entry in found.items() if source not in measured} == folded


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_quantized_linear_is_covered_and_replayed(profiled: dict[str, Profiled], name: str) -> None:
    made = profiled[name]
    assert [facts.name for facts in made.profile.linears] == sorted(made.model.linears, key=natural_key)
    assert [facts.name for facts in made.verified.linears] == [facts.name for facts in made.profile.linears]
    assert {facts.rounding for facts in made.profile.linears} == {"nearest"}
    assert made.verified.smallest is not None
    assert made.verified.smallest.codes_equal > GOOD


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_folded_model_computes_what_the_original_does(
    profiled: dict[str, Profiled], name: str, tmp_path: Path
) -> None:
    model = profiled[name].model
    reference = {key: tensor.float() for key, tensor in model.reference.items()}
    original = architectures.logits(model.config, reference, tmp_path / "original")
    folded = architectures.logits(model.config, model.folded, tmp_path / "folded")
    assert (original - folded).abs().max() < 1e-4 * original.abs().max()
    assert original.std() > 0


def render(profiled: dict[str, Profiled], flashrl: dict[str, dict[str, Any]]) -> str:
    """The page."""
    lines = [
        "# Which architectures the profiler understands",
        "",
        "Generated by `FLASHRL_WRITE_DOCS=1 pytest tests/unit/profiling/test_architectures.py`, which fails where this",
        "page shows something else. Each row is a tiny random model of that architecture, from transformers: factors",
        "were folded wherever its mathematics allows it (a test runs the folded model and finds the same logits), the",
        "linears rounded to int8, and the pair profiled. *Factors* counts what was folded and found again, source and",
        "targets; *reproduced* is how many linears' codes come back when `profile-verify` replays the profile,",
        "with the mean share of equal codes. The last column is what FlashRL 1.0.3 does on the same pair with",
        "transformers 5: linears in its profile, and in brackets those whose codes come back.",
        "",
        "| architecture | norms found | linears found | linears covered | reproduced (codes equal) | FlashRL 1.0.3 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, made in profiled.items():
        kinds = {kind: {g.source for g in made.profile.smoothing if g.kind == kind} for kind in ("norm", "linear")}
        folded = {
            kind: {s for s in made.model.groups if (made.model.reference[s].dim() == 1) == (kind == "norm")}
            for kind in kinds
        }
        num = len(made.model.linears)
        good = sum(facts.codes_equal > GOOD for facts in made.verified.linears)
        theirs = flashrl[name]
        shown = theirs["error"] if "error" in theirs else f"{theirs['profiled']} of {num} ({theirs['good']})"
        counts = [f"{len(folded[kind] & kinds[kind])} of {len(folded[kind])}" for kind in kinds]
        lines.append(
            f"| {name} | {counts[0]} | {counts[1]} | {len(made.profile.linears)} of {num} "
            f"| {good} of {num} ({made.verified.codes_equal:.0%}) | {shown} |"
        )
    return "\n".join([*lines, "", *NOTES, ""])


NOTES = (
    "What a plan can use of it: factors of norms that multiply by `w`, and of linears whose rows are the next one's",
    "columns, one to one. Factors of norms that multiply by `1 + w` (Gemma), and of rows that feed columns in another",
    "order (a half of a fused gate and up, values that several query heads share, experts in one tensor) are measured",
    "and stored; `compile` says that it does not apply them, and quantizes those linears without.",
    "",
    "Not understood, and refused by name: a factor from `kv_b_proj` into `o_proj` (MLA), one that crosses layers, and",
    "a factor in front of a linear that stays bf16, such as a router.",
)


def test_the_documented_table_is_the_tested_one(
    profiled: dict[str, Profiled], flashrl: dict[str, dict[str, Any]]
) -> None:
    text = render(profiled, flashrl)
    if os.environ.get("FLASHRL_WRITE_DOCS") == "1":
        DOCS.write_text(text)
    assert DOCS.read_text() == text, "run FLASHRL_WRITE_DOCS=1 pytest tests/unit/profiling/test_architectures.py"
