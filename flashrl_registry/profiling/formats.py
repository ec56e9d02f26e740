"""What the quantized checkpoint's config.json says about how it is quantized, checked against what we can profile.

Three families are read: compressed-tensors (``int-quantized``, ``float-quantized``, ``naive-quantized``), the ``fp8``
of AutoFP8 and vLLM (one scale per tensor or channel), and DeepSeek's ``fp8`` with blocks. Anything else is refused
with the settings that say what it is.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from flashrl_registry.checkpoints import CheckpointIndex
from flashrl_registry.documents import QuantArgs, QuantizedCheckpoint
from flashrl_registry.documents.profile import ProfileScheme
from flashrl_registry.documents.schemes import SYNONYMS
from flashrl_registry.errors import ProfilingError

_COMPRESSED = ("int-quantized", "float-quantized", "naive-quantized")
_STRATEGIES = {"weights": ("tensor", "channel", "group", "block"), "input_activations": ("token", "tensor", "group")}
# compressed-tensors writes every field; a missing one means the default of its QuantizationArgs.
_DEFAULTS = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "tensor", "dynamic": False}
_SHOWN = 60
_IGNORED_WHERE_NULL = ("kv_cache_scheme", "transform_config")
_SCHEMES: dict[str, tuple[ProfileScheme, str]] = {
    "int8": ("int8", "int8"),
    "fp8": ("fp8_tensor", "fp8 with one scale per tensor"),
    "fp8_tensor": ("fp8_tensor", "fp8 with one scale per tensor"),
    "fp8_channel": ("fp8_channel", "fp8 with one scale per output channel"),
    "fp8_block": ("fp8_block", "fp8 with one scale per block"),
}


@dataclass(frozen=True)
class Format:
    """How a checkpoint's linears are stored.

    Attributes:
        checkpoint: What a Profile says of it.
        code_dtype: Element type of a quantized weight.
        scale_suffix: Added to a weight's name for its scales.
        static_inputs: The checkpoint holds ``input_scale`` tensors.
    """

    checkpoint: QuantizedCheckpoint
    code_dtype: Literal["int8", "float8_e4m3fn"]
    scale_suffix: str = "_scale"
    static_inputs: bool = False

    @property
    def scheme(self) -> ProfileScheme | None:
        """The scheme of a profile of it; None where there is none."""
        weights = self.checkpoint.weights
        if weights.type == "int":
            return "int8"
        by_strategy: dict[str, ProfileScheme] = {
            "tensor": "fp8_tensor",
            "channel": "fp8_channel",
            "block": "fp8_block",
        }
        return by_strategy.get(weights.strategy)


def asked_scheme(name: str) -> ProfileScheme:
    """The scheme that ``--fn`` names.

    Raises:
        ProfilingError: No profile is made for it.
    """
    name = SYNONYMS.get(name, name)
    if name not in _SCHEMES:
        raise ProfilingError(
            f"no profile is made for scheme {name!r}", hint=f"the schemes of a profile are {', '.join(_SCHEMES)}"
        )
    return _SCHEMES[name][0]


def check_scheme(found: Format, asked: ProfileScheme) -> None:
    """Refuse a checkpoint of another scheme than the one that was asked for.

    Raises:
        ProfilingError: They differ; says what the checkpoint holds.
    """
    if found.scheme == asked:
        return
    weights, name = found.checkpoint.weights, found.checkpoint.name
    what = f"{'int8' if weights.type == 'int' else 'fp8'} with one scale per {weights.strategy}"
    raise ProfilingError(
        f"{name} holds {what}, and a profile for {asked} was asked for",
        hint=f"--fn {found.scheme}" if found.scheme else "no profile is made for it",
        context={"asked": asked, "found": found.scheme},
    )


def check_reference(index: CheckpointIndex) -> None:
    """Refuse a reference that is quantized itself.

    Raises:
        ProfilingError: config.json has a quantization entry, or a weight is of low precision.
    """
    name = index.inventory.name
    low = next((spec for spec in index.specs.values() if spec.dtype.startswith("float8")), None)
    if _entry(index) is not None or low is not None:
        why = "its config.json has a quantization_config" if low is None else f"{low.name} is {low.dtype}"
        raise ProfilingError(
            f"{name} is quantized and was given as the reference: {why}",
            hint="give the bf16 checkpoint first (-m) and the quantized one second (-qm)",
        )


def read_format(index: CheckpointIndex) -> Format:
    """Describe the low-bit half of a pair.

    Args:
        index: The quantized checkpoint.

    Raises:
        ProfilingError: Not a checkpoint that can be profiled; lists every setting that is in the way.
    """
    name, entry = index.inventory.name, _entry(index)
    if entry is None:
        raise ProfilingError(
            f"{name} is not a quantized checkpoint: its config.json has no quantization_config",
            hint="give the bf16 checkpoint first (-m) and the quantized one second (-qm)",
        )
    method = entry.get("quant_method")
    if method == "compressed-tensors":
        found, faults = _compressed(name, entry)
    elif method == "fp8":
        found, faults = _fp8(index, entry)
    else:
        bits = entry.get("bits", entry.get("w_bit"))
        what = f"quant_method is {_short(method)}" + (f" with {bits} bits" if bits else "")
        found, faults = None, [f"{what}, not 'compressed-tensors' or 'fp8'"]
    if faults or found is None:
        raise ProfilingError(
            f"{name} is quantized in a way that cannot be profiled: {'; '.join(faults)}",
            hint="profiles are made of 8-bit checkpoints: compressed-tensors int8 or fp8, AutoFP8, fp8 with blocks",
            context={"faults": faults},
        )
    return found


def _entry(index: CheckpointIndex) -> dict[str, Any] | None:
    # llm-compressor before late 2024 wrote the same content under the second key.
    entry = index.config.get("quantization_config") or index.config.get("compression_config")
    if entry is not None and not isinstance(entry, dict):
        raise ProfilingError(f"{index.folder / 'config.json'}: quantization_config is {_short(entry)}, not an object")
    return entry


def _compressed(name: str, entry: dict[str, Any]) -> tuple[Format | None, list[str]]:
    groups = entry.get("config_groups")
    faults = [f"{key} is set" for key in _IGNORED_WHERE_NULL if entry.get(key)]
    if entry.get("format") not in _COMPRESSED:
        faults.append(f"format is {_short(entry.get('format'))}, not one of {', '.join(_COMPRESSED)}")
    sparsity = entry.get("sparsity_config") or {}
    if not isinstance(sparsity, dict):
        faults.append(f"sparsity_config is {_short(sparsity)}, not an object")
    elif (kind := sparsity.get("format", "dense")) != "dense":
        faults.append(f"sparsity_config.format is {_short(kind)}, not 'dense'")
    if not isinstance(groups, dict) or not groups:
        what = f"{_short(groups)}, not an object" if groups else "empty" if "config_groups" in entry else "missing"
        return None, [*faults, f"config_groups is {what}"]
    parsed = {key: _group(f"config_groups.{key}", scheme) for key, scheme in groups.items()}
    faults += [fault for _, _, group_faults in parsed.values() for fault in group_faults]
    for position, key in enumerate(("weights", "input_activations")):
        first, *others = (group[position] for group in parsed.values())
        if any(other != first for other in others):
            faults.append(f"config_groups disagree on {key}")
    weights, activations, _ = next(iter(parsed.values()))
    if faults or weights is None:
        return None, faults
    checkpoint = QuantizedCheckpoint(name=name, format=entry["format"], weights=weights, input_activations=activations)
    static = activations is not None and not activations.dynamic
    return Format(checkpoint, "int8" if weights.type == "int" else "float8_e4m3fn", "_scale", static), []


def _group(where: str, scheme: Any) -> tuple[QuantArgs | None, QuantArgs | None, list[str]]:
    if not isinstance(scheme, dict):
        return None, None, [f"{where} is {_short(scheme)}, not an object"]
    faults = []
    if scheme.get("format") not in (None, *_COMPRESSED):
        faults.append(f"{where}.format is {_short(scheme['format'])}, not one of {', '.join(_COMPRESSED)}")
    if scheme.get("output_activations"):
        faults.append(f"{where}.output_activations is set")
    if not scheme.get("weights"):
        faults.append(f"{where}.weights is missing")
    parsed: dict[str, QuantArgs | None] = {"weights": None, "input_activations": None}
    for key in parsed:
        if given := scheme.get(key):
            args, wrong = _args(f"{where}.{key}", key, given)
            parsed[key] = args
            faults += wrong
    return parsed["weights"], parsed["input_activations"], faults


def _args(where: str, kind: str, given: Any) -> tuple[QuantArgs | None, list[str]]:
    if not isinstance(given, dict):
        return None, [f"{where} is {_short(given)}, not an object"]
    values: dict[str, Any] = {
        key: default if given.get(key) is None else given[key] for key, default in _DEFAULTS.items()
    }
    faults = []
    if values["num_bits"] != 8:
        faults.append(f"{where}.num_bits is {_short(values['num_bits'])}, not 8")
    if values["strategy"] not in _STRATEGIES[kind]:
        faults.append(f"{where}.strategy is {_short(values['strategy'])}, not one of {', '.join(_STRATEGIES[kind])}")
    if values["dynamic"] not in ((False,) if kind == "weights" else (True, False)):
        faults.append(f"{where}.dynamic is {_short(values['dynamic'])}")
    if values["type"] == "float" and values["symmetric"] is not True:
        faults.append(f"{where}.symmetric is {_short(values['symmetric'])} for float codes")
    if faults:
        return None, faults
    group_size = given.get("group_size") if values["strategy"] == "group" else None
    structure = given.get("block_structure") if values["strategy"] == "block" else None
    if isinstance(structure, str) and re.fullmatch(r"[0-9]{1,9}x[0-9]{1,9}", structure):
        structure = [int(part) for part in structure.split("x")]  # in files before compressed-tensors 0.10
    try:
        return QuantArgs(**values, group_size=group_size, block_structure=structure), []
    except ValidationError as exc:
        return None, [_sentence(where, error["loc"], error["msg"], error["input"]) for error in exc.errors()]


def _sentence(where: str, place: tuple[int | str, ...], message: str, value: Any) -> str:
    """A fault of a field, or of several together, in the words of a setting."""
    if not place:
        return f"{where}: {message.removeprefix('Value error, ')}"
    return f"{where}.{'.'.join(map(str, place))} is {_short(value)}: {message[:1].lower()}{message[1:]}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _fp8(index: CheckpointIndex, entry: dict[str, Any]) -> tuple[Format | None, list[str]]:
    """``quant_method: fp8``; the scales' shapes say whether there is one per tensor or per channel."""
    faults = []
    if (kind := entry.get("fmt", "e4m3")) not in ("e4m3", "float8_e4m3fn"):
        faults.append(f"fmt is {_short(kind)}, not 'e4m3'")
    if entry.get("kv_cache_scheme"):
        faults.append("kv_cache_scheme is set")
    activation = entry.get("activation_scheme", "dynamic")
    if activation not in ("dynamic", "static"):
        faults.append(f"activation_scheme is {_short(activation)}, not 'dynamic' or 'static'")
    block = entry.get("weight_block_size")
    if block is not None and not (
        isinstance(block, list) and len(block) == 2 and all(type(size) is int and size > 0 for size in block)
    ):
        faults.append(f"weight_block_size is {_short(block)}, not two whole numbers above 0")
    if faults:
        return None, faults
    static = activation == "static"
    suffix = "_scale_inv" if any(name.endswith(".weight_scale_inv") for name in index.specs) else "_scale"
    strategy: Literal["tensor", "channel", "block"] = "block" if block else "tensor"
    if not block and any(name.endswith(suffix) and spec.shape[:1] not in ([], [1]) and name.endswith("weight" + suffix)
                         for name, spec in index.specs.items()):  # fmt: skip
        strategy = "channel"
    weights = QuantArgs(
        num_bits=8, type="float", symmetric=True, strategy=strategy, dynamic=False, block_structure=block
    )
    inputs = QuantArgs(
        num_bits=8, type="float", symmetric=True, dynamic=not static,
        strategy="group" if block else "tensor", group_size=block[1] if block else None,
    )  # fmt: skip
    checkpoint = QuantizedCheckpoint(name=index.inventory.name, format="fp8", weights=weights, input_activations=inputs)
    return Format(checkpoint, "float8_e4m3fn", suffix, static), []
