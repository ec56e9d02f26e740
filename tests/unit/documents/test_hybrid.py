"""Which plan a replica runs."""

import pytest

from flashrl_registry.documents import Hybrid, HybridMember


def hybrid(*weights: int) -> Hybrid:
    return Hybrid(
        members=[HybridMember(name=f"m{index}", plan="int8", weight=weight) for index, weight in enumerate(weights)]
    )


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_equal_weights_give_flashrl_s_rank_modulo_length(count: int) -> None:
    document = hybrid(*[1] * count)
    assert [member.name for member in document.schedule(12)] == [f"m{rank % count}" for rank in range(12)]


def test_weights_give_runs_of_replicas_and_repeat() -> None:
    assert [member.name for member in hybrid(3, 1).schedule(9)] == ["m0"] * 3 + ["m1"] + ["m0"] * 3 + ["m1", "m0"]


def test_a_huge_weight_costs_nothing() -> None:
    assert hybrid(65536, 65536).member_for(70_000, 200_000).name == "m1"


@pytest.mark.parametrize(("rank", "size"), [(-1, 4), (4, 4), (0, 0)])
def test_a_replica_that_is_not_there_is_refused(rank: int, size: int) -> None:
    with pytest.raises(ValueError, match="no replica"):
        hybrid(1).member_for(rank, size)


def test_the_description_does_not_change_the_digest() -> None:
    document = hybrid(1, 2)
    assert document.model_copy(update={"description": "for people"}).compute_digest() == document.compute_digest()
    assert hybrid(2, 1).compute_digest() != document.compute_digest()


def test_paths_start_with_a_dot() -> None:
    members = [HybridMember(name="a", plan=plan) for plan in ("./int8", "../plans/int8", "team/int8@1.0.0", "int8")]
    assert [member.is_path for member in members] == [True, True, False, False]
