"""Fingerprints of rows: what was sent, to be compared with what is resident, without keeping either.

A row's bytes are read as 64-bit words, each multiplied by an odd constant of its place, and summed modulo 2**64. One
pass, eight bytes of result per row, and additive over columns: a worker that holds a slice of the columns compares
its own slice. A single changed bit always changes the sum, for an odd constant is invertible.

Shape legend: R rows, I columns, C chunks of columns, W words of a chunk.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # as a signed 64-bit number
_WORD = 8


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
    chunked = bytes_RB.view(rows, chunks, width // chunks)
    if (missing := -chunked.shape[2] % _WORD) > 0:
        chunked = torch.nn.functional.pad(chunked, (0, missing))
    words_RCW = chunked.contiguous().view(torch.int64)
    num_words = words_RCW.shape[2]
    first = first_chunk * num_words
    places = torch.arange(first, first + chunks * num_words, dtype=torch.int64, device=matrix.device)
    factors_CW = ((2 * places + 1) * _GOLDEN).view(chunks, num_words)
    return (words_RCW * factors_CW).sum(dim=2)
