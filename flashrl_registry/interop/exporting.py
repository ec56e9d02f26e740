"""Plans to other tools' files. What a format cannot say is an error that lists everything."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from packaging.specifiers import SpecifierSet

from flashrl_registry.compiler import lower
from flashrl_registry.compiler.modules import is_linear_weight
from flashrl_registry.documents import Environment, Plan, TensorSpec, canonical_scheme, write_atomically
from flashrl_registry.documents.names import expand
from flashrl_registry.errors import InteropError
from flashrl_registry.interop.drafts import EXTENSION
from flashrl_registry.interop.flashrl_config import (
    DEFAULT_FUNCTION,
    NEED_NO_MODEL,
    FlashRLConfig,
    FlashRLEntry,
    default_values,
    value_fault,
)
from flashrl_registry.interop.flashrl_text import config_text
from flashrl_registry.interop.losses import Losses
from flashrl_registry.interop.members import Member, Members
from flashrl_registry.registry import PlanBundle
from flashrl_registry.registry.plan_folders import refuse_checkpoint_folder

ExportFormat = Literal["flashrl", "compressed-tensors", "vllm"]
"""``flashrl``: flashrl_config.yaml and profile.pt. ``compressed-tensors``: quantization_config.json. ``vllm``:
vllm.json, the keyword arguments of ``vllm.LLM``."""

EXPORT_FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)

CONFIG_YAML, PROFILE_PT = "flashrl_config.yaml", "profile.pt"
QUANTIZATION_JSON, VLLM_JSON = "quantization_config.json", "vllm.json"

_RELEASES = ("0.33.0", "0.32.0", "0.27.1", "0.25.1")
"""Whose vocabulary a plan is lowered to when nobody names a release: the newest that it admits."""


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        files: In the order in which they were written.
        notes: What a reader should know.
    """

    files: tuple[Path, ...]
    notes: tuple[str, ...]


def export_flashrl(given: Members, folder: Path, *, model: str | None = None, lossy: bool = False) -> Exported:
    """Write ``flashrl_config.yaml``, and a ``profile.pt`` for each member that has one.

    What an imported plan kept of its FlashRL config comes out again; the profile's path alone is new.

    Args:
        given: One plan, or those of a hybrid.
        folder: Created where missing.
        model: Quantized checkpoint that FlashRL is to load, where the plans do not know it.
        lossy: Leave out what FlashRL has no word for.

    Raises:
        NotExpressibleError: Everything that FlashRL cannot do, of all members.
    """
    members = given.members
    losses = Losses("a FlashRL config", lossy)
    drafts = [_flashrl_draft(member, model, losses) for member in members]
    losses.check()
    refuse_checkpoint_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    entries: list[FlashRLEntry] = []
    others = dict(given.beside_configs)
    for member, draft in zip(members, drafts, strict=True):
        values = dict(draft.values)
        if draft.has_profile:
            path = (folder / (PROFILE_PT if len(members) == 1 else f"profile-{member.name}.pt")).resolve()
            _write_profile(path, member.bundle)
            values["profile"] = str(path)
            files.append(path)
        entries += [FlashRLEntry(values)] * member.weight
        if len(members) == 1:
            others |= draft.beside_configs
    header = "\n".join(m.bundle.plan.description for m in members if m.bundle is not None and m.bundle.plan.description)
    config = folder / CONFIG_YAML
    write_atomically(config, config_text(FlashRLConfig(tuple(entries), others), header=header).encode())
    return Exported((*files, config), tuple(losses.notes))


@dataclass(frozen=True)
class _FlashRLDraft:
    """One entry before its profile is written."""

    values: dict[str, Any]
    has_profile: bool
    beside_configs: dict[str, Any]


def _flashrl_draft(member: Member, model: str | None, losses: Losses) -> _FlashRLDraft:
    if member.bundle is None:
        assert member.scheme is not None
        if member.scheme not in NEED_NO_MODEL:
            losses.refuse(member.name, f"the scheme name {member.scheme} needs a profile in FlashRL; compile a plan")
        return _FlashRLDraft(default_values(member.scheme), False, {})
    plan = member.bundle.plan
    function = _flashrl_function(plan, member.name, losses)
    losses.settings(plan, said={"vllm", "model"})
    if plan.engine.vllm:
        losses.note("FlashRL has no field for vLLM releases; it was tested up to 0.10")
    kept = _extension(plan)
    values = _kept_values(kept, function, losses)
    if model is not None or plan.engine.model is not None:
        values["model"] = model or plan.engine.model
    needs_model = function not in NEED_NO_MODEL
    if needs_model and "model" not in values:
        losses.refuse(f"{member.name}: model", "FlashRL loads the quantized checkpoint; name it with --model")
    return _FlashRLDraft(values, needs_model, kept.get("beside_configs") or {})


def _flashrl_function(plan: Plan, name: str, losses: Losses) -> str:
    """FlashRL's word for what a plan does; losses where it has none."""
    counts = plan.count_by_treatment()
    schemes = sorted(how for how in counts if how not in {"keep", "rescale"})
    if len(schemes) > 1:
        losses.refuse(name, f"mixes {', '.join(schemes)}; FlashRL has one function for all linears")
    scheme = schemes[0] if schemes else "bf16"
    if scheme == "fp8_block":
        losses.refuse(name, "fp8_block has no FlashRL function")
    if scheme == "fp8":
        for family in plan.tensors:
            spec = TensorSpec(name=expand(family.names)[0], shape=family.shape, dtype=family.dtype)
            if family.treatment == "keep" and is_linear_weight(spec):
                losses.refuse(family.names, "stays bf16, and FlashRL's fp8 quantizes every linear")
    if scheme == "int8":
        if plan.profile is None:
            losses.refuse(name, "quantizes by row absmax at every update; FlashRL needs a profile with fixed scales")
        elif plan.update.scales == "recompute":
            losses.lose("update.scales", "FlashRL cannot take scales from every update; the profile's would be fixed")
        return _int8_function(plan, losses)
    return scheme


def _int8_function(plan: Plan, losses: Losses) -> str:
    treatment = {family.names: family.treatment for family in plan.tensors}
    norms = [entry for entry in plan.smoothing if treatment.get(entry.source) != "int8"]
    pruned = [entry for entry in norms if entry.prune_dead_inputs]
    for entry in norms if pruned else ():
        if not entry.prune_dead_inputs:
            losses.refuse(entry.source, "keeps channels that int8_prune would zero; FlashRL prunes every norm or none")
    return "int8_prune" if pruned else "int8"


def _write_profile(path: Path, bundle: PlanBundle | None) -> None:
    from flashrl_registry.interop.profile_pt import write_int8, write_names

    assert bundle is not None
    if bundle.sidecar is not None:
        write_int8(path, bundle.plan, bundle.sidecar)
        return
    coded = [family for family in bundle.plan.tensors if family.treatment in {"fp8_tensor", "fp8_channel"}]
    write_names(path, [name for family in coded for name in expand(family.names)])


def _kept_values(kept: dict[str, Any], function: str, losses: Losses) -> dict[str, Any]:
    """The entry that the plan was imported from; FlashRL's defaults where there is none, or one of another function."""
    values = kept.get("config")
    if not isinstance(values, dict):
        return default_values(function)
    fits = canonical_scheme(str(values.get("fn", DEFAULT_FUNCTION))) == function
    if not fits or any(value_fault(key, value) for key, value in values.items()):
        losses.note(f"{EXTENSION} is not of this plan's function {function}, and was not used")
        return default_values(function)
    return dict(values)


def _extension(plan: Plan) -> dict[str, Any]:
    """What the plan kept of a FlashRL config."""
    kept = (plan.model_extra or {}).get(EXTENSION)
    return kept if isinstance(kept, dict) else {}


def export_config(
    bundle: PlanBundle, folder: Path, to: Literal["compressed-tensors", "vllm"], *, vllm: str | None, lossy: bool
) -> Exported:
    """Write a plan's ``quantization_config``, or the keyword arguments that make vLLM build its layers.

    Args:
        bundle: The plan.
        folder: Created where missing.
        to: The format.
        vllm: Release whose words are used; the newest that the plan admits by default.
        lossy: Leave out what the format has no word for.

    Raises:
        NotExpressibleError: Everything that the format cannot say.
        ResolutionError: The plan does not admit the release.
    """
    plan = bundle.plan
    losses = Losses("a quantization_config" if to == "compressed-tensors" else "vLLM's arguments", lossy)
    resolved = lower(plan, Environment(vllm=vllm or newest_release(plan), device="cuda"), str(bundle.origin))
    engine = resolved.engine
    losses.profile(plan)
    data: dict[str, Any] = {}
    if to == "compressed-tensors":
        losses.settings(plan, said=())
        if engine.quantization is not None:
            losses.refuse("fp8", "is vLLM's online method; the checkpoint stays bf16 and has no such config")
        elif engine.quantization_config is None:
            losses.refuse("rules", "quantize nothing, and a checkpoint that is not quantized has no such config")
        data = engine.quantization_config or {}
    else:
        losses.settings(plan, said=("vllm", "logprobs_mode", "kv_cache_dtype", "lm_head_dtype"))
        overrides = {"quantization_config": engine.quantization_config, "head_dtype": engine.head_dtype}
        ignored = {"ignore": engine.online_ignore} if engine.online_ignore else None
        arguments = {
            "quantization": engine.quantization,
            "quantization_config": ignored,
            "hf_overrides": {key: value for key, value in overrides.items() if value is not None} or None,
            "logprobs_mode": engine.logprobs_mode,
            "kv_cache_dtype": engine.kv_cache_dtype,
        }
        data = {key: value for key, value in arguments.items() if value is not None}
        losses.note(f"in the words of vLLM {resolved.environment.vllm}")
    losses.check()
    file = folder / (QUANTIZATION_JSON if to == "compressed-tensors" else VLLM_JSON)
    refuse_checkpoint_folder(folder)
    write_atomically(file, (json.dumps(data, indent=2) + "\n").encode())
    return Exported((file,), tuple(losses.notes))


def newest_release(plan: Plan) -> str:
    """The newest vLLM release known here that a plan admits.

    Raises:
        InteropError: It admits none of them.
    """
    admitted = [release for release in _RELEASES if SpecifierSet(plan.engine.vllm).contains(release)]
    if not admitted:
        raise InteropError(f"engine.vllm {plan.engine.vllm} admits none of {', '.join(_RELEASES)}", hint="give --vllm")
    return admitted[0]
