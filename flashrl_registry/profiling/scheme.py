"""What the quantized checkpoint's config.json says about how it is quantized, checked against what we can profile."""

from typing import Any

from flashrl_registry.checkpoints import CheckpointIndex
from flashrl_registry.documents import QuantArgs, QuantizedCheckpoint
from flashrl_registry.documents.quantization import INT8_ACTIVATIONS, INT8_WEIGHTS
from flashrl_registry.errors import ProfilingError

_FORMAT = "int-quantized"
# compressed-tensors writes every field; a missing one means the default of its QuantizationArgs.
_DEFAULTS = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": None, "dynamic": False}


def check_reference(index: CheckpointIndex) -> None:
    """Refuse a reference that is quantized itself.

    Raises:
        ProfilingError: config.json has a quantization entry.
    """
    if _entry(index) is not None:
        raise ProfilingError(
            f"{index.inventory.name} is quantized and was given as the reference",
            hint="give the bf16 checkpoint first and the quantized one second",
        )


def quantized_checkpoint(index: CheckpointIndex) -> QuantizedCheckpoint:
    """Describe the low-bit half of a pair.

    Args:
        index: A compressed-tensors checkpoint: symmetric int8 weights with one scale per output channel; inputs
            quantized per token at run time, or not at all.

    Returns:
        The part of a Profile that names the checkpoint and its scheme.

    Raises:
        ProfilingError: Not such a checkpoint; lists every setting that differs.
    """
    name, entry = index.inventory.name, _entry(index)
    if entry is None:
        raise ProfilingError(
            f"{name} is not a quantized checkpoint: its config.json has no quantization_config",
            hint="give a W8A8 checkpoint in compressed-tensors' int-quantized format",
        )
    groups: dict[str, Any] = entry.get("config_groups") or {}
    faults = [
        f"{key} is {entry.get(key)!r}, not {wanted!r}"
        for key, wanted in (("quant_method", "compressed-tensors"), ("format", _FORMAT))
        if entry.get(key) != wanted
    ]
    faults += [f"{key} is set" for key in ("kv_cache_scheme", "transform_config") if entry.get(key)]
    if (sparsity := (entry.get("sparsity_config") or {}).get("format", "dense")) != "dense":
        faults.append(f"sparsity_config.format is {sparsity!r}, not 'dense'")
    if not groups:
        faults.append("config_groups is empty")
    for group, scheme in groups.items():
        faults += _group_faults(f"config_groups.{group}", scheme)
    activations = {
        key: INT8_ACTIVATIONS if isinstance(group, dict) and group.get("input_activations") else None
        for key, group in groups.items()
    }
    if len(set(activations.values())) > 1:
        faults.append("config_groups disagree on input_activations")
    if faults:
        raise ProfilingError(
            f"{name} is quantized in a way that cannot be profiled: {'; '.join(faults)}",
            hint="profiles are made of symmetric int8 checkpoints with one scale per output channel",
            context={"faults": faults},
        )
    return QuantizedCheckpoint(
        name=name, format=_FORMAT, weights=INT8_WEIGHTS, input_activations=next(iter(activations.values()))
    )


def _entry(index: CheckpointIndex) -> dict[str, Any] | None:
    # llm-compressor before late 2024 wrote the same content under the second key.
    entry = index.config.get("quantization_config") or index.config.get("compression_config")
    if entry is not None and not isinstance(entry, dict):
        raise ProfilingError(f"{index.folder / 'config.json'}: quantization_config is not an object")
    return entry


def _group_faults(where: str, scheme: Any) -> list[str]:
    if not isinstance(scheme, dict):
        return [f"{where} is not an object"]
    faults = []
    if scheme.get("format") not in (None, _FORMAT):
        faults.append(f"{where}.format is {scheme['format']!r}, not {_FORMAT!r}")
    if scheme.get("output_activations"):
        faults.append(f"{where}.output_activations is set")
    if not scheme.get("weights"):
        faults.append(f"{where}.weights is missing")
    for key, wanted in (("weights", INT8_WEIGHTS), ("input_activations", INT8_ACTIVATIONS)):
        if given := scheme.get(key):
            faults += _args_faults(f"{where}.{key}", given, wanted)
    return faults


def _args_faults(where: str, given: Any, wanted: QuantArgs) -> list[str]:
    if not isinstance(given, dict):
        return [f"{where} is not an object"]
    return [
        f"{where}.{field} is {actual!r}, not {value!r}"
        for field, value in wanted.model_dump(exclude_none=True).items()
        if (actual := given.get(field, _DEFAULTS[field])) != value
    ]
