"""Do two checkpoints hold the same tensors? Decided on headers alone, before any weight is read."""

from flashrl_registry.checkpoints import CheckpointIndex
from flashrl_registry.documents import TensorSpec
from flashrl_registry.documents.names import natural_key
from flashrl_registry.profiling.faults import Fault, refuse
from flashrl_registry.profiling.relations import is_known_linear

_FLOATS = {"bfloat16", "float16", "float32"}
_EXTRAS = {
    "_zero_point": "is a zero point; only symmetric quantization can be profiled",
    "_g_idx": "is a group index; only one scale per output channel can be profiled",
    "_packed": "holds packed codes; only int8 codes can be profiled",
    "input_scale": "is a static activation scale; only dynamic activations can be profiled",
}
"""What tensors of other quantization schemes are called, and why they are refused."""


def corresponding_linears(reference: CheckpointIndex, quantized: CheckpointIndex) -> list[str]:
    """Match two checkpoints tensor by tensor.

    Args:
        reference: The bf16 checkpoint.
        quantized: The int8 checkpoint: the same names and shapes, and ``<weight>_scale`` for each int8 weight.

    Returns:
        The weights that are int8 in ``quantized``, in natural order.

    Raises:
        CheckpointMismatchError: Names, shapes or dtypes do not correspond; lists every tensor.
    """
    faults: list[Fault] = []
    linears: list[str] = []
    for spec in reference.inventory.tensors:
        twin = quantized.specs.get(spec.name)
        if twin is not None and twin.dtype == "int8" and spec.dtype in _FLOATS:
            linears.append(spec.name)
            faults += _linear_faults(spec, twin, quantized.specs)
        else:
            faults += _other_faults(spec, twin, quantized.specs)
    scales = {f"{name}_scale" for name in linears}
    for name in quantized.specs:
        if name not in reference.specs and name not in scales:
            reasons = [reason for suffix, reason in _EXTRAS.items() if name.endswith(suffix)]
            faults.append(Fault(name, reasons[0] if reasons else "is not in the reference checkpoint"))
    if not linears and not faults:
        faults.append(Fault(quantized.inventory.name, "holds no int8 weight"))
    refuse(
        sorted(faults, key=lambda fault: natural_key(fault.name)),
        f"{quantized.inventory.name} does not correspond to {reference.inventory.name}",
        hint="the pair must be one model, once in bf16 and once in int8",
    )
    return sorted(linears, key=natural_key)


def _linear_faults(spec: TensorSpec, twin: TensorSpec, specs: dict[str, TensorSpec]) -> list[Fault]:
    name = spec.name
    if twin.shape != spec.shape:
        return [Fault(name, f"has shape {spec.shape} in the reference and {twin.shape} in the quantized checkpoint")]
    if not name.endswith(".weight") or len(spec.shape) != 2 or 0 in spec.shape:
        return [Fault(name, "is int8 but not a matrix of a linear layer")]
    if not is_known_linear(name):
        return [Fault(name, "is quantized, and nothing is known about what feeds it")]
    return _scale_faults(f"{name}_scale", spec.shape[0], specs)


def _scale_faults(name: str, rows: int, specs: dict[str, TensorSpec]) -> list[Fault]:
    scale = specs.get(name)
    if scale is None:
        return [Fault(name, "is missing from the quantized checkpoint")]
    if scale.dtype not in _FLOATS:
        return [Fault(name, f"is {scale.dtype}, not a floating-point scale")]
    if scale.shape not in ([rows], [rows, 1]):
        return [Fault(name, f"has shape {scale.shape}, which is not one scale per output channel: [{rows}, 1]")]
    return []


def _other_faults(spec: TensorSpec, twin: TensorSpec | None, specs: dict[str, TensorSpec]) -> list[Fault]:
    if spec.dtype not in _FLOATS:
        return [Fault(spec.name, f"is {spec.dtype} in the reference checkpoint, not a float")]
    if twin is None:
        # A packed weight has another name; its own fault says more.
        packed = f"{spec.name}_packed" in specs
        return [] if packed else [Fault(spec.name, "is missing from the quantized checkpoint")]
    if twin.dtype not in _FLOATS:
        return [Fault(spec.name, f"is {twin.dtype} in the quantized checkpoint; only int8 codes can be profiled")]
    if twin.shape != spec.shape:
        reason = f"has shape {spec.shape} in the reference and {twin.shape} in the quantized checkpoint"
        return [Fault(spec.name, reason)]
    return []
