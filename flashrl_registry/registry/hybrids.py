"""Several plans under one name: a hybrid and its members, published as one version.

``hybrid.yaml`` lies at the top, each member in a folder of its name: ``int8/plan.yaml`` and what belongs to it. In a
published hybrid every member pins its plan's digest, so the digest of the hybrid is that of all of them.
``namespace/name@1.0.0`` is the hybrid, ``namespace/name@1.0.0:int8`` is one plan of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flashrl_registry.documents import History, Hybrid, Manifest, Plan, canonical_scheme, read_document, write_document
from flashrl_registry.documents.findings import did_you_mean
from flashrl_registry.documents.lock import BundledSource, HubSource, LocalSource, UrlSource
from flashrl_registry.errors import IntegrityError, InvalidRefError, NotFoundError
from flashrl_registry.registry.bundle import PlanBundle, read_bundle, write_bundle
from flashrl_registry.registry.plan_folders import (
    HYBRID_YAML,
    refuse_folder,
    refuse_hybrid_folder,
    refuse_two_kinds,
)
from flashrl_registry.registry.ref import NamedRef


@dataclass(frozen=True)
class HybridPlans:
    """A published hybrid's documents, without their files.

    Attributes:
        hybrid: The document.
        plans: Member to its plan; a member that is a scheme name has none.
    """

    hybrid: Hybrid
    plans: Mapping[str, Plan]

    @property
    def first(self) -> Plan:
        """The plan of the first member that has one; what is said of the model holds for all of them."""
        return next(iter(self.plans.values()))


@dataclass(frozen=True)
class HybridBundle:
    """A hybrid whose members' files have been checked against their digests.

    Attributes:
        hybrid: The document as it is published: members lie in folders of their names and pin their digests.
        plans: Member to its plan; a member that is a scheme name has none.
        file: Its document.
        origin: Where it was read from, for messages.
        source: What a lock says of where it was found; None for a path.
        warnings: What whoever uses it should read.
        manifest: Of a published version.
        history: What was known of its name where that cost nothing.
        signed_by: Fingerprints of the trusted keys that signed it; empty where no signature was asked for.
    """

    hybrid: Hybrid
    plans: Mapping[str, PlanBundle]
    file: Path
    origin: str
    source: HubSource | LocalSource | BundledSource | UrlSource | None = None
    warnings: tuple[str, ...] = ()
    manifest: Manifest | None = None
    history: History | None = None
    signed_by: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Digest of the hybrid, which covers its members'."""
        return self.hybrid.compute_digest()

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of it."""
        return (self.file, *(file for plan in self.plans.values() for file in plan.files))

    @property
    def schemes(self) -> list[str]:
        """Of all members' rules, for listings."""
        return sorted({rule.shown_scheme() for bundle in self.plans.values() for rule in bundle.plan.rules})

    @property
    def first(self) -> Plan:
        """The plan of the first member that has one; what is said of the model holds for all of them."""
        return self.documents.first

    @property
    def documents(self) -> HybridPlans:
        """Without their files."""
        return HybridPlans(self.hybrid, {name: bundle.plan for name, bundle in self.plans.items()})


Bundle = PlanBundle | HybridBundle


def one_plan(bundle: Bundle, ref: object) -> PlanBundle:
    """A bundle where only one plan will do.

    Raises:
        InvalidRefError: It is a hybrid.
    """
    if isinstance(bundle, PlanBundle):
        return bundle
    place = Path(bundle.origin)
    if place.exists():  # a folder or file of the user's: its members lie beside it
        folder = place if place.is_dir() else place.parent
        names = [str(folder / member.plan) if member.is_path else member.plan for member in bundle.hybrid.members]
    else:
        names = [f"{ref}:{name}" for name in bundle.plans]
    raise InvalidRefError(
        f"{bundle.origin} is a hybrid of {len(bundle.hybrid.members)} members, not one plan",
        hint=f"name one of them: {', '.join(names)}",
        context={"ref": str(ref), "members": [member.name for member in bundle.hybrid.members]},
    )


def documents_of(bundle: Bundle) -> Plan | HybridPlans:
    """What it says of itself."""
    return bundle.documents if isinstance(bundle, HybridBundle) else bundle.plan


def identity_of(bundle: Bundle) -> dict[str, Any]:
    """What its digest is of."""
    return (bundle.hybrid if isinstance(bundle, HybridBundle) else bundle.plan).identity()


def read_any_bundle(path: Path) -> Bundle:
    """Read a plan folder, a folder with a hybrid, or either's file.

    Raises:
        As :func:`read_bundle` and :func:`read_hybrid`.
    """
    refuse_two_kinds(path)
    file = path / HYBRID_YAML if path.is_dir() else path
    if file.name == HYBRID_YAML and file.is_file():
        return read_hybrid(file, str(path))
    return read_bundle(path)


def read_hybrid(file: Path, origin: str) -> HybridBundle:
    """Read a hybrid and the plans that lie beside it, and check all of their bytes.

    Raises:
        InvalidRefError: A member is published elsewhere, or no member is a plan, or they are for different models.
        IntegrityError: A member is another plan than the one that it pins.
        NotFoundError, DocumentError: As :func:`read_bundle`.
    """
    hybrid = read_document(file, Hybrid)
    plans: dict[str, PlanBundle] = {}
    members = []
    for member in hybrid.members:
        if canonical_scheme(member.plan) is not None:
            members.append(member)
            continue
        if not member.is_path:
            raise InvalidRefError(
                f"{file}: member '{member.name}' is {member.plan}, which is published elsewhere",
                hint=f"a hybrid is published with its plans: flashrl-registry pull {member.plan} -o {member.name}, "
                f"and write plan: ./{member.name}",
            )
        bundle = read_bundle(file.parent / member.plan)
        if member.digest not in {None, bundle.plan.digest}:
            raise IntegrityError(
                f"{file}: member '{member.name}' is another plan: expected {member.digest}, actual {bundle.plan.digest}"
            )
        plans[member.name] = bundle
        members.append(member.model_copy(update={"plan": f"./{member.name}", "digest": bundle.plan.digest}))
    models = {bundle.plan.base_model.fingerprint: bundle.plan.base_model.name for bundle in plans.values()}
    if len(models) != 1:
        what = (
            f"its members are for different models: {', '.join(models.values())}" if models else "no member is a plan"
        )
        raise InvalidRefError(f"{file} cannot be published: {what}", hint="replicas of one job run one model")
    return HybridBundle(hybrid.model_copy(update={"members": members}), plans, file, origin)


def write_hybrid(folder: Path, bundle: HybridBundle) -> tuple[Path, ...]:
    """Write a hybrid and its members, the hybrid last so that a reader never sees one without its plans.

    Raises:
        RegistryError: The folder holds a plan or a checkpoint, or a member's folder is refused; nothing is written.
    """
    refuse_hybrid_folder(folder)
    for name, plan in bundle.plans.items():
        refuse_folder(folder / name, plan.plan, plan.profile)
    files: list[Path] = []
    for name, plan in bundle.plans.items():
        files += write_bundle(folder / name, plan.plan, profile=plan.profile, sidecar=plan.sidecar)
    write_document(bundle.hybrid, folder / HYBRID_YAML)
    return (*files, folder / HYBRID_YAML)


def write_any_bundle(folder: Path, bundle: Bundle) -> tuple[Path, ...]:
    """Write a plan's files, or a hybrid's."""
    if isinstance(bundle, HybridBundle):
        return write_hybrid(folder, bundle)
    return write_bundle(folder, bundle.plan, profile=bundle.profile, sidecar=bundle.sidecar)


def is_hybrid(manifest: Manifest) -> bool:
    """Whether a published version is a hybrid."""
    return any(entry.path == HYBRID_YAML for entry in manifest.files)


def files_for(manifest: Manifest, member: str | None) -> list[str]:
    """Paths of a version's files that a reference needs."""
    paths = [entry.path for entry in manifest.files]
    if member is None:
        return paths
    return [path for path in paths if path == HYBRID_YAML or path.startswith(f"{member}/")]


def read_version(
    folder: Path, manifest: Manifest, ref: NamedRef, place: str, *, origin: str,
    source: HubSource | LocalSource | UrlSource, warnings: tuple[str, ...], history: History | None,
) -> Bundle:  # fmt: skip
    """A version whose files were compared with its manifest: the plan that a reference means, or the hybrid.

    Args:
        folder: Where the files lie; of a hybrid, those of the member that the reference names are enough.
        manifest: Of the version.
        ref: Its member and its digest count.
        place: The store, for people.
        origin: What to say where it was read from.
        source: For locks.
        warnings: What whoever uses it should read.
        history: What is known of its name.

    Raises:
        NotFoundError: No such member.
        IntegrityError: It is not what the manifest or the reference names.
    """
    found: Bundle
    if not is_hybrid(manifest):
        if ref.member is not None:
            raise NotFoundError(
                f"{ref.name} is one plan in {place}, and has no member '{ref.member}'",
                hint=f"write {ref.name} without ':{ref.member}'", context={"ref": str(ref)},
            )  # fmt: skip
        found = replace(read_bundle(folder), origin=origin, source=source, warnings=warnings)
        digest = found.digest
    elif ref.member is None:
        found = replace(read_hybrid(folder / HYBRID_YAML, origin), source=source, warnings=warnings)
        digest = found.digest
    else:
        hybrid = read_document(folder / HYBRID_YAML, Hybrid)
        there = [m.name for m in hybrid.members if m.name == ref.member and m.is_path]
        plans = {name: read_bundle(folder / name) for name in there}
        found = _pinned_member(HybridBundle(hybrid, plans, folder / HYBRID_YAML, origin, source, warnings), ref)
        digest = hybrid.compute_digest()
    for expected, actual, what in (
        (manifest.plan_digest, digest, "its manifest"),
        (ref.digest, found.digest, "the reference"),
    ):
        if expected is not None and expected != actual:
            raise IntegrityError(
                f"{ref} in {place} is not the plan that {what} names: expected {expected}, actual {actual}",
                context={"ref": str(ref), "expected": expected, "actual": actual},
            )
    return replace(found, manifest=manifest, history=history)


def _pinned_member(whole: HybridBundle, ref: NamedRef) -> PlanBundle:
    """A member of a published hybrid: the plan that the hybrid pins, which its digest covers."""
    assert ref.member is not None
    if ref.member not in whole.plans:
        known = {member.name: member for member in whole.hybrid.members}
        names = [name for name, member in known.items() if member.is_path]
        scheme = known[ref.member].plan if ref.member in known else None
        what = f"is the scheme {scheme}, compiled for the engine's model" if scheme else "is none of its members"
        raise NotFoundError(
            f"{whole.origin}: '{ref.member}' {what}" + ("" if scheme else did_you_mean(ref.member, names)),
            hint=f"write {scheme}" if scheme else f"its members: {', '.join(names)}",
            context={"ref": str(ref), "nearest": names},
        )
    plan = whole.plans[ref.member]
    pinned = next(member.digest for member in whole.hybrid.members if member.name == ref.member)
    if pinned != plan.digest:
        raise IntegrityError(f"{ref}: the hybrid pins {pinned}, actual {plan.digest}", context={"ref": str(ref)})
    source = whole.source
    if isinstance(source, HubSource | LocalSource | UrlSource):
        source = source.model_copy(update={"member": ref.member})
    origin = f"member '{ref.member}' of {whole.origin}"
    return replace(plan, origin=origin, source=source, warnings=whole.warnings)
