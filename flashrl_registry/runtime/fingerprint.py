"""Fingerprints of rows: what was sent, to be compared with what is resident, without keeping either.

A row's bytes are read as 32-bit words, each multiplied by an odd constant of its place, and summed modulo 2**32, the
first half of the words and the second apart: one pass, eight bytes of result per row. Slices of the columns are told
apart, so a worker that holds one compares its own. A single changed bit always changes the sum, for an odd constant
is invertible. Processors multiply 32-bit words twice as fast as 64-bit ones.

Shape legend: R rows, I columns, C chunks of columns, H halves of a chunk (2), W words of a half.
"""

import math
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_GOLDEN = 0x9E3779B1
_PAIR = 8
"""Bytes of a word in each half."""
_BLOCK_BYTES = 1 << 20
"""Rows that a processor's cache holds; a product of the whole matrix would fault pages."""


def fingerprint(matrix: "torch.Tensor", *, chunks: int = 1, first_chunk: int = 0) -> "torch.Tensor":
    """Fingerprint every row.

    Args:
        matrix: Any dtype, (R, I) or (R,); not modified.
        chunks: Equal slices of the columns that are told apart; must divide I.
        first_chunk: Place of the first slice among all slices of the whole matrix.

    Returns:
        int64, (R, C), on the matrix's device.
    """
    if _by_kernel(matrix):
        return _kernel_fingerprint(matrix, chunks, first_chunk, None)
    return _fingerprint(matrix, chunks, first_chunk, sums=None)


def fingerprint_and_check(
    matrix: "torch.Tensor", *, chunks: int = 1, finite: "torch.Tensor | None" = None
) -> "tuple[torch.Tensor, torch.Tensor | bool]":
    """The same, and whether every element is a finite number, while the rows are in the processor's cache.

    Args:
        matrix: As for :func:`fingerprint`; integers and float8 are not looked at.
        chunks: The same.
        finite: One bool on the device to clear where one is not; a new one where it is None. GPUs only.

    Returns:
        int64, (R, C), on the matrix's device; and the answer, as one bool on a device that would have to be waited for.
    """
    import torch

    from flashrl_registry.ops import all_finite

    if not matrix.is_floating_point() or matrix.element_size() == 1:
        return fingerprint(matrix, chunks=chunks), True
    if _by_kernel(matrix):
        finite = torch.ones((), dtype=torch.bool, device=matrix.device) if finite is None else finite
        return _kernel_fingerprint(matrix, chunks, 0, finite), finite
    sums: list[torch.Tensor] = []
    rows_RC = _fingerprint(matrix, chunks, 0, sums=sums)
    if matrix.device.type != "cpu":
        return rows_RC, torch.isfinite(torch.stack(sums)).all() if sums else True
    # A sum of finite numbers may overflow.
    return rows_RC, all(math.isfinite(block) for block in sums) or bool(all_finite(matrix))


def _by_kernel(matrix: "torch.Tensor") -> bool:
    from flashrl_registry.ops import kernels_run

    return matrix.numel() > 0 and kernels_run(matrix.device)


def _kernel_fingerprint(
    matrix: "torch.Tensor", chunks: int, first_chunk: int, finite: "torch.Tensor | None"
) -> "torch.Tensor":
    from flashrl_registry.ops.triton_ops import row_fingerprints

    return row_fingerprints(_rows(matrix), chunks, first_chunk, finite)


def _rows(matrix: "torch.Tensor") -> "torch.Tensor":
    matrix = matrix.detach()
    matrix_RI = (matrix.flatten(1) if matrix.dim() > 1 else matrix.unsqueeze(1)).contiguous()
    # A view of a bucket may begin between two words.
    return matrix_RI.clone() if matrix_RI.storage_offset() * matrix_RI.element_size() % 4 else matrix_RI


def _fingerprint(
    matrix: "torch.Tensor", chunks: int, first_chunk: int, *, sums: "list[torch.Tensor] | None"
) -> "torch.Tensor":
    """Fingerprint every row; what NaN and infinity in a block always reach goes to ``sums``."""
    import torch

    if matrix.numel() == 0:
        return torch.zeros(matrix.shape[0], chunks, dtype=torch.int64, device=matrix.device)
    matrix_RI = _rows(matrix)
    bytes_RB = matrix_RI.view(torch.uint8)
    rows, width = bytes_RB.shape
    num_words = -(-width // chunks // _PAIR)
    factors_CHW = _factors(first_chunk, chunks, num_words, matrix.device)
    sums_RCH = torch.empty(rows, chunks, 2, dtype=torch.int32, device=matrix.device)
    on_cpu = matrix.device.type == "cpu"
    step = max(1, _BLOCK_BYTES // width) if on_cpu else rows
    sum_dtype = torch.float32 if matrix.dtype is torch.float16 else None  # bfloat16 has float32's range, and is faster
    for start in range(0, rows, step):
        if sums is not None:
            block_RI = matrix_RI[start : start + step]
            # On a processor a sum costs half of a minimum and maximum, which are exact where looking again would wait.
            sums.extend([block_RI.sum(dtype=sum_dtype)] if on_cpu else torch.aminmax(block_RI))
        chunked = bytes_RB[start : start + step].view(-1, chunks, width // chunks)
        if (missing := -chunked.shape[2] % _PAIR) > 0:
            chunked = torch.nn.functional.pad(chunked, (0, missing))
        words_RCHW = chunked.contiguous().view(torch.int32).unflatten(2, (2, num_words))
        torch.sum(words_RCHW * factors_CHW, dim=3, dtype=torch.int32, out=sums_RCH[start : start + step])
    return sums_RCH.view(torch.int64).squeeze(2)


def forget_factors() -> None:
    """The constants on a device are lost."""
    _factors.cache_clear()


@lru_cache(maxsize=256)
def _factors(first_chunk: int, chunks: int, num_words: int, device: "torch.device") -> "torch.Tensor":
    """Constants of the places, (C, H, W); as large as one row."""
    import torch

    first = first_chunk * 2 * num_words
    places = torch.arange(first, first + chunks * 2 * num_words, dtype=torch.int64, device=device)
    factors = ((2 * places + 1) * _GOLDEN) & 0xFFFFFFFF
    return (factors - ((factors >> 31) << 32)).to(torch.int32).view(chunks, 2, num_words)
