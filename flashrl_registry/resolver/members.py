"""A hybrid document to the plan of each replica.

Every replica of a job reads the same document and finds its own member by its data-parallel rank, so nobody hands
plans out. A member that pins a digest runs that plan or nothing.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from flashrl_registry.documents import Hybrid, HybridMember, canonical_scheme, claimed_kind, read_document
from flashrl_registry.documents.io import read_text
from flashrl_registry.documents.lock import HubSource, LocalSource, UrlSource
from flashrl_registry.errors import IntegrityError, NotFoundError
from flashrl_registry.registry import (
    HubFileRef,
    NamedRef,
    PathRef,
    PlanRef,
    PlanSource,
    PresetRef,
    open_bundle,
    parse_ref,
)
from flashrl_registry.registry.answering import other_version
from flashrl_registry.registry.hybrids import Bundle, HybridBundle, read_hybrid
from flashrl_registry.registry.open import open_any
from flashrl_registry.registry.plan_folders import refuse_two_kinds
from flashrl_registry.registry.ref import with_digest
from flashrl_registry.resolver.locked import locked_reference

HYBRID_YAML = "hybrid.yaml"
_PUBLIC_HUB = "https://huggingface.co"


@dataclass(frozen=True)
class OpenHybrid:
    """A hybrid document and where it lies.

    Attributes:
        hybrid: The document.
        file: Its file; the members' paths are relative to the folder of it.
        digest: Of the document, or of it and its members' plans; what it was opened by, where a reference pins one.
        published: The version that it is, where it is one.
    """

    hybrid: Hybrid
    file: Path
    digest: str
    published: NamedRef | None = None

    def ref_for(self, member: HybridMember) -> PlanRef:
        """The member's plan as a reference, with its digest where it pins one.

        Raises:
            IntegrityError: The member pins two different digests.
            InvalidRefError: Its plan is not a reference.
        """
        if member.is_path and self.published is not None:
            return replace(self.published, member=member.name, digest=member.digest)
        if member.is_path:
            return PathRef(self.file.parent / member.plan, member.digest)
        ref = parse_ref(member.plan)
        if isinstance(ref, PresetRef) or member.digest is None:
            return ref
        if ref.digest not in {None, member.digest}:
            raise IntegrityError(
                f"{self.file}: member '{member.name}' pins two digests: {ref.digest} and {member.digest}",
                hint="keep the one in 'digest'",
            )
        return replace(ref, digest=member.digest)


def open_hybrid(ref: PlanRef, store: PlanSource | None = None) -> OpenHybrid | None:
    """Read a hybrid document.

    Args:
        ref: A parsed reference: the path of a document, or of the folder that holds ``hybrid.yaml``; or a published
            version.
        store: Opens published versions; without one, none is taken for a hybrid.

    Returns:
        The hybrid; None where the reference names something else.

    Raises:
        DocumentError: It is malformed.
        IntegrityError: It is not the one that the reference pins.
        InvalidRefError: The folder holds a plan, too.
    """
    if isinstance(ref, NamedRef) and ref.member is None and store is not None:
        bundle = store.open(ref)
        if not isinstance(bundle, HybridBundle):
            return None
        return OpenHybrid(bundle.hybrid, bundle.file, bundle.digest, ref)
    if not isinstance(ref, PathRef):
        return None
    refuse_two_kinds(ref.path)
    file = ref.path / HYBRID_YAML if (ref.path / HYBRID_YAML).is_file() else ref.path
    if not file.is_file() or claimed_kind(read_text(file)) != Hybrid.KIND:
        return None
    hybrid = read_document(file, Hybrid)
    actual = hybrid.compute_digest()
    if ref.digest in {None, actual}:
        return OpenHybrid(hybrid, file, actual)
    return _sealed(ref, ref.digest, hybrid, file)


def _sealed(ref: PathRef, pinned: str, hybrid: Hybrid, file: Path) -> OpenHybrid:
    """A hybrid by the digest that a lock has and commands show: of the document and of all its members' plans."""
    actual = hybrid.compute_digest()
    if all(member.is_path or canonical_scheme(member.plan) is not None for member in hybrid.members):
        bundle = read_hybrid(file, str(ref))
        if bundle.digest == pinned:
            digests = [member.digest for member in bundle.hybrid.members]
            members = [
                member.model_copy(update={"digest": digest})
                for member, digest in zip(hybrid.members, digests, strict=True)
            ]
            return OpenHybrid(hybrid.model_copy(update={"members": members}), file, pinned)
        actual = bundle.digest
    raise IntegrityError(
        f"{ref} is not the hybrid that the reference pins: expected {pinned}, actual {actual}",
        context={"ref": str(ref), "expected": pinned, "actual": actual},
    )


def pin_reference(ref: str | PlanRef, store: PlanSource, *, asked: PlanRef | None = None) -> str:
    """The same plan under a reference that no other plan can answer to.

    Args:
        ref: A path, a registry name, or a hybrid document; parsed or not.
        store: One store, or the chain of them.
        asked: As for :func:`pin`.

    Returns:
        ``/absolute/path#sha256=...`` or ``namespace/name@version#sha256=...``, with ``?store=`` before the digest where
        the plan is on another Hub or in a shared store that was named; a scheme name as it is, for its plan is compiled
        from each engine's own model.

    Raises:
        RegistryError: The plan is not there, its bytes differ from their digests, or a member of the hybrid pins no
            digest.
        DocumentError: It is malformed.
    """
    parsed = (locked_reference(ref, portable=True) or parse_ref(ref)) if isinstance(ref, str) else ref
    if isinstance(parsed, PresetRef):
        return str(parsed)
    if (opened := open_hybrid(parsed)) is not None:
        return _pin_hybrid(opened, store)
    pinned, _ = pin(parsed, store, asked=asked)
    return with_digest(replace(pinned, path=pinned.path.resolve()) if isinstance(pinned, PathRef) else pinned)


def pin(
    ref: PathRef | NamedRef | HubFileRef, store: PlanSource, *, asked: PlanRef | None = None
) -> tuple[PathRef | NamedRef | HubFileRef, tuple[str, ...]]:
    """The same plan under a reference that does not move: an exact version or commit, and its digest.

    Args:
        ref: Of the plan.
        store: One store, or the chain of them.
        asked: What a lock or another process found ``ref`` for: a commit is the version that this names, or an error.

    Returns:
        The reference, and what whoever uses the plan should read.

    Raises:
        RegistryError: The plan is not there, or its bytes differ from their digests.
        DocumentError: It is malformed.
    """
    bundle = open_any(ref, store)
    version = bundle.source.version if isinstance(bundle.source, HubSource) else None
    if (other := other_version(asked, ref, version)) is not None:
        raise IntegrityError(
            f"{ref} is {other} ({version}), and {asked} was asked for", context={"ref": str(ref), "asked": str(asked)}
        )
    return _exact(ref, bundle), bundle.warnings


def _exact(ref: PathRef | NamedRef | HubFileRef, bundle: Bundle) -> PathRef | NamedRef | HubFileRef:
    source, digest = bundle.source, bundle.digest
    if isinstance(ref, HubFileRef) and isinstance(source, HubSource):
        return replace(ref, revision=source.commit, digest=digest, endpoint=ref.endpoint or _hub_of(source))
    if isinstance(ref, NamedRef) and isinstance(source, HubSource):
        endpoint = ref.endpoint or _hub_of(source)
        return NamedRef(source.repository, source.commit, digest, ref.member, "hub", endpoint)
    if isinstance(ref, NamedRef) and isinstance(source, LocalSource | UrlSource):
        return replace(ref, version=source.version, digest=digest)
    return replace(ref, digest=digest)


def _hub_of(source: HubSource) -> str | None:
    """The Hub's address, where a process with another ``HF_ENDPOINT`` would ask elsewhere.

    The public Hub is left to each machine's own setting: nodes that reach it through a mirror name the mirror.
    """
    return None if source.endpoint == _PUBLIC_HUB else source.endpoint


def _pin_hybrid(opened: OpenHybrid, store: PlanSource) -> str:
    for member in opened.hybrid.members:
        if canonical_scheme(member.plan) is not None:
            continue
        digest = open_bundle(opened.ref_for(member), store).plan.digest
        if member.digest is None:
            raise NotFoundError(
                f"{opened.file}: member '{member.name}' pins no digest, so its plan could change under the hybrid",
                hint=f"add to the member: digest: {digest}",
            )
    return with_digest(PathRef(opened.file.resolve(), opened.digest))
