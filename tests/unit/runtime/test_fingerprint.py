"""Fingerprints of rows: equal for equal bytes, different for one bit, additive over shards of columns."""

import pytest
import torch

from flashrl_registry.runtime.fingerprint import fingerprint, fingerprint_and_check


def codes(columns: int = 24, rows: int = 5) -> torch.Tensor:
    return torch.randint(-128, 128, (rows, columns), generator=torch.Generator().manual_seed(0), dtype=torch.int8)


@pytest.mark.parametrize("dtype", [torch.int8, torch.bfloat16, torch.float32, torch.float8_e4m3fn])
@pytest.mark.parametrize("columns", [24, 7, 1])
def test_one_changed_bit_changes_its_row_and_no_other(dtype: torch.dtype, columns: int) -> None:
    value = codes(columns).to(dtype)
    before = fingerprint(value)
    assert before.dtype == torch.int64
    assert before.shape == (5, 1)
    value.view(torch.uint8)[3, -1] ^= 1
    assert (fingerprint(value) != before).flatten().tolist() == [False, False, False, True, False]


def test_exchanged_columns_do_not_go_unnoticed() -> None:
    value = codes()
    swapped = value.roll(8, dims=1)
    assert not (fingerprint(value) == fingerprint(swapped)).any()


def test_a_worker_with_a_slice_of_the_columns_compares_its_own() -> None:
    value = codes(48)
    whole = fingerprint(value, chunks=2)
    for rank, part in enumerate(value.chunk(2, dim=1)):
        assert torch.equal(fingerprint(part, first_chunk=rank)[:, 0], whole[:, rank])


def test_vectors_and_strides() -> None:
    vector = torch.arange(6, dtype=torch.bfloat16)
    assert fingerprint(vector).shape == (6, 1)
    value = codes()
    assert torch.equal(fingerprint(value.t().contiguous().t()), fingerprint(value))


@pytest.mark.parametrize("shape", [(3000, 1001), (2, 3_000_000)])
def test_a_matrix_of_several_blocks_is_the_sum_of_its_rows(shape: tuple[int, int]) -> None:
    value = torch.randint(-128, 128, shape, generator=torch.Generator().manual_seed(0), dtype=torch.int8)
    whole = fingerprint(value)
    for row in (0, 1, shape[0] // 2, shape[0] - 1):
        assert torch.equal(fingerprint(value[row : row + 1])[0], whole[row])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
def test_the_check_on_the_way_sees_one_bad_element_in_any_block(dtype: torch.dtype, poison: float) -> None:
    value = torch.randn(4000, 300, generator=torch.Generator().manual_seed(0)).to(dtype)
    rows, finite = fingerprint_and_check(value)
    assert finite
    assert torch.equal(rows, fingerprint(value))
    for place in ((0, 0), (1999, 150), (3999, 299)):
        bad = value.clone()
        bad[place] = poison
        assert not fingerprint_and_check(bad)[1]


def test_codes_and_empty_tensors_pass_the_check() -> None:
    for value in (codes(), codes().float().to(torch.float8_e4m3fn), torch.ones(0, 4), torch.ones(3, 0)):
        assert fingerprint_and_check(value)[1]


@pytest.mark.parametrize(("dtype", "large"), [(torch.bfloat16, 3e38), (torch.float32, 3e38), (torch.float16, 6e4)])
def test_finite_numbers_whose_sum_is_not_are_finite(dtype: torch.dtype, large: float) -> None:
    _, finite = fingerprint_and_check(torch.full((4, 300), large).to(dtype))
    assert finite


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_view_that_begins_between_two_words_is_like_any_other(dtype: torch.dtype) -> None:
    bucket = torch.randn(1 + 5 * 24, generator=torch.Generator().manual_seed(0)).to(dtype)
    view = bucket[1:].view(5, 24)
    rows, finite = fingerprint_and_check(view)
    assert finite
    assert torch.equal(rows, fingerprint(view.clone()))
