"""Which published versions a folder of the user's holds files of."""

from dataclasses import dataclass, replace
from pathlib import Path

from flashrl_registry.documents import Hybrid, Manifest, Plan, read_document, sha256
from flashrl_registry.errors import DocumentError, FlashRLError, IntegrityError
from flashrl_registry.registry.hybrids import Bundle
from flashrl_registry.registry.local import LocalStore
from flashrl_registry.registry.plan_folders import HYBRID_YAML, PLAN_JSON, PLAN_YAML
from flashrl_registry.registry.ref import NamedRef
from flashrl_registry.registry.standing import standing_of
from flashrl_registry.registry.store import Store
from flashrl_registry.registry.url import UrlStore
from flashrl_registry.registry.version import read_manifest


@dataclass
class _There:
    """What the documents in a folder say that they are.

    Attributes:
        digests: Of plans, or of a hybrid: of two plans where somebody who replaced one was stopped in between.
        files: Hashes that the plans have as ``plan.json``, by which a manifest names a hybrid's member.
    """

    digests: set[str]
    files: set[str]


def published_in(folder: Path, store: Store, ref: NamedRef, *, but: str) -> list[Bundle]:
    """Versions of a name whose plan, or hybrid, the folder's documents are.

    Digests are compared before a version is fetched.

    Args:
        folder: The user's.
        store: Where the name is published.
        ref: The name, and the member of a hybrid that lies in the folder.
        but: Digest of a plan that needs not be found.

    Raises:
        RegistryError: The store does not answer, or a version that is there is damaged.
        DocumentError: The same, of a document in it.
    """
    there = _read(folder, but)
    found: list[Bundle] = []
    if not there.digests:
        return found
    published = standing_of(store.history(ref.name)).digests
    fault: FlashRLError | None = None
    for version in reversed(store.versions(ref.name)):
        if not there.digests:
            break
        try:
            if not _may_be(there, store, ref, version, published.get(version)):
                continue
            bundle = store.open(replace(ref, version=version))
        except (IntegrityError, DocumentError) as exc:  # one version is damaged; another may be the one
            fault = fault or exc
            continue
        if bundle.digest in there.digests:
            there.digests.remove(bundle.digest)
            found.append(bundle)
    if there.digests and fault is not None:
        raise fault
    return found


def _read(folder: Path, but: str) -> _There:
    there = _There(set(), set())
    for name in (PLAN_YAML, PLAN_JSON, HYBRID_YAML):
        file = folder / name
        try:
            document = read_document(file, Hybrid if name == HYBRID_YAML else Plan)
        except FlashRLError:  # missing, or changed to what was never published
            continue
        if (digest := document.compute_digest()) == but:
            continue
        there.digests.add(digest)
        there.files |= {sha256(document.json_file()), sha256(file.read_bytes())}
    return there


def _may_be(there: _There, store: Store, ref: NamedRef, version: str, digest: str | None) -> bool:
    """Whether a version may be there, by what is known of it without its files."""
    if ref.member is None and digest is not None:
        return digest in there.digests
    manifest = _manifest(store, ref.name, version)
    if manifest is None:
        return True
    if ref.member is None:
        return manifest.plan_digest in there.digests
    wanted = f"{ref.member}/{PLAN_JSON}"
    return any(entry.path == wanted and entry.digest in there.files for entry in manifest.files)


def _manifest(store: Store, name: str, version: str) -> Manifest | None:
    """A version's manifest where it is one small file."""
    if isinstance(store, LocalStore):
        return read_manifest(store.root / name / version, name, version)
    return store.manifest(name, version) if isinstance(store, UrlStore) else None
