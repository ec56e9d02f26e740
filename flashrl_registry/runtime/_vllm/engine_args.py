"""A plan into EngineArgs, and proof that the VllmConfig made from them carries it."""

from collections.abc import Mapping, MutableMapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from flashrl_registry.compiler.dialect import dialect_of
from flashrl_registry.documents import EngineArguments
from flashrl_registry.errors import FlashRLError, NotServableError, PluginNotActiveError, ResolutionError
from flashrl_registry.registry import PresetRef, open_chain
from flashrl_registry.resolver import Resolution, make_payload, resolve
from flashrl_registry.runtime._vllm import compat, refusals
from flashrl_registry.runtime._vllm.locate import read_model, read_start_model
from flashrl_registry.runtime._vllm.members import Member
from flashrl_registry.runtime.gate import SERVE_HINT, Gate, create_gate, open_gate
from flashrl_registry.runtime.log import logger
from flashrl_registry.runtime.settings import Settings
from flashrl_registry.runtime.start_model import check_start_model

PAYLOAD_KEY = "flashrl"
_GATE = "FLASHRL_GATE"
FIELDS = (
    "load_format", "model_loader_extra_config", "hf_overrides", "logprobs_mode", "quantization",
    "quantization_config", "kv_cache_dtype",
)  # fmt: skip
"""Engine arguments that a plan sets."""


def apply_plan(
    args: Any, settings: Settings, environ: Mapping[str, str], member: Member, gate: Path
) -> Resolution | None:
    """Resolve the plan and set the engine arguments that it needs.

    Args:
        args: ``vllm.EngineArgs``; modified.
        settings: The environment's settings.
        environ: For the registry's place.
        member: The plan.
        gate: From :func:`gate_for`.

    Returns:
        The resolution; None when the plan needs no loader.

    Raises:
        FlashRLError: The plan cannot run with these arguments. The engine does not start.
    """
    refusals.check_plugins(environ)
    refusals.check_arguments(args)
    ref = member.ref
    store = open_chain(environ)
    inventory = read_model(args)
    if inventory is None and isinstance(ref, PresetRef) and ref.scheme == "bf16" and not member.name:
        # Nothing is quantized, so nothing needs the names: any model that vLLM serves, in any file format.
        args.logprobs_mode = "processed_logprobs"
        _merge_overrides(args, None, lm_head_fp32=_lm_head_fp32(settings))
        if settings.test_reload:
            logger.warning("FLASHRL_TEST_RELOAD needs a model with safetensors headers; nothing is reloaded")
        logger.info("FLASHRL_CONFIG=bf16: logprobs are those of the sampling distribution; weights are not watched")
        return None
    resolution = resolve(ref, inventory, compat.probe_environment(args.tensor_parallel_size), store)
    member.check(resolution)
    engine = resolution.resolved.engine
    payload = make_payload(
        resolution, gate, args.load_format, dict(args.model_loader_extra_config or {}),
        member=member.name, replicas=member.replicas, numbered=member.numbered,
    )  # fmt: skip
    payload = replace(payload, test_reload=settings.test_reload, **_start_fields(args, resolution))
    args.model_loader_extra_config = {PAYLOAD_KEY: payload.as_dict()}
    args.load_format = "flashrl"
    args.logprobs_mode = engine.logprobs_mode
    lm_head_fp32 = _lm_head_fp32(settings) or engine.head_dtype == "float32"
    _merge_overrides(args, engine.quantization_config, lm_head_fp32=lm_head_fp32)
    refusals.check_resolution(args, resolution)
    _set_online_method(args, engine)
    _set_kv_cache_dtype(args, engine)
    logger.info(
        "plan %s (%s) for %s: %s",
        resolution.plan.digest,
        f"{settings.config}, member '{member.name}'" if member.name else settings.config,
        resolution.plan.base_model.name,
        ", ".join(f"{count} {how}" for how, count in sorted(resolution.plan.count_by_treatment().items())),
    )
    return resolution


def _start_fields(args: Any, resolution: Resolution) -> dict[str, Any]:
    """What the payload says of the checkpoint that the plan's engine starts with."""
    model = resolution.resolved.engine.start_model
    if model is None:
        return {}
    if args.load_format == "dummy":
        logger.info("load_format='dummy': the engine starts with random weights, not with those of %s", model)
        return {}
    index, place, revision = read_start_model(args, model)
    quantized = check_start_model(resolution.resolved, index.config, index.specs)
    how = "its own codes and scales" if quantized else "its weights, quantized by the plan"
    logger.info("the plan starts the engine with %s: %s", model, how)
    return {"start_model": place, "start_revision": revision, "start_quantized": quantized}


def _lm_head_fp32(settings: Settings) -> bool:
    """FLASHRL_LMHEAD_FP32, where it would do something."""
    if settings.lm_head_fp32 and not dialect_of(compat.vllm_version()).honours_head_dtype:
        raise ResolutionError(
            f"FLASHRL_LMHEAD_FP32=1, and vLLM {compat.vllm_version()} ignores head_dtype: logits would stay bf16",
            hint="install vLLM 0.27.1 or newer, or unset FLASHRL_LMHEAD_FP32",
        )
    return settings.lm_head_fp32


def gate_for(args: Any, environ: MutableMapping[str, str]) -> Path:
    """The file by which workers tell front ends whether they serve; one for all HTTP servers of an engine.

    ``vllm serve`` with several API servers makes the configuration once in the process that starts the engines and
    again in every server; only the first is what the workers get.

    Args:
        args: ``vllm.EngineArgs``.
        environ: This process's environment, which its children inherit.
    """
    if getattr(args, "_api_process_count", 1) == 1:
        return create_gate()
    if args._api_process_rank >= 0 and (given := environ.get(_GATE)):
        return Path(given)
    gate = create_gate()
    environ[_GATE] = str(gate)
    return gate


def _merge_overrides(args: Any, quantization_config: dict[str, Any] | None, *, lm_head_fp32: bool) -> None:
    overrides = dict(args.hf_overrides or {})
    if quantization_config is not None:
        overrides["quantization_config"] = quantization_config
    if lm_head_fp32:
        overrides["head_dtype"] = "float32"
    args.hf_overrides = overrides


def _set_online_method(args: Any, engine: EngineArguments) -> None:
    if engine.quantization is not None:
        args.quantization = engine.quantization
        args.quantization_config = compat.online_quantization(engine.quantization, engine.online_ignore or [])


def _set_kv_cache_dtype(args: Any, engine: EngineArguments) -> None:
    if engine.kv_cache_dtype is None:
        return
    if args.kv_cache_dtype not in {"auto", engine.kv_cache_dtype}:
        raise FlashRLError(
            f"the program passes kv_cache_dtype='{args.kv_cache_dtype}' and the plan says '{engine.kv_cache_dtype}'",
            hint="drop the program's argument, or engine.kv_cache_dtype from the plan's rules",
        )
    args.kv_cache_dtype = engine.kv_cache_dtype


def confirm(config: Any, applied: Resolution | None) -> None:
    """Check that vLLM took the plan.

    Raises:
        ResolutionError: vLLM built another quantization than the plan's.
        PluginNotActiveError: The loader is not the plan's.
    """
    if applied is None:
        return
    if config.load_config.load_format != "flashrl":
        raise PluginNotActiveError(f"vLLM replaced load_format 'flashrl' by '{config.load_config.load_format}'")
    engine = applied.resolved.engine
    wanted = "compressed-tensors" if engine.quantization_config is not None else engine.quantization
    actual = config.model_config.quantization
    if actual != wanted:
        raise ResolutionError(
            f"the plan asks for quantization {wanted}, the engine has {actual}",
            hint="the model's own config.json may carry a quantization_config; a plan is for the bf16 checkpoint",
        )


def check_front_end(vllm_config: Any) -> bytes | None:
    """Before a front end accepts a request.

    Returns:
        Which updates there were, where weights have changed since the front end last dropped its cached prefixes;
        None where they have not.

    Raises:
        NotServableError: A worker's weights are not one whole update.
    """
    gate = _gate_of(vllm_config)
    if gate is None:
        return None
    reason = gate.reason()
    if reason is not None:
        gate.count_refusal()
        raise NotServableError(f"the engine refuses to generate: {reason}", hint=SERVE_HINT)
    updates = gate.updates()
    return None if _seen_updates.setdefault(gate.path, bytes(len(updates))) == updates else updates


def updates_of(vllm_config: Any) -> bytes | None:
    """Which updates there were, as the engine's workers tell; None where this machine cannot know."""
    gate = _gate_of(vllm_config)
    return None if gate is None else gate.updates()


def prefixes_dropped(vllm_config: Any, updates: bytes) -> None:
    """The front end has dropped its cached prefixes.

    Args:
        vllm_config: The engine's.
        updates: What :func:`check_front_end` returned before; an update since then has made others stale.
    """
    gate = _gate_of(vllm_config)
    if gate is not None:
        _seen_updates[gate.path] = updates


_seen_updates: dict[Path, bytes] = {}


def _gate_of(vllm_config: Any) -> Gate | None:
    extra = vllm_config.load_config.model_loader_extra_config
    payload = extra.get(PAYLOAD_KEY) if isinstance(extra, dict) else None
    return None if payload is None else _open_gate(payload["gate"])


@cache
def _open_gate(path: str) -> Gate | None:
    return open_gate(Path(path))
