"""The quantize operations: Triton kernels for tensors on a GPU where Triton is installed, plain torch elsewhere.

Both give the same bits for finite weights. A kernel that fails raises; nothing falls back in silence.
``FLASHRL_OPS=reference`` asks for plain torch everywhere.

Every operation takes one matrix (O, I) or a stack of them (E, O, I), of any strides, in bfloat16, float16 or float32,
and these two arguments:

``finite``
    One bool on the weight's device. It is set to false where a weight, smoothed, is NaN or infinite, and left alone
    otherwise, so one look at the end tells of many weights, and nothing waits for the device meanwhile. The codes of
    such a weight mean nothing.
``out``
    Codes and scales to write to instead of new tensors; codes of any strides, contiguous scales. Returned as given.

Shape legend: E matrices of a stack, O output channels, I input columns.
"""

import os
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flashrl_registry.ops import reference
from flashrl_registry.ops.float8 import BLOCK

if TYPE_CHECKING:
    from types import ModuleType

ENVIRONMENT_VARIABLE = "FLASHRL_OPS"
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)

Out = tuple[Tensor, Tensor] | None


def quantize_int8(
    weight: Tensor,
    scale: Tensor | None = None,
    *,
    inv_rows_O: Tensor | None = None,
    inv_columns_I: Tensor | None = None,
    columns_I: Tensor | None = None,
    finite: Tensor | None = None,
    out: Out = None,
) -> tuple[Tensor, Tensor]:
    """Smooth and quantize to int8, one scale per output channel.

    Args:
        weight: See the module. Not modified.
        scale: float32 scales of the profile (frozen), (O,), (O, 1), or those for each matrix; None for row absmax.
        inv_rows_O: As in :func:`~flashrl_registry.ops.smooth.smoothed`; (O,) for all matrices, or (E, O).
        inv_columns_I: The same; (I,) or (E, I).
        columns_I: ``1 / inv_columns_I`` in its place, from a caller that keeps it: one launch less on a GPU.
        finite: See the module.
        out: See the module.

    Returns:
        int8 codes of the weight's shape and float32 scales (O, 1) or (E, O, 1), on the weight's device.

    Raises:
        ValueError: A shape, dtype or device does not fit.
    """
    rows, columns = weight.shape[-2:]
    _check(weight, torch.int8, (*weight.shape[:-1], 1), finite, out)
    if scale is not None and scale.numel() != weight.shape[:-1].numel():
        raise ValueError(f"scale has {scale.numel()} elements, not {weight.shape[:-1].numel()}")
    _check_factor("inv_rows_O", inv_rows_O, weight, rows)
    _check_factor("inv_columns_I", inv_columns_I, weight, columns)
    _check_factor("columns_I", columns_I, weight, columns)
    if columns_I is not None and inv_columns_I is not None:
        raise ValueError("columns_I stands in the place of inv_columns_I: give one of them")
    factors = {"inv_rows": inv_rows_O, "inv_columns": inv_columns_I, "columns": columns_I}
    operations: Any = _kernels(weight) or reference
    result: tuple[Tensor, Tensor] = operations.quantize_int8(weight, scale, **factors, finite=finite, out=out)
    return result


def quantize_fp8_channel(weight: Tensor, *, finite: Tensor | None = None, out: Out = None) -> tuple[Tensor, Tensor]:
    """One scale per output channel.

    Returns:
        float8_e4m3fn codes of the weight's shape and float32 scales (O, 1) or (E, O, 1).
    """
    return _quantize_fp8("quantize_fp8_channel", weight, (*weight.shape[:-1], 1), finite, out)


def quantize_fp8_tensor(weight: Tensor, *, finite: Tensor | None = None, out: Out = None) -> tuple[Tensor, Tensor]:
    """One scale for each matrix.

    Returns:
        float8_e4m3fn codes of the weight's shape and float32 scales (1,) or (E, 1).
    """
    return _quantize_fp8("quantize_fp8_tensor", weight, (*weight.shape[:-2], 1), finite, out)


def quantize_fp8_block(weight: Tensor, *, finite: Tensor | None = None, out: Out = None) -> tuple[Tensor, Tensor]:
    """One scale per 128 x 128 block; O and I are multiples of 128.

    Returns:
        float8_e4m3fn codes of the weight's shape and float32 scales (O / 128, I / 128), or those for each matrix.
    """
    rows, columns = weight.shape[-2:]
    if rows % BLOCK or columns % BLOCK:
        raise ValueError(f"a weight of shape {list(weight.shape)} has no whole blocks of {BLOCK} x {BLOCK}")
    return _quantize_fp8(
        "quantize_fp8_block", weight, (*weight.shape[:-2], rows // BLOCK, columns // BLOCK), finite, out
    )


def quantize_fp8(
    strategy: str, weight: Tensor, *, finite: Tensor | None = None, out: Out = None
) -> tuple[Tensor, Tensor]:
    """The operation for a strategy: ``tensor``, ``channel`` or ``block``."""
    operations = {"tensor": quantize_fp8_tensor, "channel": quantize_fp8_channel, "block": quantize_fp8_block}
    return operations[strategy](weight, finite=finite, out=out)


def kernels_run(device: torch.device) -> bool:
    """Whether operations on a device are kernels.

    Raises:
        ValueError: ``FLASHRL_OPS`` is neither ``reference`` nor ``auto``.
    """
    asked = os.environ.get(ENVIRONMENT_VARIABLE) or "auto"
    if asked not in ("auto", "reference"):
        raise ValueError(f"{ENVIRONMENT_VARIABLE}={asked}: write reference, or auto as without it")
    return device.type == "cuda" and asked == "auto" and _has_triton()


def _quantize_fp8(
    name: str, weight: Tensor, scale_shape: tuple[int, ...], finite: Tensor | None, out: Out
) -> tuple[Tensor, Tensor]:
    _check(weight, torch.float8_e4m3fn, scale_shape, finite, out)
    operations: Any = _kernels(weight) or reference
    result: tuple[Tensor, Tensor] = getattr(operations, name)(weight, finite, out)
    return result


def _kernels(weight: Tensor) -> "ModuleType | None":
    if weight.dtype not in _DTYPES or weight.numel() == 0 or not kernels_run(weight.device):
        return None
    from flashrl_registry.ops import triton_ops

    return triton_ops


@lru_cache(maxsize=1)
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _check(weight: Tensor, codes: torch.dtype, scales: tuple[int, ...], finite: Tensor | None, out: Out) -> None:
    """A kernel writes where it is told to: shapes are looked at first."""
    if weight.dim() not in (2, 3):
        raise ValueError(f"a weight has two dimensions, or three in a stack; this one has shape {list(weight.shape)}")
    if finite is not None:
        _check_like("finite", finite, torch.bool, (), weight.device)
    if out is not None:
        _check_like("out[0]", out[0], codes, tuple(weight.shape), weight.device)
        _check_like("out[1]", out[1], torch.float32, scales, weight.device)
        if not out[1].is_contiguous():
            raise ValueError("out[1] is not contiguous")


def _check_like(name: str, given: Tensor, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device) -> None:
    fits = given.numel() == 1 if shape == () else tuple(given.shape) == shape
    if not fits or given.dtype != dtype or given.device != device:
        found = f"{list(given.shape)} {given.dtype} on {given.device}"
        raise ValueError(f"{name} is {found}, not {list(shape)} {dtype} on {device}")


def _check_factor(name: str, given: Tensor | None, weight: Tensor, length: int) -> None:
    """One vector for all matrices, or one for each."""
    allowed = [(length,), *([(weight.shape[0], length)] if weight.dim() == 3 else [])]
    if given is not None and tuple(given.shape) not in allowed:
        raise ValueError(f"{name} is {list(given.shape)}, not {' or '.join(str(list(shape)) for shape in allowed)}")
