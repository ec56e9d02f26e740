"""Plans on a Hugging Face Hub: one repository per name, one commit per version.

At the head of ``main`` lie ``history.json`` (every version with its digest, every move of a channel), the newest
version's files with their ``manifest.json``, and the generated card. A version's tag ``v1.2.3`` points at its commit.
Tags on a Hub can be moved; the history says which digest a version has, so a moved tag is an error and not another
plan, and a missing one is found again among the commits.

A read asks for refs and history, selects, and from then on speaks of one commit only. When the Hub does not answer,
that is the answer, except offline (``HF_HUB_OFFLINE``), where the user said so, and with ``allow_stale``; both then say
what they are based on. What is pinned by commit, or by digest and cached, needs no network.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from flashrl_registry.documents import History
from flashrl_registry.documents.history import Event
from flashrl_registry.documents.lock import HubSource
from flashrl_registry.errors import (
    FlashRLError,
    IntegrityError,
    NotFoundError,
)
from flashrl_registry.registry.bundle import PlanBundle, read_bundle
from flashrl_registry.registry.folders import MANIFEST_JSON, check_name
from flashrl_registry.registry.hub_card import TAG
from flashrl_registry.registry.hub_client import HubClient
from flashrl_registry.registry.hub_files import HubFiles
from flashrl_registry.registry.hub_heads import HubHeads, version_of_tag
from flashrl_registry.registry.hybrids import Bundle, files_for, is_hybrid, one_plan, read_version
from flashrl_registry.registry.plan_folders import HYBRID_YAML, PLAN_YAML
from flashrl_registry.registry.ref import HubFileRef, NamedRef, is_commit
from flashrl_registry.registry.standing import select, standing_of
from flashrl_registry.registry.store import Listed, Published
from flashrl_registry.registry.transfer import moving
from flashrl_registry.registry.version import check_listed

if TYPE_CHECKING:
    from flashrl_registry.registry.signing import Signer


class HubStore:
    """A Hub.

    Args:
        endpoint: Its address; the client's own (``HF_ENDPOINT``) where None.
        cache: Folder for caches of Hubs.
        allow_stale: When the Hub does not answer, take what it said last, and say so.
        named_by_user: Whether the user gave the address; a reference's or a lock's Hub gets no token.
        client: Speaks to it; made from the other arguments by default.

    Attributes:
        files: Files at a commit.
        heads: What repositories are now.
    """

    kind = "hub"

    def __init__(
        self, endpoint: str | None, cache: Path, *, allow_stale: bool = False, named_by_user: bool = True,
        client: HubClient | None = None,
    ) -> None:  # fmt: skip
        self.client = client or HubClient(endpoint, cache, named_by_user=named_by_user)
        self.files = HubFiles(self.client)
        self.heads = HubHeads(self.client, self.files, allow_stale=allow_stale)
        self._name: str | None = None

    @property
    def place(self) -> str:
        """Which Hub, for people."""
        return self.client.endpoint

    def whoami(self) -> str:
        """Name of the account that the token belongs to."""
        if self._name is None:
            self._name = self.client.whoami()
        return self._name

    def versions(self, name: str) -> list[str]:
        """Published versions, lowest first; empty where there is no such repository."""
        try:
            return self.heads.head_of(name).versions
        except NotFoundError:
            return []

    def history(self, name: str) -> History:
        """What was said about a name's versions, as the Hub has it now."""
        return self.heads.head_of(name).history

    def get(self, ref: NamedRef) -> PlanBundle:
        """Read a plan at the commit that a reference means, and check all of its bytes."""
        return one_plan(self.open(ref), ref)

    def open(self, ref: NamedRef) -> Bundle:
        """As :meth:`get`; a hybrid where the reference names one."""
        check_name(ref.name)
        if ref.version is not None and is_commit(ref.version):
            return self._read(ref, ref.version, None, ())
        if ref.digest is not None and (pinned := self._pinned(ref)) is not None:
            return pinned
        head = self.heads.head_of(ref.name)
        versions = head.versions
        if ref.version is not None and (version := version_of_tag(ref.version)) in versions:
            ref = replace(ref, version=version)  # not its tag, which somebody can move: the version, which is checked
        if head.means_revision(ref.version):
            return self._read(ref, self.heads.commit_of(ref, head), None, head.warnings)
        if not versions:
            if ref.version is not None or head.refs.head is None:
                raise NotFoundError(f"{ref.name} on {self.place} has no versions", hint="its branches: "
                                    + (", ".join(head.refs.branches) or "none"), context={"ref": str(ref)})  # fmt: skip
            return self._read(ref, head.refs.head, None, head.warnings)
        version, warnings = select(ref, versions, head.standing, self.place)
        commit = self.heads.commit_of_version(ref.name, version, head)
        return self._read(ref, commit, version, (*head.warnings, *warnings), head.standing.digests.get(version))

    def open_file(self, ref: HubFileRef) -> PlanBundle:
        """A plan file in any repository, with its neighbours.

        Raises:
            RegistryError: As :meth:`get`.
        """
        named = NamedRef(ref.repository, ref.revision or "main", ref.digest, store="hub")
        commit = ref.revision if ref.revision and is_commit(ref.revision) else None
        warnings: tuple[str, ...] = ()
        if commit is None:
            head = self.heads.head_of(ref.repository)
            commit, warnings = self.heads.commit_of(named, head), head.warnings
        file = self.files.plan_with_neighbours(ref.repository, commit, ref.path)
        return self._checked(named, file, commit, warnings=warnings, path=ref.path)

    def publish(
        self, bundle: Bundle, name: str, version: str, *, propose: bool = False, private: bool | None = None,
        signer: "Signer | None" = None,
    ) -> Published:  # fmt: skip
        """Publish a bundle in one commit.

        Args:
            bundle: As :func:`read_any_bundle` returned it.
            name: ``owner/repo``; made where it does not exist.
            version: Semantic version.
            propose: Open a pull request, for those who may only read.
            private: Whether a repository that is made is private; None takes the account's default.
            signer: Signs it in the same commit.
        """
        from flashrl_registry.registry.hub_push import Push

        return Push(self, bundle, name, version, propose=propose, private=private, signer=signer).run()

    def append(self, name: str, event: Event, expected: int) -> History:
        """Add an event to a history that still has ``expected`` events."""
        from flashrl_registry.registry.hub_append import append

        return append(self, name, event, expected)

    def listing(self, author: str | None = None) -> Iterator[Listed | FlashRLError]:
        """Every plan repository on the Hub, by the version that its name means; see :meth:`find`."""
        return self.find([], author=author)

    def find(
        self, tags: list[str], *, author: str | None = None, text: str | None = None, limit: int | None = None
    ) -> Iterator[Listed]:
        """Plan repositories that have all of these tags, by the version that each one's name means.

        Args:
            tags: Beside the one that all plans have.
            author: Owner of the repository.
            text: Part of its name.
            limit: At most so many; all of them, page by page, where None.
        """
        for repo, found in self.client.search([TAG, *tags], author=author, text=text, limit=limit):
            facts = {key: value for key, _, value in (tag.partition(":") for tag in found) if value}
            yield Listed(
                repo, facts.get("plan-version", ""), facts.get("model", ""), facts.get("arch", ""),
                _values(found, "scheme"), facts.get("vllm", ""), facts.get("plan-digest", ""), store=self.kind,
                devices=_values(found, "device"), state=" ".join(_values(found, "plan-state")),
            )  # fmt: skip

    def _pinned(self, ref: NamedRef) -> Bundle | None:
        """A plan whose digest the reference pins, from the cache alone."""
        refs = self.client.remembered(ref.name)
        if refs is None:
            return None
        wanted = version_of_tag(ref.version) or ref.version if ref.version else None
        commits = [refs.tags.get(f"v{wanted}") or refs.tags.get(wanted)] if wanted else []
        for commit in [*commits, *refs.tags.values(), refs.head]:
            if commit is None or self.client.cached(ref.name, commit, MANIFEST_JSON) is None:
                continue
            if (manifest := self.files.manifest_at(ref.name, commit)) is None:
                continue
            names = [MANIFEST_JSON, *(file.path for file in manifest.files)]
            here = all(self.client.cached(ref.name, commit, path) is not None for path in names)
            if manifest.plan_digest == ref.digest and wanted in {None, manifest.version} and here:
                return self._read(ref, commit, manifest.version, ())
        return None

    def _read(
        self, ref: NamedRef, commit: str, version: str | None, warnings: tuple[str, ...], digest: str | None = None
    ) -> Bundle:
        manifest = self.files.manifest_at(ref.name, commit)
        if manifest is None:
            if digest is not None:
                raise IntegrityError(f"{ref}: its commit {commit[:12]} has no {MANIFEST_JSON}: the tag was moved")
            folder = f"{ref.member}/" if ref.member else ""
            return self._checked(
                ref, self.files.plan_with_neighbours(ref.name, commit, folder + PLAN_YAML), commit, warnings=warnings
            )
        if version is not None and manifest.version != version:
            raise IntegrityError(
                f"{ref.name}@{version}: its tag leads to {manifest.version} ({commit[:12]}); somebody moved it",
                hint="versions never change; ask the owner, or take the commit that you trust: @<commit>",
                context={"ref": str(ref), "expected": version, "actual": manifest.version},
            )
        if digest not in {None, manifest.plan_digest}:
            raise IntegrityError(
                f"{ref} on {self.place} at {commit[:12]} is not the plan that its history names: expected {digest}, "
                f"actual {manifest.plan_digest}",
                context={"ref": str(ref), "expected": digest, "actual": manifest.plan_digest},
            )
        needed = files_for(manifest, ref.member)
        entries = [entry for entry in manifest.files if entry.path in needed]
        sizes = self.files.sizes(ref.name, commit, needed)
        for entry in entries:
            if sizes is not None and sizes.get(entry.path) != entry.num_bytes:
                raise IntegrityError(
                    f"{entry.path} of {ref} has {sizes.get(entry.path)} bytes, its manifest says {entry.num_bytes}",
                    context={"ref": str(ref), "expected": entry.num_bytes, "actual": sizes.get(entry.path)},
                )
        absent = [entry for entry in entries if self.client.cached(ref.name, commit, entry.path) is None]
        with moving(sum(entry.num_bytes for entry in absent)):
            files = {entry.path: self.client.fetch(ref.name, commit, entry.path, entry.num_bytes) for entry in entries}
        check_listed(files, manifest)
        top = files[HYBRID_YAML if is_hybrid(manifest) else PLAN_YAML].parent
        version, history = manifest.version, self.heads.known_history(ref.name)
        # Who names a commit asks for no history; what is known of the version costs nothing.
        said = standing_of(history).warnings(ref.name, version) if history is not None else ()
        return read_version(
            top, manifest, ref, f"{self.place} at {commit[:12]}",
            origin=f"{ref.name}@{version} on {self.place} at {commit[:12]}",
            source=HubSource(endpoint=self.place, repository=ref.name, commit=commit, version=version),
            warnings=tuple(dict.fromkeys((*warnings, *said))), history=history,
        )  # fmt: skip

    def _checked(
        self, ref: NamedRef, file: Path, commit: str, *, warnings: tuple[str, ...] = (), path: str | None = None
    ) -> PlanBundle:
        """A plan that no manifest lists."""
        bundle = read_bundle(file)
        if ref.digest not in {None, bundle.plan.digest}:
            raise IntegrityError(
                f"{ref} on {self.place} at {commit[:12]} is not the plan that the reference names: expected "
                f"{ref.digest}, actual {bundle.plan.digest}",
                context={"ref": str(ref), "expected": ref.digest, "actual": bundle.plan.digest},
            )
        source = HubSource(endpoint=self.place, repository=ref.name, commit=commit, path=path, member=ref.member)
        origin = f"{ref.name}@{commit[:12]} on {self.place} at {commit[:12]}"
        return replace(bundle, origin=origin, source=source, warnings=warnings)


def _values(tags: list[str], key: str) -> tuple[str, ...]:
    """Of the tags ``key:value``."""
    return tuple(tag.removeprefix(f"{key}:") for tag in tags if tag.startswith(f"{key}:"))
