"""Launches the kernels of :mod:`~flashrl_registry.ops.triton_kernels`: how large a piece a program takes, and where.

Each function does what the one of the same name beside this file does, to the bit, in one launch; two where the scale
of a whole matrix must be known first. None waits for the device and none makes a temporary of the weight's size.
"""

from functools import lru_cache

import torch
from torch import Tensor

from flashrl_registry.ops import triton_kernels as kernels
from flashrl_registry.ops.float8 import BLOCK
from flashrl_registry.ops.triton_launch import launch, not_launches_alone

INT8, FP8, FP8_NATIVE = (int(kind.value) for kind in (kernels.INT8, kernels.FP8, kernels.FP8_NATIVE))
GIVEN, ROW_PEAKS, MATRIX_PEAKS = (int(by.value) for by in (kernels.GIVEN, kernels.ROW_PEAKS, kernels.MATRIX_PEAKS))

# Sizes were measured on an H100, see bench/gpu.
ROW_ON_CHIP = 16384
"""Columns of a row that is held in registers; a longer one is read again from cache."""
_TILE_ELEMENTS = 4096
_FEW_ROWS = 264
"""Fewer long rows than this leave processors idle, unless each row is shared."""
_PEAK_PROGRAMS = 2048
_THREAD_ELEMENTS = 80
"""As many float32 numbers as leave a thread's registers for the arithmetic."""
_FEWEST_WARPS = 2
"""Triton 3.6 mixes up columns between threads in some kernels of one warp (two pieces of 64 and 16 columns)."""


def quantize_int8(
    weight: Tensor,
    scale: Tensor | None,
    *,
    inv_rows: Tensor | None,
    inv_columns: Tensor | None,
    columns: Tensor | None,
    finite: Tensor | None,
    out: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """See :func:`flashrl_registry.ops.quantize_int8`."""
    job = _Job(weight, torch.int8, (*weight.shape[:-1], 1), finite, out)
    job.smooth(inv_rows, inv_columns, columns)
    if scale is None:
        job.by_row(INT8)
    else:
        given = scale.to(weight.device, torch.float32).reshape(job.scales.shape).contiguous()
        job.tiles(INT8, GIVEN, scales=given)
        if out is None:
            return job.codes, given
        job.scales.copy_(given)
    return job.codes, job.scales


def quantize_fp8_channel(
    weight: Tensor, finite: Tensor | None, out: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """See :func:`flashrl_registry.ops.quantize_fp8_channel`."""
    job = _Job(weight, torch.float8_e4m3fn, (*weight.shape[:-1], 1), finite, out)
    job.by_row(_fp8(weight.device))
    return job.codes, job.scales


def quantize_fp8_tensor(
    weight: Tensor, finite: Tensor | None, out: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """See :func:`flashrl_registry.ops.quantize_fp8_tensor`."""
    job = _Job(weight, torch.float8_e4m3fn, (*weight.shape[:-2], 1), finite, out)
    peaks = job.peaks(by_row=False)
    job.tiles(_fp8(weight.device), MATRIX_PEAKS, peaks=peaks)
    return job.codes, job.scales


def quantize_fp8_block(
    weight: Tensor, finite: Tensor | None, out: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """See :func:`flashrl_registry.ops.quantize_fp8_block`."""
    blocks = weight.shape[-2] // BLOCK, weight.shape[-1] // BLOCK
    job = _Job(weight, torch.float8_e4m3fn, (*weight.shape[:-2], *blocks), finite, out)
    job.blocks(_fp8(weight.device))
    return job.codes, job.scales


def row_fingerprints(
    matrix: Tensor, chunks: int, first_chunk: int, finite: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """What ``runtime/fingerprint.py`` computes, in one pass.

    Args:
        matrix: Any dtype, (R, I); elements of a row lie side by side. Not modified.
        chunks: Equal slices of the columns; must divide I.
        first_chunk: Place of the first slice.
        finite: As for the quantize operations; looked at for bfloat16, float16 and float32 only.
        out: int32, (R, chunks, 2), to write to.

    Returns:
        int64, (R, chunks).
    """
    rows, width = matrix.shape[0], matrix.shape[1] * matrix.element_size()
    stride = matrix.stride(0) * matrix.element_size()
    places = (width // chunks, stride, matrix.data_ptr(), matrix.storage_offset() * matrix.element_size())
    unit = next(size for size in (4, 2, 1) if all(place % size == 0 for place in places))
    units = matrix.view({4: torch.int32, 2: torch.int16, 1: torch.uint8}[unit])
    num_units = width // chunks // unit
    exponent = {torch.bfloat16: 0x7F80, torch.float16: 0x7C00, torch.float32: 0x7F800000}.get(matrix.dtype)
    if exponent is None:
        finite = None
    high = exponent or 0
    if matrix.element_size() == 2 and unit == 4:
        high <<= 16
    sums_RCH = torch.empty(rows, chunks, 2, dtype=torch.int32, device=matrix.device) if out is None else out
    block = min(1024, _power_above(num_units))
    per_program = max(1, 1024 // block)
    half_words = -(-width // chunks // 8)
    sizes = (rows, num_units, stride // unit, first_chunk, half_words)
    arguments = (units, sums_RCH, _flag(finite), *sizes, high, exponent or 0)
    launch(
        kernels.fingerprints_kernel,
        (-(-rows // per_program), chunks),
        arguments,
        {"UNIT_BYTES": unit, "ROWS": per_program, "UNITS": block},
        4,
    )
    return sums_RCH.view(torch.int64).squeeze(2)


class _Job:
    """One weight on its way to codes.

    Args:
        weight: One matrix or a stack of them, of any strides.
        dtype: Of the codes.
        scale_shape: Of the scales.
        finite: The flag to clear, or None.
        out: Codes and scales to write to, or None.
    """

    def __init__(
        self,
        weight: Tensor,
        dtype: torch.dtype,
        scale_shape: tuple[int, ...],
        finite: Tensor | None,
        out: tuple[Tensor, Tensor] | None,
    ) -> None:
        device = weight.device
        if out is None:
            self.codes = torch.empty(weight.shape, dtype=dtype, device=device)
            self.scales = torch.empty(scale_shape, dtype=torch.float32, device=device)
        else:
            self.codes, self.scales = out
        self._weight = weight
        self._stored = self.codes if dtype == torch.int8 else self.codes.view(torch.uint8)
        self._strides = (*_strides(weight), *_strides(self.codes))
        self.num_matrices = weight.shape[0] if weight.dim() == 3 else 1
        self.num_rows, self.num_columns = weight.shape[-2:]
        self._finite = _flag(finite)
        self._rows: Tensor | None = None
        self._columns: Tensor | None = None
        self._factor_strides = (0, 0)

    def smooth(self, inv_rows: Tensor | None, inv_columns: Tensor | None, columns: Tensor | None) -> None:
        """Take the smoothing factors: one vector for all matrices, or one for each."""
        device = self._weight.device
        if inv_rows is not None:
            self._rows = inv_rows.to(device, torch.float32).contiguous()
        if inv_columns is not None:
            columns = inv_columns.to(device, torch.float32).reciprocal()
        if columns is not None:
            self._columns = columns.to(device, torch.float32).contiguous()
        self._factor_strides = (
            self.num_rows if self._rows is not None and self._rows.dim() > 1 else 0,
            self.num_columns if self._columns is not None and self._columns.dim() > 1 else 0,
        )

    def by_row(self, kind: int) -> None:
        """One absmax scale for each row."""
        few_long = self.num_columns > ROW_ON_CHIP and self.num_matrices * self.num_rows < _FEW_ROWS
        if self._turned() or few_long:
            self.tiles(kind, ROW_PEAKS, peaks=self.peaks(by_row=True))
            return
        arguments = (self._weight, self._stored, self.scales, *self._common(), *self._strides, *self._factor_strides)
        if self.num_columns > ROW_ON_CHIP:
            columns = self._long_row_columns()
            grid = self.num_rows, self.num_matrices
            launch(kernels.long_rows_kernel, grid, arguments, {"KIND": kind, "COLUMNS": columns}, columns // 512)
            return
        first, second = row_pieces(self.num_columns)
        rows = min(max(1, _TILE_ELEMENTS // (first + second)), _power_above(self.num_rows))
        warps = max(_FEWEST_WARPS, _power_above(-(-rows * (first + second) // (32 * _THREAD_ELEMENTS))))
        constants = {"KIND": kind, "ROWS": rows, "FIRST": first, "SECOND": second}
        launch(kernels.rows_kernel, (-(-self.num_rows // rows), self.num_matrices), arguments, constants, warps)

    def peaks(self, *, by_row: bool) -> Tensor:
        """Bits of the largest magnitudes, of each row or of each matrix."""
        not_launches_alone()  # peaks begin as zeros
        shape = (self.num_matrices, self.num_rows) if by_row else (self.num_matrices,)
        peaks = torch.zeros(shape, dtype=torch.int32, device=self._weight.device)
        rows, columns = self._tile(1024)
        row_tiles, column_tiles = -(-self.num_rows // rows), -(-self.num_columns // columns)
        splits = min(column_tiles, max(1, _PEAK_PROGRAMS // (row_tiles * self.num_matrices)))
        arguments = (
            self._weight, peaks, *self._common()[1:], *self._strides[:3], *self._factor_strides, row_tiles, splits
        )  # fmt: skip
        constants = {"BY_ROW": by_row, "ROWS": rows, "COLUMNS": columns}
        launch(kernels.peaks_kernel, (row_tiles * splits, self.num_matrices), arguments, constants, 4)
        return peaks

    def tiles(self, kind: int, source: int, *, scales: Tensor | None = None, peaks: Tensor | None = None) -> None:
        """Quantize by scales that are given, or that follow from peaks."""
        rows, columns = self._tile(256)
        column_tiles = -(-self.num_columns // columns)
        grid = -(-self.num_rows // rows) * column_tiles, self.num_matrices
        scales = self.scales if scales is None else scales
        arguments = (
            self._weight, self._stored, scales, peaks, *self._common(), *self._strides, *self._factor_strides,
            column_tiles,
        )  # fmt: skip
        constants = {"KIND": kind, "SCALES": source, "BACKWARDS": peaks is not None, "ROWS": rows, "COLUMNS": columns}
        launch(kernels.tiles_kernel, grid, arguments, constants, 4)

    def blocks(self, kind: int) -> None:
        """One absmax scale for each block."""
        grid = self.num_rows // BLOCK * (self.num_columns // BLOCK), self.num_matrices
        sizes = (self._finite, self.num_rows, self.num_columns)
        arguments = (self._weight, self._stored, self.scales, *sizes, *self._strides)
        launch(kernels.blocks_kernel, grid, arguments, {"KIND": kind, "BLOCK": BLOCK}, 8)

    def _common(self) -> tuple[Tensor | None, Tensor | None, Tensor | None, int, int]:
        return self._finite, self._rows, self._columns, self.num_rows, self.num_columns

    def _turned(self) -> bool:
        """Neighbours in memory are those of a column."""
        return self.num_rows > 1 and self._strides[1] < self._strides[2]

    def _tile(self, most_columns: int) -> tuple[int, int]:
        if self._turned():
            return 64, 64
        columns = min(most_columns, _power_above(self.num_columns))
        return min(_TILE_ELEMENTS // columns, _power_above(self.num_rows), 64), columns

    def _long_row_columns(self) -> int:
        """Columns of a row at a time: many in flight, few beyond the row's end."""
        if self._columns is not None:
            return 4096
        return 16384 if -self.num_columns % 16384 < 8192 else 8192


def row_pieces(num_columns: int) -> tuple[int, int]:
    """One or two powers of two that cover a row with little to spare; zero for none."""
    whole = max(16, _power_above(num_columns))
    if num_columns <= 2048 or 4 * num_columns > 3 * whole:
        return whole, 0
    return whole // 2, max(128, _power_above(num_columns - whole // 2))


def _strides(tensor: Tensor) -> tuple[int, int, int]:
    """Of matrix, row and column."""
    strides = tensor.stride()
    return (0, strides[0], strides[1]) if len(strides) == 2 else (strides[0], strides[1], strides[2])


def _flag(finite: Tensor | None) -> Tensor | None:
    return None if finite is None else finite.view(torch.uint8)


def _power_above(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()


@lru_cache(maxsize=16)
def _fp8(device: torch.device) -> int:
    if device.type == "cuda" and torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 9):
        return FP8_NATIVE
    return FP8
