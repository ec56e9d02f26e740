"""The compiled loops, those in numpy and the project's reference maths say the same."""

from typing import Any

import numpy as np
import pytest
import torch

from flashrl_registry.ops import codes_int8, smoothed
from flashrl_registry.profiling import compiled, plain
from flashrl_registry.profiling.facts import INT8_RANGE
from flashrl_registry.profiling.layout import (
    CLIPPED,
    EQUAL,
    EQUAL_LOW,
    LARGEST,
    NUM_FACTS,
    PEAK,
    RESIDUAL,
)
from flashrl_registry.profiling.linear import fp8_values

ROWS, COLUMNS = 24, 300
NONE = np.zeros((0, 0), np.float32)
GRIDS = {"channel": (1, COLUMNS), "tensor": (ROWS, COLUMNS), "group": (1, 100), "block": (8, 64)}


def case(grid: str, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    row_block, column_block = GRIDS[grid]
    shape = -(-ROWS // row_block), -(-COLUMNS // column_block)
    weight = torch.from_numpy(rng.standard_normal((ROWS, COLUMNS), np.float32)).to(torch.bfloat16).float().numpy()
    return {
        "weight": weight,
        "scale": (0.02 * rng.uniform(0.9, 1.3, shape)).astype(np.float32),
        "rows": rng.uniform(0.5, 2, ROWS).astype(np.float32),
        "inverse": rng.uniform(0.5, 2, (1, COLUMNS)).astype(np.float32),
        "row_block": row_block,
        "column_block": column_block,
    }


def expanded(made: dict[str, Any]) -> torch.Tensor:
    """The scale of each element."""
    rows = np.repeat(made["scale"], made["row_block"], axis=0)[:ROWS]
    return torch.from_numpy(np.repeat(rows, made["column_block"], axis=1)[:, :COLUMNS].copy())


def compare(loops: Any, made: dict[str, Any], codes: np.ndarray, *, zero: np.ndarray = NONE, low: int = 0) -> Any:
    out = np.zeros((ROWS, NUM_FACTS))
    loops.compare_int8(
        made["weight"], codes, 0, made["scale"], zero, made["row_block"], made["column_block"], made["rows"],
        made["inverse"], ROWS, *INT8_RANGE, low, out,
    )  # fmt: skip
    return out


@pytest.mark.parametrize("loops", [compiled, plain])
@pytest.mark.parametrize("grid", GRIDS)
def test_codes_are_those_of_the_reference_maths(loops: Any, grid: str) -> None:
    made = case(grid)
    weight = smoothed(
        torch.from_numpy(made["weight"]), inv_rows_O=torch.from_numpy(made["rows"]),
        inv_columns_I=1 / torch.from_numpy(made["inverse"][0]),
    )  # fmt: skip
    made["inverse"] = (1.0 / (1 / torch.from_numpy(made["inverse"]))).numpy()
    codes = codes_int8(weight, expanded(made))
    out = compare(loops, made, codes.numpy().view(np.uint8))
    unrounded = weight / expanded(made)
    assert out[:, EQUAL].sum() == ROWS * COLUMNS
    assert out[:, LARGEST].max() == 0
    clipped = (unrounded.round() > 127) | (unrounded.round() < -128)
    assert out[:, CLIPPED].sum() == clipped.sum() > 0
    assert out[:, RESIDUAL].sum() == pytest.approx(float((unrounded.clamp(-128, 127) - codes).square().sum()), rel=1e-5)
    assert out[:, PEAK].max() == pytest.approx(float(unrounded.abs().max()))


@pytest.mark.parametrize("low", [0, 1, 2])
@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("grid", GRIDS)
def test_compiled_and_plain_loops_agree(grid: str, asymmetric: bool, low: int) -> None:
    made, rng = case(grid, 1), np.random.default_rng(2)
    codes = rng.integers(-128, 128, (ROWS, COLUMNS)).astype(np.int8).view(np.uint8)
    zero = rng.integers(-20, 20, made["scale"].shape).astype(np.float32) if asymmetric else NONE
    np.testing.assert_allclose(
        compare(compiled, made, codes, zero=zero, low=low), compare(plain, made, codes, zero=zero, low=low), rtol=1e-5
    )
    results, quotients = [], []
    for loops in (compiled, plain):
        above, below = np.empty(ROWS), np.empty(ROWS)
        loops.fit_rows(
            made["weight"], codes, 0, made["scale"], zero, made["row_block"], made["column_block"], made["inverse"],
            ROWS, np.zeros(0, np.float32), above, below,
        )  # fmt: skip
        quotients.append((above / below).astype(np.float32))
        results.append(np.concatenate([above, below]))
        loops.moments(made["weight"], made["weight"][::-1].copy(), made["inverse"], above, below)
        results.append(np.concatenate([above, below]))
        used = np.zeros(COLUMNS, np.uint8)
        loops.mark_used(codes, used)
        results.append(used)
    np.testing.assert_array_equal(*quotients, err_msg="a profile does not depend on the loops")
    for ours, theirs in zip(results[:3], results[3:], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6 * float(np.abs(ours).max()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loops", [compiled, plain])
def test_lower_arithmetic_is_torchs(loops: Any, dtype: torch.dtype) -> None:
    made = case("channel", 3)
    weight = torch.from_numpy(made["weight"] * made["rows"][:, None] * made["inverse"]).to(dtype)
    scale = torch.from_numpy(made["scale"]).to(dtype)
    made["scale"] = scale.float().numpy()
    codes = (weight / scale).round().clamp(-128, 127).to(torch.int8).numpy().view(np.uint8)
    out = compare(loops, made, codes, low=1 if dtype == torch.bfloat16 else 2)
    assert out[:, EQUAL_LOW].sum() == ROWS * COLUMNS
    assert out[:, EQUAL].sum() < ROWS * COLUMNS


@pytest.mark.parametrize("grid", GRIDS)
def test_float8_is_rounded_as_torch_does(grid: str) -> None:
    made = case(grid, 4)
    made["rows"][:], made["inverse"][:], made["scale"][:] = 1, 1, made["scale"] / 10
    made["weight"][0] *= 1e-4  # subnormal codes
    codes = (torch.from_numpy(made["weight"]) / expanded(made)).clamp(-448, 448).to(torch.float8_e4m3fn)
    out = np.zeros((ROWS, NUM_FACTS))
    compiled.compare_fp8(
        made["weight"], codes.view(torch.uint8).numpy(), 0, made["scale"], made["row_block"], made["column_block"],
        made["rows"], made["inverse"], ROWS, fp8_values(), 0, out,
    )  # fmt: skip
    assert out[:, EQUAL].sum() == ROWS * COLUMNS
    stored = codes.view(torch.uint8).numpy()
    neighbours = np.where(stored & 0x7F == 0x7E, stored - 1, stored ^ 1).astype(np.uint8)
    compiled.compare_fp8(
        made["weight"], neighbours, 0, made["scale"], made["row_block"], made["column_block"],
        made["rows"], made["inverse"], ROWS, fp8_values(), 0, out,
    )  # fmt: skip
    assert out[:, EQUAL].sum() == 0
    assert set(out[:, LARGEST]) <= {1, 2}


def test_the_numbers_of_float8_are_torchs() -> None:
    ours = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    assert torch.equal(torch.from_numpy(fp8_values()).nan_to_num(7), ours.nan_to_num(7))
