"""What the driver hands to every process of an engine.

The driver resolves once. Workers get the plan itself (a few kilobytes of canonical JSON), compute the
ResolvedPlan again and compare digests, so no process can run another plan or another version's reading of it. The
profile's vectors are a file: a worker on another machine, where it does not lie, fetches it from where the driver found
the plan, by commit or version and by digest.
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flashrl_registry.compiler import lower
from flashrl_registry.documents import Environment, LockedPlan, Plan, ResolvedPlan, Sidecar, parse_document
from flashrl_registry.errors import FlashRLError, NotFoundError, PluginNotActiveError
from flashrl_registry.registry import open_bundle, open_chain
from flashrl_registry.registry.bundle import check_sidecar
from flashrl_registry.registry.lock_entries import reference_of
from flashrl_registry.resolver.resolve import Resolution


@dataclass(frozen=True)
class Payload:
    """Plain strings that survive every way of starting a process.

    Attributes:
        source: The reference, for people.
        plan: Canonical JSON of the plan.
        environment: JSON of the environment that the driver saw.
        resolved_digest: Digest that every process must compute.
        sidecar: Path of the profile's vectors on the driver's machine, or None.
        found_at: JSON of a lock's entry: where the driver found the plan; None for one that it compiled.
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
    found_at: str | None = None

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
    found_at = resolution.found_at
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
        found_at=None if found_at is None else found_at.model_dump_json(exclude_none=True),
    )


def open_payload(
    data: dict[str, Any], environment: Environment, environ: Mapping[str, str] | None = None
) -> tuple[ResolvedPlan, Path | None]:
    """Unpack and prove in a worker.

    Args:
        data: :meth:`Payload.as_dict`.
        environment: The machine as this process sees it.
        environ: Environment variables, for the stores of this machine; this process's where None.

    Returns:
        The resolved plan and the checked sidecar.

    Raises:
        PluginNotActiveError: This process computes another digest than the driver.
        IntegrityError: The plan or the sidecar changed on the way.
        NotFoundError: The sidecar is not on this machine, and cannot be fetched.
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
        if not sidecar.is_file():
            sidecar = _fetched(payload, resolved.sidecar, os.environ if environ is None else environ)
        check_sidecar(sidecar, resolved.sidecar)
    return resolved, sidecar


def _fetched(payload: Payload, expected: Sidecar, environ: Mapping[str, str]) -> Path:
    """The vectors on a machine where the driver's file is not: from where the driver found the plan."""
    if payload.found_at is None:
        raise _missing(payload, expected, "the driver compiled the plan itself")
    entry = LockedPlan.model_validate_json(payload.found_at)
    try:
        bundle = open_bundle(reference_of(entry, Path()), open_chain(environ))
    except FlashRLError as exc:
        raise _missing(payload, expected, exc.message) from exc
    if bundle.sidecar is None:  # the digest is the driver's, so the plan has vectors
        raise _missing(payload, expected, f"{bundle.origin} holds none")
    return bundle.sidecar


def _missing(payload: Payload, expected: Sidecar, why: str) -> NotFoundError:
    host = socket.gethostname()
    entry = None if payload.found_at is None else LockedPlan.model_validate_json(payload.found_at)
    hint = f"copy {payload.sidecar} from the driver's machine to the same path on {host}"
    if entry is None or entry.source.kind not in {"hub", "url"}:
        hint += ", or push the plan to a Hub or a shared store and name it there: workers then fetch it themselves"
    return NotFoundError(
        f"the vectors of the plan {payload.source} are not on {host}, where a worker runs: no file at "
        f"{payload.sidecar} ({expected.num_bytes} bytes, {expected.digest}), and they cannot be fetched: {why}",
        hint=hint,
        context={"host": host, "path": payload.sidecar, "digest": expected.digest},
    )
