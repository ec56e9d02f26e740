"""Fake quantization: quantize with the project's operations, then multiply back.

An engine quantizes the inputs of a linear as its weight is quantized: int8 with one scale per token, fp8 with one per
token or per 128 channels of a token. A token's row of inputs is to that what an output channel's row is to a weight,
so one set of operations serves both.

Shape legend: T tokens, O output channels, I input columns, E experts.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from flashrl_registry import ops
from flashrl_registry.documents import SchemeName
from flashrl_registry.documents.quantization import FP8_BLOCK, SCHEME_ARGS

_QUANTIZE: dict[SchemeName, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "int8": ops.quantize_int8,
    "fp8_tensor": ops.quantize_fp8_tensor,
    "fp8_channel": ops.quantize_fp8_channel,
    "fp8_block": ops.quantize_fp8_block,
}


def fake_weight(scheme: SchemeName, weight: Tensor) -> Tensor:
    """A weight, or a stack of them, after quantizing and multiplying back.

    Args:
        scheme: One that makes codes.
        weight: (O, I) or (E, O, I). Not modified.

    Returns:
        The same shape and dtype; a new tensor.
    """
    codes, scale = _QUANTIZE[scheme](weight)
    return dequantized(codes, scale).to(weight.dtype)


def dequantized(codes: Tensor, scale: Tensor) -> Tensor:
    """``codes * scale`` in float32.

    Args:
        codes: (O, I) or (E, O, I).
        scale: One per row (.., O, 1), per block (.., O / 128, I / 128), or per matrix (1,) or (E, 1).
    """
    if scale.dim() < codes.dim():
        scale = scale.reshape(*scale.shape, *(1,) * (codes.dim() - scale.dim()))
    elif scale.shape[-2] != codes.shape[-2]:
        scale = scale.repeat_interleave(FP8_BLOCK, dim=-2).repeat_interleave(FP8_BLOCK, dim=-1)
    return codes.float() * scale


def fake_input(scheme: SchemeName, inputs: Tensor) -> Tensor:
    """What a linear of a scheme reads in place of its inputs.

    Args:
        scheme: One that makes codes.
        inputs: (.., I). Not modified.

    Returns:
        The same shape and dtype; a new tensor.
    """
    if inputs.numel() == 0:  # an expert that no token went to
        return inputs
    args = SCHEME_ARGS[scheme].input_activations
    rows_TI = inputs.reshape(-1, args.group_size or inputs.shape[-1])
    codes_TI, scale_T1 = ops.quantize_int8(rows_TI) if args.type == "int" else ops.quantize_fp8_channel(rows_TI)
    return (codes_TI.to(torch.float32) * scale_T1).reshape(inputs.shape).to(inputs.dtype)
