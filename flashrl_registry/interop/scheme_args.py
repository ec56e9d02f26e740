"""compressed-tensors' arguments of a group of layers to one of our schemes, or every key that no scheme has."""

from typing import Any

from flashrl_registry.documents import QuantArgs, SchemeName
from flashrl_registry.documents.findings import describe, did_you_mean
from flashrl_registry.documents.quantization import SCHEME_ARGS
from flashrl_registry.documents.strict_yaml import Path
from flashrl_registry.interop.findings import Findings

# The defaults of compressed-tensors' QuantizationArgs (0.17).
_DEFAULTS: dict[str, Any] = {
    "num_bits": 8, "type": "int", "symmetric": True, "dynamic": False, "group_size": None, "block_structure": None,
}  # fmt: skip
_CALIBRATION = {"observer", "observer_kwargs", "zp_dtype"}
"""How scales were found, or the dtype of a zero point that symmetric codes do not have: the codes mean the same."""
_FLOAT_SCALES = {"torch.bfloat16", "torch.float16", "torch.float32"}
_UNORDERED = {None, False, "weight", "static"}
"""Values of actorder that leave the columns in their order."""
_GROUP_KEYS = {"targets", "weights", "input_activations", "output_activations", "format"}

PRESETS: dict[str, SchemeName] = {
    "UNQUANTIZED": "bf16",
    "W8A8": "int8",
    "INT8": "int8",
    "FP8": "fp8_tensor",
    "FP8_DYNAMIC": "fp8_channel",
    "FP8_BLOCK": "fp8_block",
}
"""compressed-tensors' named schemes that we have."""
STATIC_INPUTS = {"FP8"}
"""Of these, inputs have calibrated scales; here every scale of an input is taken from the input."""


def preset_scheme(name: str, path: Path, found: Findings) -> SchemeName | None:
    """The scheme of a named preset; None, and a fault, where we have none."""
    scheme = PRESETS.get(name.upper())
    if scheme is None:
        found.fault(path, f"no scheme here is {name!r}" + did_you_mean(name.upper(), PRESETS))
    elif name.upper() in STATIC_INPUTS:
        found.note(f"{name} calibrates a scale for inputs; {scheme} takes a scale from every token instead")
    return scheme


def group_scheme(group: dict[str, Any], path: Path, found: Findings, *, lossy: bool) -> SchemeName | None:
    """The scheme of one entry of ``config_groups``.

    Args:
        group: Its content.
        path: Where it stands.
        found: Takes the faults: one for each argument that the nearest scheme does not have.
        lossy: Inputs that are quantized in another way than the scheme's are a note, not a fault.

    Returns:
        The scheme, or None where there are faults.
    """
    before = len(found.faults)
    for key in group:
        if key not in _GROUP_KEYS:
            found.fault((*path, key), "unknown key" + did_you_mean(key, _GROUP_KEYS))
    if group.get("output_activations"):
        found.fault((*path, "output_activations"), "outputs are not quantized here")
    weights = _arguments(group.get("weights"), (*path, "weights"), found)
    inputs = _arguments(group.get("input_activations"), (*path, "input_activations"), found)
    if len(found.faults) > before:
        return None
    if weights is None:
        if inputs is not None:
            found.fault((*path, "weights"), "are not quantized, and inputs are; no scheme does that")
            return None
        return "bf16"
    scheme = _nearest(weights)
    wanted = SCHEME_ARGS[scheme]
    for key, value, ours in _differences(weights, wanted.weights):
        found.fault((*path, "weights", key), f"is {describe(value)}; {scheme} has {describe(ours)}")
    if inputs is None:
        found.loss((*path, "input_activations"), f"are not quantized; {scheme} quantizes them", lossy=lossy)
    for key, value, ours in _differences(inputs, wanted.input_activations) if inputs is not None else ():
        message = f"is {describe(value)}; {scheme} has {describe(ours)}"
        found.loss((*path, "input_activations", key), message, lossy=lossy)
    return scheme if len(found.faults) == before else None


def _arguments(given: Any, path: Path, found: Findings) -> dict[str, Any] | None:
    """Arguments with the defaults filled in; faults for keys whose values mean something that we cannot say."""
    if given is None:
        return None
    if not isinstance(given, dict):
        found.fault(path, f"must be a map, not {describe(given)}")
        return None
    known = {*_DEFAULTS, "strategy", "actorder", "scale_dtype", *_CALIBRATION}
    for key in given:
        if key not in known:
            found.fault((*path, key), "unknown key" + did_you_mean(key, known))
    if given.get("actorder") not in _UNORDERED:
        found.fault((*path, "actorder"), f"{describe(given['actorder'])} permutes columns, which no scheme here does")
    if given.get("scale_dtype") not in {None, *_FLOAT_SCALES}:
        found.fault((*path, "scale_dtype"), f"{describe(given['scale_dtype'])}: scales here are float32")
    values = {key: given.get(key, default) for key, default in _DEFAULTS.items()}
    size = values["group_size"]
    inferred = "tensor" if size is None else "channel" if size == -1 else "group"
    values["strategy"] = given.get("strategy") or inferred
    values["group_size"] = None if size == -1 else size
    for key in ("type", "strategy"):
        values[key] = str(values[key]).lower()
    return values


def _nearest(weights: dict[str, Any]) -> SchemeName:
    """The scheme that shares most arguments with these, so that the faults name what matters."""

    def shared(scheme: SchemeName) -> tuple[bool, bool, int]:
        ours = SCHEME_ARGS[scheme].weights
        same = sum(getattr(ours, key) == value for key, value in weights.items())
        return ours.type == weights["type"], ours.strategy == weights["strategy"], same

    return max(SCHEME_ARGS, key=shared)


def _differences(given: dict[str, Any], ours: QuantArgs) -> list[tuple[str, Any, Any]]:
    return [(key, value, getattr(ours, key)) for key, value in given.items() if getattr(ours, key) != value]
