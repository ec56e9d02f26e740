"""Families of names: expand and factor are inverse, and a short pattern cannot mean millions of names."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashrl_registry.documents.names import (
    MAX_MEMBERS,
    expand,
    factor,
    family_size,
    join_indices,
    natural_key,
    split_indices,
)

SEGMENT = st.sampled_from(
    ["model", "layers", "experts", "w1", "weight", "q_proj", "0", "1", "2", "7", "10", "007", "3"]
)
NAMES = st.sets(st.lists(SEGMENT, min_size=1, max_size=5).map(".".join), min_size=1, max_size=40)


def test_a_family_is_written_once() -> None:
    names = [f"model.layers.{i}.mlp.experts.{j}.up_proj.weight" for i in range(30) for j in range(4)]
    assert factor(names) == ["model.layers.{0..29}.mlp.experts.{0..3}.up_proj.weight"]


def test_gaps_are_listed() -> None:
    assert factor(f"l.{i}.w" for i in (1, 3, 4, 5, 9)) == ["l.{1,3..5,9}.w"]


def test_expand_lists_first_index_slowest() -> None:
    assert expand("a.{0..1}.{2,5}") == ["a.0.2", "a.0.5", "a.1.2", "a.1.5"]


@pytest.mark.parametrize(
    "pattern", ["a.{", "a.}", "a.{}", "a.{1..}", "a.{2..1}", "a.{1,1}", "a.{3,1}", "a.{x}", "a.{01}", "a.{{1}}"]
)
def test_malformed_braces_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"brace|write numbers|ascend"):
        expand(pattern)


def test_a_short_pattern_cannot_mean_millions_of_names() -> None:
    start = time.process_time()
    with pytest.raises(ValueError, match=f"the limit is {MAX_MEMBERS}"):
        expand("a.{0..9999999}." + "{0..9999}." * 20)
    assert time.process_time() - start < 0.1


@given(NAMES)
@settings(deadline=None)
def test_factor_then_expand_gives_the_same_names(names: set[str]) -> None:
    patterns = factor(names)
    expanded = [name for pattern in patterns for name in expand(pattern)]
    assert sorted(expanded) == sorted(names)
    assert sum(family_size(pattern) for pattern in patterns) == len(names)
    assert factor(sorted(names, reverse=True)) == patterns


@given(st.text(alphabet="a.{},0123456789", max_size=20))
@settings(deadline=None)
def test_any_pattern_expands_or_is_refused(pattern: str) -> None:
    try:
        size = family_size(pattern)
    except ValueError:
        return
    if size <= 1000:
        names = expand(pattern)
        assert len(set(names)) == size


@given(st.lists(st.text(alphabet="a.0123456789\u0663\u00b2", max_size=12), unique=True))
@settings(deadline=None)
def test_any_names_have_one_order(names: list[str]) -> None:
    backwards = names[::-1]
    assert sorted(names, key=natural_key) == sorted(backwards, key=natural_key)


def test_layer_9_comes_before_layer_10() -> None:
    assert sorted(["l.10.w", "l.9.w", "k"], key=natural_key) == ["k", "l.9.w", "l.10.w"]


@pytest.mark.parametrize(
    ("name", "shape", "indices"),
    [
        ("model.layers.3.mlp.experts.12.up_proj", "model.layers.{}.mlp.experts.{}.up_proj", ("3", "12")),
        ("model.layers.{0..3}.mlp.experts.{1,4..6}.w", "model.layers.{}.mlp.experts.{}.w", ("{0..3}", "{1,4..6}")),
        ("model.norm", "model.norm", ()),
        ("a.007.q2", "a.007.q2", ()),
    ],
)
def test_indices_can_be_taken_out_and_put_back(name: str, shape: str, indices: tuple[str, ...]) -> None:
    assert split_indices(name) == (shape, indices)
    assert join_indices(shape, indices) == name
