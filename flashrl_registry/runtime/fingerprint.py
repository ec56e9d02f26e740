"""Fingerprints of rows: what was sent, to be compared with what is resident, without keeping either.

A row's bytes are read as 64-bit words, each multiplied by an odd constant of its place, and summed modulo 2**64. One
pass, eight bytes of result per row, and additive over columns: a worker that holds a slice of the columns compares
its own slice. A single changed bit always changes the sum, for an odd constant is invertible.

Shape legend: R rows, I columns, C chunks of columns, W words of a chunk.
"""

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # as a signed 64-bit number
_WORD = 8
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
    import torch

    bytes_RB = matrix.detach().reshape(matrix.shape[0], -1).contiguous().view(torch.uint8)
    rows, width = bytes_RB.shape
    num_words = -(-width // chunks // _WORD)
    factors_CW = _factors(first_chunk * num_words, chunks, num_words, matrix.device)
    sums_RC = torch.empty(rows, chunks, dtype=torch.int64, device=matrix.device)
    step = rows if matrix.device.type != "cpu" else max(1, _BLOCK_BYTES // max(1, width))
    for start in range(0, rows, max(1, step)):
        chunked = bytes_RB[start : start + step].view(-1, chunks, width // chunks)
        if (missing := -chunked.shape[2] % _WORD) > 0:
            chunked = torch.nn.functional.pad(chunked, (0, missing))
        words_RCW = chunked.contiguous().view(torch.int64)
        torch.sum(words_RCW * factors_CW, dim=2, out=sums_RC[start : start + step])
    return sums_RC


@lru_cache(maxsize=256)
def _factors(first: int, chunks: int, num_words: int, device: "torch.device") -> "torch.Tensor":
    """Constants of the places, (C, W); as large as one row."""
    import torch

    places = torch.arange(first, first + chunks * num_words, dtype=torch.int64, device=device)
    return ((2 * places + 1) * _GOLDEN).view(chunks, num_words)
