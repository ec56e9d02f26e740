"""What the driver hands to every process of an engine.

The driver resolves once. Workers get the plan itself (a few kilobytes of canonical JSON), compute the
ResolvedPlan again and compare digests, so no process can run another plan or another version's reading of it.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flashrl_registry.compiler import lower
from flashrl_registry.documents import Environment, Plan, ResolvedPlan, parse_document
from flashrl_registry.errors import PluginNotActiveError
from flashrl_registry.registry.bundle import check_sidecar
from flashrl_registry.resolver.resolve import Resolution


@dataclass(frozen=True)
class Payload:
    """Plain strings that survive every way of starting a process.

    Attributes:
        source: The reference, for people.
        plan: Canonical JSON of the plan.
        environment: JSON of the environment that the driver saw.
        resolved_digest: Digest that every process must compute.
        sidecar: Path of the profile's vectors, or None.
        gate: File by which workers tell the front end whether they serve.
        inner_load_format: The ``load_format`` that the program asked for.
        inner_extra_config: Its ``model_loader_extra_config``.
        member: Name in a hybrid; empty for a plan of its own.
        replicas: Data-parallel ranks that run it; empty for all of them.
        numbered: The engine's configuration carries the rank, so a worker can compare.
        start_model: Checkpoint that the first load reads in place of the program's; None for the program's.
        start_revision: Its revision on the Hub.
        start_quantized: Its tensors go in as they are.
        test_reload: Checkpoints that every worker reloads before it serves.
    """

    source: str
    plan: str
    environment: str
    resolved_digest: str
    sidecar: str | None
    gate: str
    inner_load_format: str
    inner_extra_config: dict[str, Any]
    member: str = ""
    replicas: tuple[int, ...] = ()
    numbered: bool = False
    start_model: str | None = None
    start_revision: str | None = None
    start_quantized: bool = False
    test_reload: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For ``model_loader_extra_config``."""
        return asdict(self)


def make_payload(
    resolution: Resolution,
    gate: Path,
    inner_load_format: str,
    inner_extra_config: dict[str, Any],
    *,
    member: str = "",
    replicas: tuple[int, ...] = (),
    numbered: bool = False,
) -> Payload:
    """Pack a resolution; arguments as the attributes of :class:`Payload`."""
    assert resolution.resolved.digest is not None
    return Payload(
        source=resolution.resolved.source,
        plan=resolution.plan.canonical_json().decode(),
        environment=resolution.resolved.environment.model_dump_json(),
        resolved_digest=resolution.resolved.digest,
        sidecar=None if resolution.sidecar is None else str(resolution.sidecar.resolve()),
        gate=str(gate),
        inner_load_format=inner_load_format,
        inner_extra_config=inner_extra_config,
        member=member,
        replicas=replicas,
        numbered=numbered,
    )


def open_payload(data: dict[str, Any], environment: Environment) -> tuple[ResolvedPlan, Path | None]:
    """Unpack and prove in a worker.

    Args:
        data: :meth:`Payload.as_dict`.
        environment: The machine as this process sees it.

    Returns:
        The resolved plan and the checked sidecar.

    Raises:
        PluginNotActiveError: This process computes another digest than the driver.
        IntegrityError: The plan or the sidecar changed on the way.
    """
    payload = Payload(**data)
    plan = parse_document(payload.plan, f"plan {payload.source} from the driver", Plan)
    driver = Environment.model_validate_json(payload.environment)
    # How layers are shared is the engine's configuration, which the driver made; the rest this process sees itself.
    environment = environment.model_copy(update={"tensor_parallel_size": driver.tensor_parallel_size})
    resolved = lower(plan, environment, payload.source)
    if resolved.digest != payload.resolved_digest:
        raise PluginNotActiveError(
            f"this worker resolves another plan than the driver: {resolved.digest} instead of "
            f"{payload.resolved_digest}",
            hint=f"driver: {driver!r}; worker: {environment!r}; install the same versions on every node",
        )
    sidecar = Path(payload.sidecar) if payload.sidecar else None
    if sidecar is not None and resolved.sidecar is not None:
        check_sidecar(sidecar, resolved.sidecar)
    return resolved, sidecar
