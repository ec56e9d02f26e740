"""Moving a factor from one tensor's output channels into the next linears' input columns.

SmoothQuant writes ``y = (x / s) @ (s * W)^T``: the norm before a linear is divided by ``s``, the linear's columns
are multiplied by it, and activations become easy to quantize. A profile stores ``inv_smoothing = 1 / s`` as it is
measured, ``norm_quantized / norm_reference``; a linear before a linear (up -> down) works the same with its rows.

Shape legend: O output channels, I input columns. All arithmetic is float32.

Source: SmoothQuant (arXiv 2211.10438), equations 3 and 4.
"""

import torch
from torch import Tensor


def smoothed(
    weight_OI: Tensor,
    *,
    inv_rows_O: Tensor | None = None,
    inv_columns_I: Tensor | None = None,
    columns_I: Tensor | None = None,
) -> Tensor:
    """Apply smoothing factors to a linear weight.

    ``w * inv_rows[:, None] * (1 / inv_columns)``.

    Args:
        weight_OI: bfloat16, float16 or float32. Not modified.
        inv_rows_O: float32 factor of this linear's own output channels, or None.
        inv_columns_I: float32 factor of the tensor that feeds this linear, or None.
        columns_I: ``1 / inv_columns_I`` in its place, from a caller that keeps it.

    Returns:
        float32, shape (O, I), on the weight's device; a new tensor.
    """
    result_OI = weight_OI.to(torch.float32, copy=True)
    if inv_rows_O is not None:
        result_OI *= inv_rows_O.to(result_OI.device).view(-1, 1)
    if inv_columns_I is not None:
        columns_I = 1.0 / inv_columns_I.to(result_OI.device)
    if columns_I is not None:
        result_OI *= columns_I.to(result_OI.device).view(1, -1)
    return result_OI


def divided(tensor: Tensor, divisor: float) -> Tensor:
    """``tensor / divisor``, rounded as IEEE 754 says on every device.

    torch on a GPU multiplies by the rounded reciprocal where the divisor is a plain number, and may be one bit off.
    """
    return tensor / torch.full_like(tensor, divisor)


def rescale_rows(tensor: Tensor, inv_rows_O: Tensor, dtype: torch.dtype) -> Tensor:
    """Multiply the first dimension by a factor: a norm's weight, or a bias.

    Args:
        tensor: Shape (O,) or (O, I). Not modified.
        inv_rows_O: float32, shape (O,).
        dtype: Element type of the result, the one that the engine's parameter has.

    Returns:
        A new tensor of the same shape.
    """
    shape = (-1,) + (1,) * (tensor.dim() - 1)
    return (tensor.float() * inv_rows_O.to(tensor.device).view(shape)).to(dtype)
