"""Which of a job's replicas an engine is: what a hybrid picks its member by.

Replicas are numbered by their data-parallel rank. An engine that its launcher numbers (``external_launcher``) is one
replica, and so is one that vLLM numbers (``data_parallel_rank``); with vLLM's own load balancer one front end starts
several. Frameworks that start replicas themselves say it in ``FLASHRL_REPLICA``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flashrl_registry.errors import ResolutionError

VARIABLE = "FLASHRL_REPLICA"


@dataclass(frozen=True)
class Replicas:
    """The replicas that one front end starts.

    Attributes:
        ranks: Their data-parallel ranks, ascending.
        size: Number of replicas of the whole job.
        numbered_by_vllm: vLLM's own configuration carries the rank, so workers can prove it.
    """

    ranks: tuple[int, ...]
    size: int
    numbered_by_vllm: bool


def find_replicas(args: Any, environ: Mapping[str, str]) -> Replicas:
    """Find out which replicas an engine is.

    Args:
        args: ``vllm.EngineArgs``.
        environ: Environment variables.

    Raises:
        ResolutionError: Nothing says which; a hybrid cannot run, for every replica would take the first member.
    """
    if text := environ.get(VARIABLE, "").strip():
        return Replicas(*_parse(text), numbered_by_vllm=False)
    if args.distributed_executor_backend == "external_launcher":
        return _launched(args, environ)
    size = int(args.data_parallel_size)
    if size > 1:
        return _numbered(args, size)
    raise ResolutionError(
        "FLASHRL_CONFIG names a hybrid, and nothing tells this engine which replica it is",
        hint=f"set {VARIABLE}=RANK/SIZE for each replica (0/1 for a single one), or use vLLM's data parallelism or "
        "distributed_executor_backend='external_launcher'",
    )


def _parse(text: str) -> tuple[tuple[int, ...], int]:
    rank, slash, size = text.partition("/")
    if not (slash and rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
        raise ResolutionError(f"{VARIABLE}={text} means nothing", hint="write RANK/SIZE, such as 0/4 up to 3/4")
    return (int(rank),), int(size)


def _launched(args: Any, environ: Mapping[str, str]) -> Replicas:
    """FlashRL's rule: torchrun numbers processes, and those of one replica follow each other."""
    try:
        rank, world = int(environ["RANK"]), int(environ["WORLD_SIZE"])
    except (KeyError, ValueError) as exc:
        raise ResolutionError(
            "distributed_executor_backend='external_launcher' and no RANK and WORLD_SIZE in the environment",
            hint="start the program with torchrun, or set both",
        ) from exc
    share = int(args.tensor_parallel_size) * int(args.pipeline_parallel_size)
    if world % share or not 0 <= rank < world:
        raise ResolutionError(
            f"RANK={rank} and WORLD_SIZE={world} do not make replicas of {share} processes",
            hint="WORLD_SIZE must be a multiple of tensor_parallel_size x pipeline_parallel_size",
        )
    return Replicas((rank // share,), world // share, numbered_by_vllm=int(args.data_parallel_size) > 1)


def _numbered(args: Any, size: int) -> Replicas:
    """``data_parallel_rank`` names one replica; otherwise one front end starts those of its machine."""
    if args.data_parallel_rank is not None:
        return Replicas((int(args.data_parallel_rank),), size, numbered_by_vllm=True)
    if args.data_parallel_external_lb or getattr(args, "nnodes", 1) > 1:
        raise ResolutionError(
            "a hybrid needs to know the replica before vLLM infers it from the node",
            hint="pass data_parallel_rank",
        )
    start = int(args.data_parallel_start_rank or 0)
    local = size if args.data_parallel_size_local is None else int(args.data_parallel_size_local)
    if args.data_parallel_backend == "ray":
        raise ResolutionError(
            "data_parallel_backend='ray' gives every replica one configuration, and a hybrid needs one for each",
            hint="start one engine per replica with data_parallel_rank, or use data_parallel_backend='mp'",
        )
    return Replicas(tuple(range(start, start + max(local, 1))), size, numbered_by_vllm=True)
