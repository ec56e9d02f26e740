"""Every kernel compiles for a Hopper GPU, on a machine without one, and reads and writes sixteen bytes at once."""

import re
from typing import Any

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from flashrl_registry.ops import triton_kernels as kernels

HOPPER = GPUTarget("cuda", 90, 32)
POINTERS = {
    "weight": "*bf16", "codes": "*i8", "scales": "*fp32", "peaks": "*i32", "finite": "*u8",
    "inv_rows": None, "columns": None, "units": "*i32", "sums": "*i32",
}  # fmt: skip
SMOOTHED = {"inv_rows": "*fp32", "columns": "*fp32"}
INT8, FP8, NATIVE = kernels.INT8.value, kernels.FP8.value, kernels.FP8_NATIVE.value


def compiled(kernel: Any, constants: dict[str, Any], pointers: dict[str, str | None], warps: int) -> str:
    """PTX for a weight of 27648 x 5120, aligned and contiguous."""
    signature, known, hints = {}, {}, {}
    types = {**POINTERS, **pointers}
    for index, name in enumerate(kernel.arg_names):
        constant = constants.get(name, 1 if name.endswith("_column") else None)
        if constant is not None or types.get(name, "") is None:
            signature[name], known[(index,)] = "constexpr", constant
        else:
            signature[name] = types.get(name) or "i32"
            hints[(index,)] = [["tt.divisibility", 16]]
    made = triton.compile(
        ASTSource(kernel, signature, known, hints),
        target=HOPPER,
        options={"num_warps": warps, "enable_fp_fusion": False},
    )
    return str(made.asm["ptx"])


@pytest.mark.parametrize("pointers", [{}, SMOOTHED, {"finite": None}], ids=["plain", "smoothed", "no flag"])
@pytest.mark.parametrize(
    ("name", "constants", "warps"),
    [
        ("rows_kernel", {"KIND": INT8, "ROWS": 1, "FIRST": 4096, "SECOND": 1024}, 2),
        ("rows_kernel", {"KIND": NATIVE, "ROWS": 1, "FIRST": 4096, "SECOND": 0}, 2),
        ("long_rows_kernel", {"KIND": INT8, "COLUMNS": 8192}, 16),
        ("tiles_kernel", {"KIND": INT8, "SCALES": 0, "BACKWARDS": False, "ROWS": 16, "COLUMNS": 256}, 4),
        ("tiles_kernel", {"KIND": FP8, "SCALES": 1, "BACKWARDS": True, "ROWS": 16, "COLUMNS": 256}, 4),
        ("tiles_kernel", {"KIND": NATIVE, "SCALES": 2, "BACKWARDS": True, "ROWS": 16, "COLUMNS": 256}, 4),
        ("peaks_kernel", {"BY_ROW": True, "ROWS": 4, "COLUMNS": 1024}, 4),
        ("blocks_kernel", {"KIND": NATIVE, "BLOCK": 128}, 8),
    ],
)
def test_weights_are_read_and_written_sixteen_bytes_at_once(
    name: str, constants: dict[str, Any], warps: int, pointers: dict[str, str | None]
) -> None:
    codes = "*i8" if constants.get("KIND", INT8) == INT8 else "*u8"
    ptx = compiled(getattr(kernels, name), constants, {"codes": codes, **pointers}, warps)
    assert re.search(r"ld\.global\S*\.v4\.b32", ptx)
    assert name == "peaks_kernel" or re.search(r"st\.global\S*\.v4\.b32", ptx)
    assert ("cvt.rn.satfinite.e4m3x2.f32" in ptx) == (constants.get("KIND") == NATIVE)
    assert ".ftz" not in ptx, "subnormal numbers would become zero"


@pytest.mark.parametrize("unit", [1, 2, 4])
def test_fingerprints_compile_for_words_halves_and_bytes(unit: int) -> None:
    types = {"units": {1: "*u8", 2: "*i16", 4: "*i32"}[unit]}
    ptx = compiled(kernels.fingerprints_kernel, {"UNIT_BYTES": unit, "ROWS": 1, "UNITS": 1024}, types, 4)
    assert ".ftz" not in ptx
