"""Which replica an engine is, from whatever numbers it."""

from dataclasses import dataclass

import pytest

from flashrl_registry.errors import ResolutionError
from flashrl_registry.runtime.replica import Replicas, find_replicas


@dataclass
class Args:
    """The fields of vLLM's EngineArgs that decide."""

    distributed_executor_backend: str | None = None
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    data_parallel_size: int = 1
    data_parallel_rank: int | None = None
    data_parallel_start_rank: int | None = None
    data_parallel_size_local: int | None = None
    data_parallel_external_lb: bool = False
    data_parallel_backend: str = "mp"


@pytest.mark.parametrize(("rank", "replica"), [(0, 0), (3, 0), (4, 1), (7, 1)])
def test_a_launcher_numbers_processes_and_those_of_one_replica_follow_each_other(rank: int, replica: int) -> None:
    args = Args("external_launcher", tensor_parallel_size=2, pipeline_parallel_size=2)
    found = find_replicas(args, {"RANK": str(rank), "WORLD_SIZE": "8"})
    assert found == Replicas((replica,), 2, numbered_by_vllm=False)


def test_vllms_own_rank_is_taken_and_can_be_proven() -> None:
    found = find_replicas(Args(data_parallel_size=4, data_parallel_rank=3), {})
    assert found == Replicas((3,), 4, numbered_by_vllm=True)


@pytest.mark.parametrize(
    ("args", "ranks"),
    [
        (Args(data_parallel_size=3), (0, 1, 2)),
        (Args(data_parallel_size=4, data_parallel_size_local=2), (0, 1)),
        (Args(data_parallel_size=4, data_parallel_size_local=2, data_parallel_start_rank=2), (2, 3)),
        (Args(data_parallel_size=4, data_parallel_size_local=0), (0,)),
    ],
)
def test_one_front_end_starts_the_replicas_of_its_machine(args: Args, ranks: tuple[int, ...]) -> None:
    assert find_replicas(args, {}).ranks == ranks


def test_a_framework_that_starts_replicas_itself_says_which() -> None:
    assert find_replicas(Args(), {"FLASHRL_REPLICA": "1/2"}) == Replicas((1,), 2, numbered_by_vllm=False)


@pytest.mark.parametrize("text", ["1", "2/2", "-1/2", "a/b", "1/"])
def test_a_replica_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(ResolutionError, match="means nothing"):
        find_replicas(Args(), {"FLASHRL_REPLICA": text})


@pytest.mark.parametrize(
    ("args", "environ", "text"),
    [
        (Args(), {"RANK": "1", "WORLD_SIZE": "2"}, "nothing tells this engine which replica it is"),
        (Args("external_launcher"), {}, "no RANK and WORLD_SIZE"),
        (Args("external_launcher", tensor_parallel_size=2), {"RANK": "0", "WORLD_SIZE": "3"}, "do not make replicas"),
        (Args(data_parallel_size=2, data_parallel_external_lb=True), {}, "before vLLM infers it"),
        (Args(data_parallel_size=2, data_parallel_backend="ray"), {}, "one configuration"),
    ],
)
def test_an_unknown_replica_does_not_start(args: Args, environ: dict[str, str], text: str) -> None:
    with pytest.raises(ResolutionError, match=text):
        find_replicas(args, environ)
