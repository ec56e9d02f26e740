"""Do two checkpoints hold the same tensors? Decided on headers alone, before any weight is read."""

from flashrl_registry.checkpoints import CheckpointIndex
from flashrl_registry.documents import QuantArgs, TensorSpec
from flashrl_registry.documents.names import natural_key
from flashrl_registry.profiling.faults import Fault, refuse
from flashrl_registry.profiling.formats import Format

FLOATS = {"bfloat16", "float16", "float32"}
_CODES = {"int8", "uint8", "float8_e4m3fn", "float8_e5m2"}
_EXTRAS = {
    "_g_idx": "is a group index; groups of columns that are out of order cannot be profiled",
    "_packed": "holds packed codes; only codes of one byte can be profiled",
    "_zero_point": "is a zero point, and the config says that the codes are symmetric",
    "input_scale": "is a static activation scale, and the config says that activations are dynamic",
    "_scale_inv": "is a scale per block, and the config says otherwise",
}
"""What tensors of other quantization schemes are called, and why they are refused."""


def corresponding_linears(reference: CheckpointIndex, quantized: CheckpointIndex, form: Format) -> list[str]:
    """Match two checkpoints tensor by tensor.

    Args:
        reference: The bf16 checkpoint.
        quantized: The low-bit checkpoint: the same names and shapes, and scales for each weight that is codes.
        form: How it is quantized.

    Returns:
        The weights that are codes in ``quantized``, in natural order.

    Raises:
        CheckpointMismatchError: Names, shapes or dtypes do not correspond; lists every tensor.
    """
    faults: list[Fault] = []
    linears: list[str] = []
    extras: set[str] = set()
    for spec in reference.inventory.tensors:
        twin = quantized.specs.get(spec.name)
        if twin is not None and twin.dtype == form.code_dtype and spec.dtype in FLOATS:
            linears.append(spec.name)
            found, own = _linear_faults(spec, twin, quantized.specs, form)
            faults += found
            extras |= own
        else:
            faults += _other_faults(spec, twin, quantized.specs, form)
    for name in quantized.specs:
        if name not in reference.specs and name not in extras:
            reasons = [reason for suffix, reason in _EXTRAS.items() if name.endswith(suffix)]
            faults.append(Fault(name, reasons[0] if reasons else "is not in the reference checkpoint"))
    if not linears and not faults:
        faults.append(Fault(quantized.inventory.name, f"holds no {form.code_dtype} weight"))
    refuse(
        sorted(faults, key=lambda fault: natural_key(fault.name)),
        f"{quantized.inventory.name} does not correspond to {reference.inventory.name}",
        hint="the pair must be one model, once in bf16 and once in low precision",
    )
    return sorted(linears, key=natural_key)


def scale_name(weight: str, form: Format) -> str:
    """Tensor that holds a weight's scales."""
    return weight + form.scale_suffix


def zero_point_name(weight: str) -> str:
    """Tensor that holds a weight's zero points, where there are any."""
    return weight + "_zero_point"


def scale_shapes(shape: list[int], args: QuantArgs) -> list[list[int]]:
    """Shapes that a weight's scales may have; each is a grid, row by row, of :func:`grid_shape`."""
    parts, rows, columns = shape[:-2], shape[-2], shape[-1]
    if args.strategy == "tensor":
        return [parts, [*parts, 1], [*parts, 1, 1]]
    if args.strategy == "channel":
        return [[*parts, rows], [*parts, rows, 1]]
    row_block, column_block = block_size(shape, args)
    return [[*parts, -(-rows // row_block), -(-columns // column_block)]]


def block_size(shape: list[int], args: QuantArgs) -> tuple[int, int]:
    """Rows and columns that share a scale."""
    rows, columns = shape[-2], shape[-1]
    if args.strategy == "tensor":
        return rows, columns
    if args.strategy == "group":
        return 1, args.group_size or columns
    if args.strategy == "block" and args.block_structure:
        return args.block_structure[0], args.block_structure[1]
    return 1, columns


def _linear_faults(
    spec: TensorSpec, twin: TensorSpec, specs: dict[str, TensorSpec], form: Format
) -> tuple[list[Fault], set[str]]:
    name, args = spec.name, form.checkpoint.weights
    scale, zero = scale_name(name, form), zero_point_name(name)
    module = name.removesuffix("weight")
    inputs = {f"{module}input_scale", f"{module}input_zero_point"} if form.static_inputs else set()
    own = {scale, *inputs} | (set() if args.symmetric else {zero})
    if args.symmetric and zero in specs and form.checkpoint.format == "naive-quantized":
        own.add(zero)  # compressed-tensors before 0.8 wrote zeros for symmetric codes
    if twin.shape != spec.shape:
        reason = f"has shape {spec.shape} in the reference and {twin.shape} in the quantized checkpoint"
        return [Fault(name, reason)], own
    if len(spec.shape) not in (2, 3) or 0 in spec.shape:
        return [Fault(name, f"is {form.code_dtype} but not a matrix of a linear layer")], own
    if (
        len(spec.shape) == 3
        and block_size(spec.shape, args)[0] > 1
        and spec.shape[-2] % block_size(spec.shape, args)[0]
    ):
        return [Fault(name, "holds experts whose rows do not fill whole blocks")], own
    faults = _scale_faults(scale, spec.shape, specs, args)
    if not args.symmetric:
        faults += _scale_faults(zero, spec.shape, specs, args, floats=False)
    return faults, own


def _scale_faults(
    name: str, shape: list[int], specs: dict[str, TensorSpec], args: QuantArgs, *, floats: bool = True
) -> list[Fault]:
    scale = specs.get(name)
    if scale is None:
        return [Fault(name, "is missing from the quantized checkpoint")]
    if floats and scale.dtype not in FLOATS:
        return [Fault(name, f"is {scale.dtype}, not a floating-point scale")]
    shapes = scale_shapes(shape, args)
    if scale.shape not in shapes:
        what = {"tensor": "one scale per tensor", "channel": "one scale per output channel"}.get(
            args.strategy, f"one scale per {args.strategy} of {' x '.join(map(str, block_size(shape, args)))}"
        )
        return [Fault(name, f"has shape {scale.shape}, which is not {what}: {shapes[-1]}")]
    return []


def _other_faults(spec: TensorSpec, twin: TensorSpec | None, specs: dict[str, TensorSpec], form: Format) -> list[Fault]:
    if spec.dtype not in FLOATS:
        return [Fault(spec.name, f"is {spec.dtype} in the reference checkpoint, not a float")]
    if twin is None:
        # A packed weight has another name; its own fault says more.
        packed = f"{spec.name}_packed" in specs
        return [] if packed else [Fault(spec.name, "is missing from the quantized checkpoint")]
    if twin.dtype not in FLOATS:
        what = f"the config says {form.code_dtype}" if twin.dtype in _CODES else "it must be a float or codes"
        return [Fault(spec.name, f"is {twin.dtype} in the quantized checkpoint; {what}")]
    if twin.shape != spec.shape:
        reason = f"has shape {spec.shape} in the reference and {twin.shape} in the quantized checkpoint"
        return [Fault(spec.name, reason)]
    return []
