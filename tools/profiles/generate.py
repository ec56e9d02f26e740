"""Write ``profiles/``: a plan for every model of ``tools/profiles/models`` under every scheme, and their index.

    python tools/profiles/generate.py                 # write
    python tools/profiles/generate.py --check         # compile everything again, compare bytes
    python tools/profiles/generate.py --pair FOLDER   # also measure the SmolLM2 pair again (see demo/prepare_pair.py)

Nothing is downloaded and no weight exists: transformers builds each model from its public config.json values on
torch's meta device, and its own inverse of checkpoint loading gives the names of the published files. What those
files do differently is in the model file and in ``_RENAMED``. The number of parameters must be the published one.
"""

import argparse
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashrl_registry.compiler import checkpoint_bytes, compile_plan, preset_rules, weight_bytes
from flashrl_registry.documents import Inventory, Plan, SchemeName, TensorSpec, write_document, yaml_text
from flashrl_registry.documents.io import write_atomically
from flashrl_registry.documents.names import natural_key
from flashrl_registry.documents.yaml_writer import dump_text
from flashrl_registry.errors import CompileError
from flashrl_registry.registry import read_profile
from flashrl_registry.registry.bundle import PLAN_YAML, PROFILE_YAML

HERE = Path(__file__).resolve().parent
MODELS = HERE / "models"
PROFILES = HERE.parents[1] / "profiles"
INDEX = "index.yaml"
SCHEMES: tuple[SchemeName, ...] = ("bf16", "fp8", "fp8_channel", "fp8_block", "int8")
MEASURED = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The model whose int8 plan comes from a measured profile; it has no other plan here."""
MEASURED_ON = (
    "Smoothing measured on the pair of demo/prepare_pair.py: the model from its Q4_1 GGUF file, and a SmoothQuant W8A8 "
    "checkpoint made of it. It may be applied to the published bf16 weights; scales are recomputed from what is loaded."
)
PAIR = ("SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct-quantized.w8a8")
# transformers 5.19 dropped a level of the vision tower; save_pretrained restores it only for a model that was loaded.
_RENAMED = {"gemma3": (("vision_tower.", "vision_tower.vision_model."),)}


@dataclass(frozen=True)
class Model:
    """A public model, described without its weights.

    Attributes:
        name: Hub id.
        num_parameters: Elements in the published checkpoint files.
        num_tensors: Tensors in them; None where no public source says.
        saves_tied_head: The files hold ``lm_head.weight`` although it is the embedding.
        confirmed: Public places where the values were found.
        config: The values of config.json that decide names and shapes.
    """

    name: str
    num_parameters: int
    num_tensors: int | None
    saves_tied_head: bool
    confirmed: list[str]
    config: dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """One plan, or why there is none.

    Attributes:
        model: The model.
        inventory: Its tensors.
        scheme: The scheme asked for.
        plan: The compiled plan; None where the compiler refuses.
        reason: The compiler's words; empty where there is a plan.
    """

    model: Model
    inventory: Inventory
    scheme: str
    plan: Plan | None
    reason: str = ""

    @property
    def path(self) -> str:
        """Folder under ``profiles/``."""
        return f"{self.model.name}/{self.scheme}"


def models() -> list[Model]:
    """All model files, in natural order of the names."""
    found = []
    for file in MODELS.glob("*.json"):
        data = json.loads(file.read_text())
        found.append(
            Model(
                data["model"], data["num_parameters"], data.get("num_tensors"), data.get("saves_tied_head", False),
                data["confirmed"], data["config"],
            )
        )  # fmt: skip
    return sorted(found, key=lambda model: natural_key(model.name))


def inventory_of(model: Model) -> Inventory:
    """Names and shapes of the published checkpoint, made on the meta device.

    Raises:
        SystemExit: The counts are not the published ones.
    """
    import torch
    import transformers
    from transformers.core_model_loading import revert_weight_conversion

    config = transformers.AutoConfig.for_model(**model.config)
    architecture = model.config["architectures"][0]
    with torch.device("meta"):
        built = getattr(transformers, architecture)(config)
    tensors = revert_weight_conversion(built, dict(built.state_dict()))
    tied = bool(config.tie_word_embeddings)
    shapes = {
        _published_name(model, name): list(tensor.shape)
        for name, tensor in tensors.items()
        if not (tied and name.endswith("lm_head.weight")) or model.saves_tied_head
    }
    size = sum(math.prod(shape) for shape in shapes.values())
    if size != model.num_parameters or model.num_tensors not in {None, len(shapes)}:
        raise SystemExit(
            f"{model.name}: {size} parameters in {len(shapes)} tensors; "
            f"published: {model.num_parameters} in {model.num_tensors or 'an unknown number of'} tensors"
        )
    return Inventory(
        name=model.name,
        architecture=architecture,
        model_type=model.config["model_type"],
        tied_embeddings=tied,
        tensors=[
            TensorSpec(name=name, shape=shapes[name], dtype="bfloat16") for name in sorted(shapes, key=natural_key)
        ],
    )


def _published_name(model: Model, name: str) -> str:
    for ours, theirs in _RENAMED.get(model.config["model_type"], ()):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def entries(profiles: Path) -> Iterator[Entry]:
    """Compile every plan; the measured profile is read from ``profiles``."""
    for model in models():
        inventory = inventory_of(model)
        for scheme in ("int8",) if model.name == MEASURED else SCHEMES:
            profile = read_profile(profiles / model.name / scheme)[0] if model.name == MEASURED else None
            try:
                rules = preset_rules(scheme, inventory, profile)
                if profile is not None:
                    rules = rules.model_copy(update={"description": MEASURED_ON})
                plan = compile_plan(rules, inventory, profile).plan
            except CompileError as exc:
                first, more = exc.diagnostics[0], len(exc.diagnostics) - 1
                reason = f"{first.code}: {first.where} {first.message}" + (f"; {more} more" if more else "")
                yield Entry(model, inventory, scheme, None, reason)
            else:
                yield Entry(model, inventory, scheme, plan)


def index_text(all_entries: list[Entry]) -> str:
    """The index: every plan with its digest and predicted bytes, and what is missing."""
    plans = [
        {
            "path": entry.path, "model": entry.model.name, "scheme": entry.scheme, "digest": entry.plan.digest,
            "num_parameters": entry.model.num_parameters, "checkpoint_bytes": checkpoint_bytes(entry.plan),
            "weight_bytes": weight_bytes(entry.plan),
        }
        for entry in all_entries
        if entry.plan is not None
    ]  # fmt: skip
    refused = [
        {"model": entry.model.name, "scheme": entry.scheme, "reason": entry.reason}
        for entry in all_entries
        if entry.plan is None
    ]
    header = "# Written by tools/profiles/generate.py; weight_bytes are predicted from shapes, not measured.\n"
    return dump_text({"plans": plans, "not_shipped": refused}, header)


def files_of(made: list[Entry]) -> dict[str, bytes]:
    """Path under ``profiles/`` to content, for every generated file."""
    files = {f"{entry.path}/{PLAN_YAML}": yaml_text(entry.plan).encode() for entry in made if entry.plan is not None}
    return {**files, INDEX: index_text(made).encode()}


def measure(pair: Path, folder: Path) -> None:
    """Measure the demo's pair into ``folder``: profile.yaml and its vectors."""
    from flashrl_registry.profiling import profile_pair

    _, profile = profile_pair(pair / PAIR[0], pair / PAIR[1], folder)
    write_document(profile, folder / PROFILE_YAML)


def compare(expected: dict[str, bytes], profiles: Path) -> list[str]:
    """What differs on disk: changed, missing and left-over files."""
    present = {str(file.relative_to(profiles)) for file in profiles.rglob("*") if file.is_file()}
    vectors = {name for name in present if name.startswith(MEASURED) and not name.endswith(PLAN_YAML)}
    faults = [f"{name}: left over" for name in sorted(present - set(expected) - vectors - {"README.md"})]
    for name, content in expected.items():
        if name not in present:
            faults.append(f"{name}: missing")
        elif (profiles / name).read_bytes() != content:
            faults.append(f"{name}: differs")
    return faults


def main() -> int:
    """Write or check; 1 where a check finds a difference."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare with what is there; write nothing")
    parser.add_argument("--pair", type=Path, help="folder of the SmolLM2 pair: measure its profile again")
    parser.add_argument("--profiles", type=Path, default=PROFILES)
    args = parser.parse_args()
    faults = []
    measured = args.profiles / MEASURED / "int8"
    if args.pair is not None:
        with tempfile.TemporaryDirectory() as scratch:
            measure(args.pair, Path(scratch))
            for file in Path(scratch).iterdir():
                target = measured / file.name
                if args.check and (not target.exists() or target.read_bytes() != file.read_bytes()):
                    faults.append(f"{target.relative_to(args.profiles)}: measuring the pair gives other bytes")
                elif not args.check:
                    measured.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, target)
    expected = files_of(list(entries(args.profiles)))
    if not args.check:
        for name, content in expected.items():
            write_atomically(args.profiles / name, content)
    faults += compare(expected, args.profiles)
    total = sum(file.stat().st_size for file in args.profiles.rglob("*") if file.is_file())
    lines = [*faults, f"{len(expected) - 1} plans, {total} bytes in {args.profiles}"]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
