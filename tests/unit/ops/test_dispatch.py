"""Stacks, flags and places of the quantize operations; which machine runs what; the kernels in Triton's interpreter."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from flashrl_registry import ops

ROOT = Path(__file__).parents[3]
Quantize = Callable[..., tuple[Tensor, Tensor]]
ALL: list[Quantize] = [ops.quantize_int8, ops.quantize_fp8_channel, ops.quantize_fp8_tensor, ops.quantize_fp8_block]


def experts() -> Tensor:
    return torch.randn(3, 256, 128, generator=torch.Generator().manual_seed(0)).bfloat16()


def same(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> bool:
    return all(torch.equal(a.float(), b.float()) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("quantize", ALL)
def test_a_stack_of_experts_is_quantized_as_each_alone(quantize: Quantize) -> None:
    codes, scales = quantize(experts())
    for index, weight in enumerate(experts()):
        assert same((codes[index], scales[index]), quantize(weight))


def test_experts_share_a_norm_or_have_factors_of_their_own() -> None:
    weight = experts()
    columns_EI, rows_EO = torch.rand(3, 128) + 0.5, torch.rand(3, 256) + 0.5
    frozen_EO = torch.rand(3, 256) / 50 + 0.001
    own = ops.quantize_int8(weight, frozen_EO, inv_rows_O=rows_EO, inv_columns_I=columns_EI)
    shared = ops.quantize_int8(weight, inv_columns_I=columns_EI[0])
    for index in range(3):
        one = ops.quantize_int8(
            weight[index], frozen_EO[index], inv_rows_O=rows_EO[index], inv_columns_I=columns_EI[index]
        )
        assert same((own[0][index], own[1][index]), one)
        one = ops.quantize_int8(weight[index], inv_columns_I=columns_EI[0])
        assert same((shared[0][index], shared[1][index]), one)


def test_a_kept_reciprocal_gives_the_same_codes() -> None:
    weight, inv = experts(), torch.rand(128) + 0.5
    for scale in (None, torch.full((3, 256), 0.01)):
        one = ops.quantize_int8(weight, scale, inv_columns_I=inv)
        assert same(one, ops.quantize_int8(weight, scale, columns_I=1.0 / inv))
    with pytest.raises(ValueError, match="give one of them"):
        ops.quantize_int8(weight, inv_columns_I=inv, columns_I=inv)


@pytest.mark.parametrize("quantize", ALL)
def test_codes_go_where_the_caller_wants_them(quantize: Quantize) -> None:
    weight = experts()[0]
    codes, scales = quantize(weight)
    stacked = torch.zeros(768, 128, dtype=codes.dtype)
    out = stacked[256:512], torch.zeros_like(scales)
    assert quantize(weight, out=out)[0] is out[0]
    assert same(out, (codes, scales))
    assert not stacked.float()[:256].any()
    assert not stacked.float()[512:].any()


@pytest.mark.parametrize("quantize", ALL)
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_one_flag_tells_of_many_weights(quantize: Quantize, poison: float) -> None:
    finite, weight = torch.ones((), dtype=torch.bool), experts()
    quantize(weight, finite=finite)
    assert finite
    weight[2, 255, 127] = poison
    quantize(weight, finite=finite)
    assert not finite
    quantize(experts(), finite=finite)
    assert not finite


def test_the_flag_tells_of_a_frozen_weight_that_overflows_when_smoothed() -> None:
    finite = torch.ones((), dtype=torch.bool)
    weight, scale = torch.full((2, 4), 3e38), torch.ones(2)
    ops.quantize_int8(weight, scale, finite=finite)
    assert finite
    ops.quantize_int8(weight, scale, inv_rows_O=torch.tensor([1.0, 2.0]), finite=finite)
    assert not finite


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"scale": torch.ones(3)}, "scale has 3 elements, not 8"),
        ({"inv_columns_I": torch.ones(8)}, r"inv_columns_I is \[8\], not \[4\]"),
        ({"inv_rows_O": torch.ones(4)}, r"inv_rows_O is \[4\], not \[8\]"),
        ({"finite": torch.ones(())}, "finite is .* not .* torch.bool"),
        ({"out": (torch.zeros(8, 4), torch.ones(8, 1))}, "out.0. is .* not .* torch.int8"),
        ({"out": (torch.zeros(8, 4, dtype=torch.int8), torch.ones(8))}, "out.1. is"),
        ({"out": (torch.zeros(8, 4, dtype=torch.int8), torch.ones(8, 2)[:, :1])}, "out.1. is not contiguous"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(given: dict[str, Tensor], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ops.quantize_int8(torch.ones(8, 4), **given)


def test_blocks_must_be_whole() -> None:
    with pytest.raises(ValueError, match="no whole blocks of 128 x 128"):
        ops.quantize_fp8_block(torch.ones(128, 130))


def test_cpu_tensors_need_no_triton_and_a_wrong_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not ops.kernels_run(torch.device("cpu"))
    monkeypatch.setenv("FLASHRL_OPS", "refrence")
    with pytest.raises(ValueError, match="write reference"):
        ops.quantize_int8(torch.ones(2, 2))
    done = subprocess.run(
        [sys.executable, "-c", "import flashrl_registry.ops, sys; assert 'triton' not in sys.modules"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_kernels_equal_plain_torch_in_tritons_interpreter() -> None:
    command = [sys.executable, str(ROOT / "tests" / "gpu" / "kernels.py"), "--count", "40"]
    environ = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environ, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failed" in done.stdout
