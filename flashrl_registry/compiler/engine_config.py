"""The ``quantization_config`` that makes vLLM build the layers that a plan's codes go into."""

import re
from collections.abc import Sequence
from typing import Literal

from flashrl_registry.compiler.modules import is_embedding_weight, module_of
from flashrl_registry.documents import (
    EngineFp8,
    Keep,
    Plan,
    QuantizeFp8,
    QuantizeInt8,
    ResolvedTensor,
    SchemeName,
)
from flashrl_registry.documents.names import factor, natural_key
from flashrl_registry.documents.plan import Treatment
from flashrl_registry.documents.quantization import SCHEME_ARGS
from flashrl_registry.documents.resolved import TensorOp

_FORMATS = {"int": "int-quantized", "float": "float-quantized"}
_Fp8Scheme = Literal["fp8_tensor", "fp8_channel", "fp8_block"]
_FP8_SCHEMES: dict[str, _Fp8Scheme] = {"tensor": "fp8_tensor", "channel": "fp8_channel", "block": "fp8_block"}


def scheme_of_op(op: TensorOp) -> SchemeName | None:
    """The scheme whose layer an operation feeds; None where it makes no codes."""
    if isinstance(op, QuantizeInt8):
        return "int8"
    return _FP8_SCHEMES[op.strategy] if isinstance(op, QuantizeFp8) else None


def treatment_of(op: TensorOp) -> Treatment:
    """The plan's word for an operation."""
    if isinstance(op, QuantizeFp8):
        return _FP8_SCHEMES[op.strategy]
    return "fp8" if isinstance(op, EngineFp8) else op.kind


def compressed_tensors_config(tensors: Sequence[ResolvedTensor]) -> dict[str, object] | None:
    """The ``quantization_config`` of a compressed-tensors checkpoint, as llm-compressor writes it.

    With one scheme, vLLM matches ``Linear`` by class and ``ignore`` by module name, fused shards included: a list of
    exact names says what stays unquantized without a pattern that could match too much. With several, each group
    names its modules, for a class target would win over a fused module's shards.

    Returns:
        Plain data; None where no tensor gets codes.
    """
    modules: dict[SchemeName, list[str]] = {}
    for tensor in tensors:
        scheme = scheme_of_op(tensor.op)
        if scheme is not None:
            modules.setdefault(scheme, []).append(module_of(tensor.name))
    if not modules:
        return None
    formats = {scheme: _FORMATS[SCHEME_ARGS[scheme].weights.type] for scheme in modules}
    whole = len(modules) == 1
    groups = {}
    for index, scheme in enumerate(sorted(modules)):
        args = SCHEME_ARGS[scheme]
        groups[f"group_{index}"] = {
            "targets": ["Linear"] if whole else _patterns(modules[scheme]),
            "weights": args.weights.model_dump(exclude_none=True),
            "input_activations": args.input_activations.model_dump(exclude_none=True),
            **({} if whole else {"format": formats[scheme]}),
        }
    return {
        "quant_method": "compressed-tensors",
        "format": next(iter(formats.values())) if len(set(formats.values())) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": unquantized_linears(tensors),
    }


def online_experts(plan: Plan) -> list[str]:
    """Families of experts that vLLM itself quantizes as they arrive."""
    return [family.names for family in plan.tensors if family.treatment == "fp8" and ".experts." in family.names]


def unquantized_linears(tensors: Sequence[ResolvedTensor]) -> list[str]:
    """Modules with a matrix that stays as the trainer sends it; routers and the head among them."""
    ignore = [
        module_of(tensor.name)
        for tensor in tensors
        if isinstance(tensor.op, Keep)
        and tensor.name.endswith(".weight")
        and len(tensor.shape) >= 2
        and not is_embedding_weight(tensor.name)
    ]
    if "lm_head" not in ignore:  # tied heads have no tensor of their own
        ignore.append("lm_head")
    return ignore


def _patterns(modules: Sequence[str]) -> list[str]:
    """Regular expressions that match these modules and nothing else, one per family.

    compressed-tensors knows no families and compares every target with every layer: tens of thousands of names would
    take minutes.
    """
    return [f"re:{_pattern(family)}$" for family in sorted(factor(modules), key=natural_key)]


def _pattern(family: str) -> str:
    pieces = re.split(r"\{([^{}]*)\}", family)
    literals, braces = pieces[0::2], pieces[1::2]
    text = re.escape(literals[0])
    for brace, literal in zip(braces, literals[1:], strict=True):
        indices = [
            str(index)
            for item in brace.split(",")
            for first, _, last in [item.partition("..")]
            for index in range(int(first), int(last or first) + 1)
        ]
        text += "(?:" + "|".join(indices) + ")" + re.escape(literal)
    return text
