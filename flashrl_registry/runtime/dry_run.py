"""A plan applied to a model and the installed vLLM, without an engine: every reason why it would not start."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flashrl_registry.checkpoints import (
    CheckpointIndex,
    RemoteCheckpoint,
    read_checkpoint,
    read_inventory,
    read_remote_checkpoint,
)
from flashrl_registry.compiler.dialect import dialect_of
from flashrl_registry.documents import Environment, Inventory
from flashrl_registry.errors import FlashRLError
from flashrl_registry.interop.flashrl_config import read_config
from flashrl_registry.registry import Chain, PlanRef, PresetRef, default_registry_root, open_chain
from flashrl_registry.resolver import Resolution, open_hybrid, resolve
from flashrl_registry.runtime.doctor import Check, InstalledVLLM
from flashrl_registry.runtime.reference import find_flashrl_config, plan_reference
from flashrl_registry.runtime.settings import CONFIG, settings_from_env
from flashrl_registry.runtime.start_model import check_start_model

_NEEDS_MODEL = "give the engine's model with -m, a folder or owner/name on the Hub; only headers are read"


@dataclass(frozen=True)
class _Engine:
    """What plans are resolved for."""

    inventory: Inventory | None
    environment: Environment
    store: Chain


def dry_apply(
    config: str | None, model: str | None, vllm: InstalledVLLM | None, environ: Mapping[str, str]
) -> list[Check]:
    """Resolve a plan as an engine would.

    Args:
        config: What FLASHRL_CONFIG would be; None takes the variable.
        model: The engine's bf16 model: a folder, or ``owner/name`` on the Hub.
        vllm: The installed one.
        environ: Environment variables.

    Returns:
        One check per plan; a hybrid has several.
    """
    name = config or environ.get(CONFIG, "").strip()
    if not name:
        return [Check("plan", "ok", f"none to look at: no REF, and {CONFIG} is not set")]
    if vllm is None:
        return [Check("plan", "warn", f"{name} was not looked at: vLLM is not installed")]
    try:
        with tempfile.TemporaryDirectory() as scratch:
            return _plans(name, model, vllm, environ, Path(scratch)) + _head(vllm, environ)
    except FlashRLError as exc:
        return [Check("plan", "fail", exc.message, exc.hint or "")]
    except ModuleNotFoundError as exc:  # a FlashRL profile is read with torch
        return [Check("plan", "fail", f"{name} needs {exc.name}", 'pip install "flashrl-registry[torch]"')]


def _plans(name: str, model: str | None, vllm: InstalledVLLM, environ: Mapping[str, str], scratch: Path) -> list[Check]:
    inventory = read_inventory(model) if model is not None else None
    foreign = find_flashrl_config(name)
    if foreign is not None and inventory is None:
        entries = read_config(foreign.path).entries
        schemes = ", ".join(entry.scheme for entry in entries)
        return [Check("plan", "warn", f"{name} is a FlashRL config ({schemes}), and was not compiled", _NEEDS_MODEL)]
    root = default_registry_root(environ)
    # What a FlashRL config compiles to is kept at an engine's start; looking leaves nothing behind.
    ref = plan_reference(name, scratch if foreign is not None else root, lambda: inventory)
    engine = _Engine(inventory, Environment(vllm=vllm.version, device=vllm.device), open_chain(environ))
    opened = open_hybrid(ref, engine.store)
    if opened is None:
        return [_plan(name, ref, None, engine)]
    return [
        _plan(f"{name}, member '{member.name}'", opened.ref_for(member), member.digest, engine)
        for member in opened.hybrid.members
    ]


def _plan(name: str, ref: PlanRef, pinned: str | None, engine: _Engine) -> Check:
    inventory = engine.inventory
    if inventory is None and isinstance(ref, PresetRef):
        return Check("plan", "warn", f"{name} compiles a plan for the engine's model, and none was given", _NEEDS_MODEL)
    try:
        resolution = resolve(ref, inventory, engine.environment, engine.store)
        _check_start(resolution)
    except FlashRLError as exc:
        return Check("plan", "fail", f"{name}: {exc.message}", exc.hint or "")
    if pinned not in {None, resolution.plan.digest}:
        return Check(
            "plan", "fail", f"{name} is {resolution.plan.digest}, and the hybrid pins {pinned}", "pin it again"
        )
    if inventory is None:
        model = resolution.plan.base_model.name
        return Check("plan", "warn", f"{_told(name, resolution)}; no model was given to compare with {model}",
                     _NEEDS_MODEL)  # fmt: skip
    return Check("plan", "ok", f"{_told(name, resolution)}, for {inventory.name}")


def _check_start(resolution: Resolution) -> None:
    """The checkpoint that the plan names for the start, by its headers."""
    model = resolution.resolved.engine.start_model
    if model is None:
        return
    checkpoint: CheckpointIndex | RemoteCheckpoint
    if (folder := Path(model).expanduser()).is_dir():
        checkpoint = read_checkpoint(folder)
    else:
        repo, _, revision = model.partition("@")
        checkpoint = read_remote_checkpoint(repo, revision or None)
    specs = {tensor.name: tensor for tensor in checkpoint.inventory.tensors}
    check_start_model(resolution.resolved, checkpoint.config, specs)


def _told(name: str, resolution: Resolution) -> str:
    counts = ", ".join(f"{count} {how}" for how, count in sorted(resolution.plan.count_by_treatment().items()))
    start = resolution.resolved.engine.start_model
    begins = "" if start is None else f", starts with {start},"
    environment = resolution.resolved.environment
    return f"{name}: {counts}{begins} in vLLM {environment.vllm} on {environment.device}, {resolution.plan.digest}"


def _head(vllm: InstalledVLLM, environ: Mapping[str, str]) -> list[Check]:
    if not settings_from_env(environ).lm_head_fp32 or dialect_of(vllm.version).honours_head_dtype:
        return []
    message = f"vLLM {vllm.version} ignores head_dtype, so FLASHRL_LMHEAD_FP32=1 stops the engine"
    return [Check("plan", "fail", message, "install vLLM 0.27.1 or newer, or unset it")]
