"""Which plans the engines of one front end run: one, or each replica's own where FLASHRL_CONFIG names a hybrid.

vLLM starts all replicas of one front end from one configuration. A hybrid needs one for each member, so the front end
makes them all and every engine core takes its own when it starts, by the rank that vLLM gives it. Each worker checks
that the plan which reached it is its replica's.
"""

import asyncio
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from flashrl_registry.errors import IntegrityError, PluginNotActiveError, ResolutionError
from flashrl_registry.registry import PlanRef, default_registry_root, open_chain
from flashrl_registry.resolver import Resolution, open_hybrid
from flashrl_registry.runtime._vllm.locate import read_model
from flashrl_registry.runtime.log import logger
from flashrl_registry.runtime.pinning import pin_for_children
from flashrl_registry.runtime.reference import plan_reference
from flashrl_registry.runtime.replica import find_replicas

_ATTRIBUTE = "flashrl_members"


@dataclass(frozen=True)
class Member:
    """One plan and the replicas of this front end that run it.

    Attributes:
        ref: The plan.
        name: Its name in the hybrid; empty without one.
        digest: The only plan that may run, where the hybrid pins one.
        replicas: Data-parallel ranks; empty without a hybrid.
        numbered: vLLM's configuration carries the rank.
    """

    ref: PlanRef
    name: str = ""
    digest: str | None = None
    replicas: tuple[int, ...] = ()
    numbered: bool = False

    def check(self, resolution: Resolution) -> None:
        """The plan is the one that the hybrid pins.

        Raises:
            IntegrityError: It is another.
        """
        if self.digest not in {None, resolution.plan.digest}:
            raise IntegrityError(
                f"member '{self.name}' is another plan: expected {self.digest}, actual {resolution.plan.digest}",
                hint="a scheme name compiles a plan for the engine's model; pin the digest of that plan, or none",
            )


def find_members(config: str, args: Any, environ: MutableMapping[str, str]) -> list[Member]:
    """The plans that a front end's engines run, that of its first replica first.

    Args:
        config: ``FLASHRL_CONFIG``.
        args: ``vllm.EngineArgs``.
        environ: Environment variables; a plan that was resolved is pinned in them for the processes started later.

    Raises:
        FlashRLError: Not a reference, a malformed hybrid, or nothing says which replicas these are.
    """
    ref = plan_reference(config, default_registry_root(environ), lambda: read_model(args))
    ref = pin_for_children(config, ref, environ)
    opened = open_hybrid(ref, open_chain(environ))
    if opened is None:
        return [Member(ref)]
    replicas = find_replicas(args, environ)
    ranks_of: dict[str, list[int]] = {}
    for rank in replicas.ranks:
        ranks_of.setdefault(opened.hybrid.member_for(rank, replicas.size).name, []).append(rank)
    by_name = {member.name: member for member in opened.hybrid.members}
    members = []
    for name, ranks in ranks_of.items():
        logger.info("hybrid %s: member '%s' for replica %s of %d", opened.file, name, ranks, replicas.size)
        members.append(
            Member(
                ref=opened.ref_for(by_name[name]),
                name=name,
                digest=by_name[name].digest,
                replicas=tuple(ranks),
                numbered=replicas.numbered_by_vllm,
            )
        )
    return members


def check_independent(config: Any, members: list[Member]) -> None:
    """Replicas of a mixture of experts share their experts, so they cannot run different plans.

    Args:
        config: The VllmConfig.
        members: Of this front end.

    Raises:
        ResolutionError: A hybrid of such replicas.
    """
    if members[0].name and config.parallel_config.data_parallel_size > 1 and config.model_config.is_moe:
        raise ResolutionError(
            "data-parallel replicas of a mixture of experts share their experts, and a hybrid gives them different "
            "plans",
            hint="use one plan, or engines of data_parallel_size 1 with FLASHRL_REPLICA=RANK/SIZE",
        )


def check_replica(payload: Mapping[str, Any], vllm_config: Any) -> None:
    """In a worker: the plan that reached it is its replica's.

    Raises:
        PluginNotActiveError: It is another replica's.
    """
    rank = vllm_config.parallel_config.data_parallel_index
    if payload["numbered"] and rank not in payload["replicas"]:
        raise PluginNotActiveError(
            f"replica {rank} got the plan of member '{payload['member']}', which is for replicas "
            f"{list(payload['replicas'])}",
            hint="this vLLM starts replicas in another way; start one engine per replica with data_parallel_rank",
        )


def replica_of(payload: Mapping[str, Any], vllm_config: Any) -> int:
    """The replica that a worker belongs to."""
    if payload["replicas"] and not payload["numbered"]:
        return int(payload["replicas"][0])
    return int(vllm_config.parallel_config.data_parallel_index)


# --- vLLM's internals; tested on 0.27.1 and 0.32.0. Goes when vLLM takes one configuration per replica. ------------


def hand_out(config: Any, others: Mapping[int, Any]) -> None:
    """Make every engine core that this process starts take its own member's configuration.

    Args:
        config: The front end's VllmConfig, of its first replica's member.
        others: VllmConfigs of replicas that run another member, by data-parallel rank.
    """
    from vllm.v1.engine.core import EngineCoreProc

    setattr(config, _ATTRIBUTE, dict(others))
    original = EngineCoreProc.run_engine_core
    if original is not run_engine_core:
        _originals["run_engine_core"] = original
        EngineCoreProc.run_engine_core = staticmethod(run_engine_core)


def answer_for_every_replica() -> None:
    """Make ``AsyncLLM.collective_rpc`` return the answers of all replicas for our own methods.

    vLLM calls them on every replica and returns what the first one answered; an HTTP server's ``/collective_rpc`` too.
    """
    from vllm.v1.engine.async_llm import AsyncLLM

    original = AsyncLLM.collective_rpc
    if getattr(original, "flashrl_wrapped", False):
        return

    async def collective_rpc(self, method, timeout=None, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        core = self.engine_core
        engines = getattr(core, "core_engines", ())
        if not str(method).startswith("flashrl_") or len(engines) < 2:
            return await original(self, method, timeout, args, kwargs)
        call = ("collective_rpc", method, timeout, args, kwargs)
        answers = await asyncio.gather(*(core._call_utility_async(*call, engine=engine) for engine in engines))
        return [answer for workers in answers for answer in workers]

    collective_rpc.flashrl_wrapped = True  # type: ignore[attr-defined]
    AsyncLLM.collective_rpc = collective_rpc


_originals: dict[str, Any] = {}


def run_engine_core(*args: Any, dp_rank: int = 0, local_dp_rank: int = 0, **kwargs: Any) -> None:
    """In an engine core: vLLM's own function with this replica's configuration.

    What vLLM set for the start of the replicas (ports, devices, names) stays; the rest is the member's.
    """
    from vllm.v1.engine.core import EngineCoreProc

    config = kwargs["vllm_config"]
    member = getattr(config, _ATTRIBUTE, {}).get(dp_rank)
    if member is not None:
        for name in ("parallel_config", "kv_transfer_config", "instance_id"):
            setattr(member, name, getattr(config, name))
        kwargs["vllm_config"] = member
    # A spawned process has vLLM's function, a forked one inherits what stands in its place.
    original = _originals.get("run_engine_core", EngineCoreProc.run_engine_core)
    original(*args, dp_rank=dp_rank, local_dp_rank=local_dp_rank, **kwargs)
