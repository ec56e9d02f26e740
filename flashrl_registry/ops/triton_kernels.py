# mypy: ignore-errors
# ruff: noqa: PLR0917, RET505, SIM102 - the compiler knows neither keyword-only arguments nor such branches
"""The quantize operations as Triton kernels: each weight is read once where a row fits on chip, and nothing else is.

Bit-equal to the plain-torch operations beside this file, on finite weights. What makes them so:

* A quotient is one multiplication by the rounded reciprocal of the scale and two corrections with the exact remainder,
  which gives the IEEE quotient (Markstein 1990, theorem 8) wherever no step underflows. Scales beyond 2**+-64 are
  brought nearer to one by a power of two first, so none does where a code depends on it. A division instruction
  costs three times as much, and then the arithmetic, not the memory, is what a kernel waits for.
* Adding 1.5 * 2**23 to a quotient leaves the integer next to it, ties to even, in the sum's low byte.
* Magnitudes are compared as integers, in which NaN is above infinity and infinity above every number.

The codes of NaN and infinity are unspecified; ``finite`` is set to false and an absmax scale is not finite.

Shape legend in names: R rows of a tile, C columns of a tile. Every kernel's last grid axis counts matrices (experts).
"""

import triton
import triton.language as tl

# Kinds of codes.
INT8 = tl.constexpr(0)
FP8 = tl.constexpr(1)
FP8_NATIVE = tl.constexpr(2)  # the processor converts by itself
# Where a tile's scales come from.
GIVEN = tl.constexpr(0)
ROW_PEAKS = tl.constexpr(1)
MATRIX_PEAKS = tl.constexpr(2)

_NOT_FINITE = tl.constexpr(0x7F800000)  # the bits of infinity
_ROUND_TO_INTEGER = tl.constexpr(12582912.0)  # 1.5 * 2**23
_ROUND_TO_SUBNORMAL = tl.constexpr(16384.0)  # 2**14: its unit in the last place is e4m3's smallest number, 2**-9
_GOLDEN = tl.constexpr(-1640531535)  # 0x9E3779B1 as int32; see runtime/fingerprint.py


@triton.jit
def _magnitude_bits(value):
    return value.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def _scale_of(peak_bits, KIND: tl.constexpr):
    peak = peak_bits.to(tl.float32, bitcast=True)
    most = 127.0 if KIND == INT8 else 448.0
    scale = tl.math.div_rn(peak, tl.full(peak.shape, most, tl.float32))
    return tl.where(scale == 0.0, 1.0, scale)


@triton.jit
def _quotient(value, scale):
    """``value / scale``, correctly rounded; scales broadcast."""
    # Everything is negated but the scale, so that no element needs a negation and a negative zero keeps its sign.
    factor = tl.where(scale < 2.0**-64, -(2.0**64), tl.where(scale > 2.0**64, -(2.0**-64), -1.0))
    near = scale * -factor
    inverse = tl.math.div_rn(tl.full(near.shape, -1.0, tl.float32), near)
    value = value * factor
    quotient = value * inverse
    rest = tl.math.fma(quotient, near, value)
    quotient = tl.math.fma(rest, inverse, quotient)
    rest = tl.math.fma(quotient, near, value)
    return tl.math.fma(rest, inverse, quotient)


@triton.jit
def _float8_bits(quotient):
    """The byte of float8_e4m3fn next to a quotient, ties to even, for processors that do not convert."""
    magnitude = tl.minimum(tl.abs(quotient), 448.0)
    bits = magnitude.to(tl.int32, bitcast=True)
    subnormal = (magnitude + _ROUND_TO_SUBNORMAL).to(tl.int32, bitcast=True) - 0x46800000
    normal = (bits + 0x7FFFF + ((bits >> 20) & 1) - (120 << 23)) >> 20
    code = tl.where(bits < (121 << 23), subnormal, normal)
    return code | ((quotient.to(tl.int32, bitcast=True) >> 24) & 0x80)


@triton.jit
def _codes(value, scale, KIND: tl.constexpr):
    """Codes as the bytes that are stored; scales broadcast."""
    if KIND == INT8:
        # Clipping the value gives the same code as clipping the quotient, which may overflow.
        value = tl.minimum(tl.maximum(value, scale * -128.0), scale * 127.0)
        return (_quotient(value, scale) + _ROUND_TO_INTEGER).to(tl.int32, bitcast=True).to(tl.int8)
    elif KIND == FP8_NATIVE:
        return _quotient(value, scale).to(tl.float8e4nv).to(tl.uint8, bitcast=True)
    else:
        return _float8_bits(_quotient(value, scale)).to(tl.uint8)


@triton.jit
def _columns_of(columns, cols_C, num_columns):
    """Factors of some columns, as a tile of one row: so the compiler lays them out as it does the weight's row."""
    return tl.load(columns + cols_C[None, :], mask=(cols_C < num_columns)[None, :], other=0.0)


@triton.jit
def _smoothed(weight, inv_rows, factor_1C, rows_R, cols_C, num_rows, num_columns, row_stride, column_stride):
    """A tile in float32 with its factors applied; zero outside of the weight."""
    inside_R, inside_C = rows_R < num_rows, cols_C < num_columns
    offsets_RC = rows_R.to(tl.int64)[:, None] * row_stride + cols_C.to(tl.int64)[None, :] * column_stride
    value_RC = tl.load(weight + offsets_RC, mask=inside_R[:, None] & inside_C[None, :], other=0.0).to(tl.float32)
    if inv_rows is not None:
        value_RC = value_RC * tl.load(inv_rows + rows_R, mask=inside_R, other=0.0)[:, None]
    if factor_1C is not None:
        value_RC = value_RC * factor_1C
    return value_RC


@triton.jit
def _store(
    codes, value_RC, scale, rows_R, cols_C, num_rows, num_columns, row_stride, column_stride, KIND: tl.constexpr
):
    inside_RC = (rows_R < num_rows)[:, None] & (cols_C < num_columns)[None, :]
    offsets_RC = rows_R.to(tl.int64)[:, None] * row_stride + cols_C.to(tl.int64)[None, :] * column_stride
    tl.store(codes + offsets_RC, _codes(value_RC, scale, KIND), mask=inside_RC)


@triton.jit
def _tell(finite, peak_bits):
    """Set the flag to false where a peak is NaN or infinite."""
    if finite is not None:
        if tl.max(peak_bits, axis=0) >= _NOT_FINITE:
            tl.store(finite, 0)


@triton.jit(do_not_specialize=["num_rows"])
def rows_kernel(
    weight, codes, scales, finite, inv_rows, columns, num_rows, num_columns,
    weight_matrix, weight_row, weight_column, codes_matrix, codes_row, codes_column, inv_rows_matrix, columns_matrix,
    KIND: tl.constexpr, ROWS: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr,
):  # fmt: skip
    """Absmax of whole rows that stay in registers, in one or two pieces whose sizes are powers of two."""
    matrix = tl.program_id(1).to(tl.int64)
    weight += matrix * weight_matrix
    codes += matrix * codes_matrix
    if inv_rows is not None:
        inv_rows += matrix * inv_rows_matrix
    factor_1, factor_2 = None, None
    cols_1, cols_2 = tl.arange(0, FIRST), None
    if columns is not None:
        columns += matrix * columns_matrix
        factor_1 = _columns_of(columns, cols_1, num_columns)
    rows_R = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    value_1 = _smoothed(weight, inv_rows, factor_1, rows_R, cols_1, num_rows, num_columns, weight_row, weight_column)
    peak_R = tl.max(_magnitude_bits(value_1), axis=1)
    if SECOND > 0:
        cols_2 = FIRST + tl.arange(0, SECOND)
        if columns is not None:
            factor_2 = _columns_of(columns, cols_2, num_columns)
        value_2 = _smoothed(
            weight, inv_rows, factor_2, rows_R, cols_2, num_rows, num_columns, weight_row, weight_column
        )
        peak_R = tl.maximum(peak_R, tl.max(_magnitude_bits(value_2), axis=1))
    _tell(finite, peak_R)
    scale_R = _scale_of(peak_R, KIND)
    tl.store(scales + matrix * num_rows + rows_R, scale_R, mask=rows_R < num_rows)
    scale_R1 = scale_R[:, None]
    _store(codes, value_1, scale_R1, rows_R, cols_1, num_rows, num_columns, codes_row, codes_column, KIND)
    if SECOND > 0:
        _store(codes, value_2, scale_R1, rows_R, cols_2, num_rows, num_columns, codes_row, codes_column, KIND)


@triton.jit(do_not_specialize=["num_rows"])
def long_rows_kernel(
    weight, codes, scales, finite, inv_rows, columns, num_rows, num_columns,
    weight_matrix, weight_row, weight_column, codes_matrix, codes_row, codes_column, inv_rows_matrix, columns_matrix,
    KIND: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Absmax of one long row: it is read twice, the second time from cache."""
    matrix = tl.program_id(1).to(tl.int64)
    weight += matrix * weight_matrix
    codes += matrix * codes_matrix
    if inv_rows is not None:
        inv_rows += matrix * inv_rows_matrix
    if columns is not None:
        columns += matrix * columns_matrix
    rows_R = tl.program_id(0) + tl.arange(0, 1)
    peaks_RC = tl.zeros([1, COLUMNS], tl.int32)
    for start in range(0, num_columns, COLUMNS):
        cols_C = start + tl.arange(0, COLUMNS)
        factor_1C = None
        if columns is not None:
            factor_1C = _columns_of(columns, cols_C, num_columns)
        value_RC = _smoothed(
            weight, inv_rows, factor_1C, rows_R, cols_C, num_rows, num_columns, weight_row, weight_column
        )
        peaks_RC = tl.maximum(peaks_RC, _magnitude_bits(value_RC))
    peak_R = tl.max(peaks_RC, axis=1)
    _tell(finite, peak_R)
    scale_R = _scale_of(peak_R, KIND)
    tl.store(scales + matrix * num_rows + rows_R, scale_R, mask=rows_R < num_rows)
    scale_R1 = scale_R[:, None]
    for start in range(0, num_columns, COLUMNS):
        cols_C = start + tl.arange(0, COLUMNS)
        factor_1C = None
        if columns is not None:
            factor_1C = _columns_of(columns, cols_C, num_columns)
        value_RC = _smoothed(
            weight, inv_rows, factor_1C, rows_R, cols_C, num_rows, num_columns, weight_row, weight_column
        )
        _store(codes, value_RC, scale_R1, rows_R, cols_C, num_rows, num_columns, codes_row, codes_column, KIND)


@triton.jit(do_not_specialize=["num_rows", "row_tiles", "splits"])
def peaks_kernel(
    weight, peaks, inv_rows, columns, num_rows, num_columns,
    weight_matrix, weight_row, weight_column, inv_rows_matrix, columns_matrix, row_tiles, splits,
    BY_ROW: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Bits of the largest magnitude of each row, or of each matrix; ``peaks`` holds zeros before."""
    matrix = tl.program_id(1).to(tl.int64)
    weight += matrix * weight_matrix
    if inv_rows is not None:
        inv_rows += matrix * inv_rows_matrix
    if columns is not None:
        columns += matrix * columns_matrix
    rows_R = (tl.program_id(0) % row_tiles) * ROWS + tl.arange(0, ROWS)
    peaks_RC = tl.zeros([ROWS, COLUMNS], tl.int32)
    for tile in range(tl.program_id(0) // row_tiles, tl.cdiv(num_columns, COLUMNS), splits):
        cols_C = tile * COLUMNS + tl.arange(0, COLUMNS)
        factor_1C = None
        if columns is not None:
            factor_1C = _columns_of(columns, cols_C, num_columns)
        value_RC = _smoothed(
            weight, inv_rows, factor_1C, rows_R, cols_C, num_rows, num_columns, weight_row, weight_column
        )
        peaks_RC = tl.maximum(peaks_RC, _magnitude_bits(value_RC))
    peak_R = tl.max(peaks_RC, axis=1)
    if BY_ROW:
        tl.atomic_max(peaks + matrix * num_rows + rows_R, peak_R, mask=rows_R < num_rows, sem="relaxed")
    else:
        tl.atomic_max(peaks + matrix, tl.max(peak_R, axis=0), sem="relaxed")


@triton.jit(do_not_specialize=["num_rows", "column_tiles"])
def tiles_kernel(
    weight, codes, scales, peaks, finite, inv_rows, columns, num_rows, num_columns,
    weight_matrix, weight_row, weight_column, codes_matrix, codes_row, codes_column, inv_rows_matrix, columns_matrix,
    column_tiles,
    KIND: tl.constexpr, SCALES: tl.constexpr, BACKWARDS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Quantize by scales that are given, or that follow from peaks; those are written too."""
    matrix = tl.program_id(1).to(tl.int64)
    tile = tl.program_id(0)
    if BACKWARDS:  # what the kernel before this one read last is still in cache
        matrix = tl.num_programs(1) - 1 - matrix
        tile = tl.num_programs(0) - 1 - tile
    weight += matrix * weight_matrix
    codes += matrix * codes_matrix
    if inv_rows is not None:
        inv_rows += matrix * inv_rows_matrix
    if columns is not None:
        columns += matrix * columns_matrix
    column_tile = tile % column_tiles
    rows_R = (tile // column_tiles) * ROWS + tl.arange(0, ROWS)
    cols_C = column_tile * COLUMNS + tl.arange(0, COLUMNS)
    factor_1C = None
    if columns is not None:
        factor_1C = _columns_of(columns, cols_C, num_columns)
    value_RC = _smoothed(weight, inv_rows, factor_1C, rows_R, cols_C, num_rows, num_columns, weight_row, weight_column)
    inside_R = rows_R < num_rows
    if SCALES == GIVEN:
        if finite is not None:
            _tell(finite, tl.max(_magnitude_bits(value_RC), axis=1))
        scale_R1 = tl.load(scales + matrix * num_rows + rows_R, mask=inside_R, other=1.0)[:, None]
        _store(codes, value_RC, scale_R1, rows_R, cols_C, num_rows, num_columns, codes_row, codes_column, KIND)
    elif SCALES == ROW_PEAKS:
        peak_R = tl.load(peaks + matrix * num_rows + rows_R, mask=inside_R, other=0)
        _tell(finite, peak_R)
        scale_R = _scale_of(peak_R, KIND)
        if column_tile == 0:
            tl.store(scales + matrix * num_rows + rows_R, scale_R, mask=inside_R)
        _store(codes, value_RC, scale_R[:, None], rows_R, cols_C, num_rows, num_columns, codes_row, codes_column, KIND)
    else:
        peak_1 = tl.load(peaks + matrix + tl.arange(0, 1))
        scale_1 = _scale_of(peak_1, KIND)
        if tile == 0:
            _tell(finite, peak_1)
            tl.store(scales + matrix + tl.arange(0, 1), scale_1)
        _store(codes, value_RC, scale_1[:, None], rows_R, cols_C, num_rows, num_columns, codes_row, codes_column, KIND)


@triton.jit(do_not_specialize=["num_rows"])
def blocks_kernel(
    weight, codes, scales, finite, num_rows, num_columns,
    weight_matrix, weight_row, weight_column, codes_matrix, codes_row, codes_column,
    KIND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One scale per block; the blocks of a matrix lie on the first axis, columns first."""
    matrix = tl.program_id(1).to(tl.int64)
    weight += matrix * weight_matrix
    codes += matrix * codes_matrix
    column_blocks = num_columns // BLOCK
    block = tl.program_id(0)
    rows_R = (block // column_blocks) * BLOCK + tl.arange(0, BLOCK)
    cols_C = (block % column_blocks) * BLOCK + tl.arange(0, BLOCK)
    value_RC = _smoothed(weight, None, None, rows_R, cols_C, num_rows, num_columns, weight_row, weight_column)
    peak_1 = tl.max(tl.max(_magnitude_bits(value_RC), axis=1, keep_dims=True), axis=0)
    _tell(finite, peak_1)
    scale_1 = _scale_of(peak_1, KIND)
    tl.store(scales + matrix * tl.num_programs(0) + block + tl.arange(0, 1), scale_1)
    _store(codes, value_RC, scale_1[:, None], rows_R, cols_C, num_rows, num_columns, codes_row, codes_column, KIND)


@triton.jit(do_not_specialize=["num_rows", "first_chunk", "half_words", "infinity", "half_infinity"])
def fingerprints_kernel(
    units, sums, finite, num_rows, num_units, row_stride, first_chunk, half_words, infinity, half_infinity,
    UNIT_BYTES: tl.constexpr, ROWS: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    """Weighted sums of the 32-bit words of one chunk of some rows; see runtime/fingerprint.py.

    ``num_units`` of ``UNIT_BYTES`` make a chunk. ``infinity`` and ``half_infinity`` are the exponent bits of the
    floating-point numbers in a unit: of the last one in it and of the one before, or the same twice.
    """
    chunk = tl.program_id(1)
    rows_R = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside_R = rows_R < num_rows
    per_word: tl.constexpr = 4 // UNIT_BYTES
    first_RU = tl.zeros([ROWS, UNITS], tl.int32)
    second_RU = tl.zeros([ROWS, UNITS], tl.int32)
    bad_RU = tl.zeros([ROWS, UNITS], tl.int32)
    starts_R1 = (rows_R.to(tl.int64) * row_stride + chunk.to(tl.int64) * num_units)[:, None]
    for start in range(0, num_units, UNITS):
        units_U = start + tl.arange(0, UNITS)
        inside_RU = inside_R[:, None] & (units_U < num_units)[None, :]
        unit_RU = tl.load(units + starts_R1 + units_U[None, :], mask=inside_RU, other=0).to(tl.int32)
        if UNIT_BYTES < 4:
            unit_RU = unit_RU & ((1 << (8 * UNIT_BYTES)) - 1)
        if finite is not None:
            bad_RU |= ((unit_RU & infinity) == infinity).to(tl.int32)
            bad_RU |= ((unit_RU & half_infinity) == half_infinity).to(tl.int32)
        words_U = units_U // per_word
        places_U = (first_chunk + chunk) * 2 * half_words + words_U
        factors_U = ((2 * places_U + 1) * _GOLDEN) << ((units_U % per_word) * (8 * UNIT_BYTES))
        product_RU = unit_RU * factors_U[None, :]
        in_first_U = words_U < half_words
        first_RU += tl.where(in_first_U[None, :], product_RU, 0)
        second_RU += tl.where(in_first_U[None, :], 0, product_RU)
    out_R = sums + (rows_R.to(tl.int64) * tl.num_programs(1) + chunk) * 2
    tl.store(out_R, tl.sum(first_RU, axis=1), mask=inside_R)
    tl.store(out_R + 1, tl.sum(second_RU, axis=1), mask=inside_R)
    if finite is not None:
        if tl.max(tl.max(bad_RU, axis=1), axis=0) > 0:
            tl.store(finite, 0)
