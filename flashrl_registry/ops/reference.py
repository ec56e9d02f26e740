"""The quantize operations in plain torch: what runs on CPU, and what the kernels must equal to the bit.

Around the maths of one matrix (``quantize.py``, ``float8.py``) this adds stacks of matrices, a flag for weights that
are not finite, and places to write to. Arguments are those of :mod:`~flashrl_registry.ops.dispatch`, which has
checked them.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from flashrl_registry.ops import float8, quantize
from flashrl_registry.ops.blocks import row_blocks
from flashrl_registry.ops.finite import all_finite
from flashrl_registry.ops.smooth import smoothed

Result = tuple[Tensor, Tensor]


def quantize_int8(
    weight: Tensor,
    scale: Tensor | None,
    *,
    inv_rows: Tensor | None,
    inv_columns: Tensor | None,
    columns: Tensor | None,
    finite: Tensor | None,
    out: Result | None,
) -> Result:
    """See :func:`flashrl_registry.ops.quantize_int8`."""
    frozen = None if scale is None else scale.reshape(weight.shape[:-1])
    results = []
    for index, weight_OI in enumerate(_matrices(weight)):
        scale_O = frozen if frozen is None or weight.dim() == 2 else frozen[index]
        rows_O = _own(inv_rows, index)
        of_columns = {"inv_columns_I": _own(inv_columns, index), "columns_I": _own(columns, index)}
        results.append(quantize.quantize_int8(weight_OI, scale_O, inv_rows_O=rows_O, **of_columns))
        if finite is not None and scale is not None:
            for rows in row_blocks(weight_OI):
                of_rows = None if rows_O is None else rows_O[rows]
                finite &= all_finite(smoothed(weight_OI[rows], inv_rows_O=of_rows, **of_columns))
    return _given(weight, results, finite if scale is None else None, out)


def quantize_fp8_channel(weight: Tensor, finite: Tensor | None, out: Result | None) -> Result:
    """See :func:`flashrl_registry.ops.quantize_fp8_channel`."""
    return _each(float8.quantize_fp8_channel, weight, finite, out)


def quantize_fp8_tensor(weight: Tensor, finite: Tensor | None, out: Result | None) -> Result:
    """See :func:`flashrl_registry.ops.quantize_fp8_tensor`."""
    return _each(float8.quantize_fp8_tensor, weight, finite, out)


def quantize_fp8_block(weight: Tensor, finite: Tensor | None, out: Result | None) -> Result:
    """See :func:`flashrl_registry.ops.quantize_fp8_block`."""
    return _each(float8.quantize_fp8_block, weight, finite, out)


def _each(one: Callable[[Tensor], Result], weight: Tensor, finite: Tensor | None, out: Result | None) -> Result:
    return _given(weight, [one(weight_OI) for weight_OI in _matrices(weight)], finite, out)


def _matrices(weight: Tensor) -> tuple[Tensor, ...]:
    return weight.unbind(0) if weight.dim() == 3 else (weight,)


def _own(factor: Tensor | None, index: int) -> Tensor | None:
    """A matrix's own smoothing factor, where each has one."""
    return factor if factor is None or factor.dim() == 1 else factor[index]


def _given(weight: Tensor, results: list[Result], finite: Tensor | None, out: Result | None) -> Result:
    """Put results together, tell where an absmax scale is not finite, and write to ``out``."""
    if weight.dim() == 3:
        codes, scales = (torch.stack(parts) for parts in zip(*results, strict=True))
    else:
        ((codes, scales),) = results
    if finite is not None:
        finite &= torch.isfinite(scales).all()
    if out is None:
        return codes, scales
    out[0].copy_(codes)
    out[1].copy_(scales.reshape(out[1].shape))
    return out
