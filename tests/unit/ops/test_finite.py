"""NaN and infinity are seen wherever they are."""

import pytest
import torch

from flashrl_registry.ops import all_finite

DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_bad_element_is_seen_at_every_place(dtype: torch.dtype, poison: float) -> None:
    for size in (1, 2, 7, 31, 64, 130, 1000):
        clean = torch.randn(size, generator=torch.Generator().manual_seed(size)).to(dtype)
        assert all_finite(clean)
        for place in range(size):
            bad = clean.clone()
            bad[place] = poison
            assert not all_finite(bad), (size, place)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_numbers_are_finite(dtype: torch.dtype) -> None:
    most = torch.finfo(dtype).max
    assert all_finite(torch.tensor([most, -most, 0.0], dtype=dtype))


def test_views_empty_tensors_integers_and_float8() -> None:
    assert all_finite(torch.ones(4, 6)[:, ::2])
    bad = torch.ones(4, 6)
    bad[2, 4] = torch.nan
    assert not all_finite(bad.t())
    assert not all_finite(bad[:, ::2])
    assert all_finite(bad[:, 1::2])
    assert all_finite(torch.ones(0, 3))
    assert all_finite(torch.ones(3, dtype=torch.int8))
    assert not all_finite(torch.tensor([1.0, torch.nan]).to(torch.float8_e4m3fn))
