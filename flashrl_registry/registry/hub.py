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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flashrl_registry.documents import History, Hybrid, Manifest, Plan, read_document
from flashrl_registry.documents.history import Event
from flashrl_registry.documents.lock import HubSource
from flashrl_registry.documents.strict_yaml import MAX_BYTES
from flashrl_registry.errors import (
    AccessDeniedError,
    DocumentError,
    FlashRLError,
    IntegrityError,
    NotFoundError,
    RegistryError,
    StoreUnavailableError,
)
from flashrl_registry.registry.bundle import (
    HYBRID_YAML,
    PLAN_JSON,
    PLAN_YAML,
    PROFILE_YAML,
    PlanBundle,
    read_bundle,
)
from flashrl_registry.registry.folders import MANIFEST_JSON, check_name
from flashrl_registry.registry.hub_card import TAG
from flashrl_registry.registry.hub_client import HubClient, Refs
from flashrl_registry.registry.hybrids import Bundle, HybridPlans, files_for, is_hybrid, one_plan, read_version
from flashrl_registry.registry.ref import HubFileRef, NamedRef, in_order, is_commit, is_version
from flashrl_registry.registry.standing import LATEST, Standing, select, standing_of
from flashrl_registry.registry.store import Listed, Published
from flashrl_registry.registry.transfer import moving
from flashrl_registry.registry.version import check_listed

if TYPE_CHECKING:
    from flashrl_registry.registry.signing import Signer

HISTORY_JSON = "history.json"
_SHOWN_COMMITS = 500


@dataclass(frozen=True)
class Head:
    """A repository as it was at one moment.

    Attributes:
        refs: Branches and tags.
        history: The history at the head.
        warnings: What it is based on, where that is not the Hub's own word of now.
    """

    refs: Refs
    history: History
    warnings: tuple[str, ...] = ()

    @property
    def standing(self) -> Standing:
        """What the history adds up to."""
        return standing_of(self.history)

    @property
    def versions(self) -> list[str]:
        """Versions by history; of a repository that others keep, by its tags."""
        by_history = standing_of(self.history).digests
        tagged = [tag[1:] for tag in self.refs.tags if tag.startswith("v") and is_version(tag[1:])]
        return in_order(list(by_history) or tagged)


class HubStore:
    """A Hub.

    Args:
        endpoint: Its address; the client's own (``HF_ENDPOINT``) where None.
        cache: Folder for caches of Hubs.
        allow_stale: When the Hub does not answer, take what it said last, and say so.
        named_by_user: Whether the user gave the address; a reference's or a lock's Hub gets no token.
        client: Speaks to it; made from the other arguments by default.
    """

    kind = "hub"

    def __init__(
        self, endpoint: str | None, cache: Path, *, allow_stale: bool = False, named_by_user: bool = True,
        client: HubClient | None = None,
    ) -> None:  # fmt: skip
        self.client = client or HubClient(endpoint, cache, named_by_user=named_by_user)
        self._allow_stale = allow_stale
        self._name: str | None = None
        self._histories: dict[tuple[str, str], History] = {}  # what a commit holds never changes

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
            return self.head(name).versions
        except NotFoundError:
            return []

    def history(self, name: str) -> History:
        """What was said about a name's versions, as the Hub has it now."""
        return self.head(name).history

    def head(self, name: str) -> Head:
        """A repository's refs and history.

        Raises:
            NotFoundError: No such repository.
            AccessDeniedError, StoreUnavailableError: The Hub does not answer, and falling back is not allowed.
            IntegrityError: The history is damaged.
        """
        check_name(name)
        if self.client.offline:
            return self._remembered(name, "offline", None)
        try:
            refs = self.client.refs(name)
        except (AccessDeniedError, NotFoundError, StoreUnavailableError) as exc:
            if not self._allow_stale:
                raise
            return self._remembered(name, exc.message, exc)
        return Head(refs, self.history_at(name, refs.head))

    def history_at(self, name: str, commit: str | None) -> History:
        """The history at a commit; without events where it has none."""
        if commit is None:
            return History(name=name)
        if (known := self._histories.get((name, commit))) is not None:
            return known
        try:
            file = self._fetch(name, commit, HISTORY_JSON)
        except NotFoundError:
            return History(name=name)
        try:
            self._histories[name, commit] = read_document(file, History)
            return self._histories[name, commit]
        except DocumentError as exc:
            hint = "somebody changed it by hand; restore it from an earlier commit"
            raise IntegrityError(f"{HISTORY_JSON} of {name} is damaged: {exc.message}", hint=hint) from exc

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
        head = self.head(ref.name)
        versions = head.versions
        if _is_revision(ref.version, head):
            return self._read(ref, self._revision(ref, head), None, head.warnings)
        if not versions:
            if ref.version is not None or head.refs.head is None:
                raise NotFoundError(f"{ref.name} on {self.place} has no versions", hint="its branches: "
                                    + (", ".join(head.refs.branches) or "none"), context={"ref": str(ref)})  # fmt: skip
            return self._read(ref, head.refs.head, None, head.warnings)
        version, warnings = select(ref, versions, head.standing, self.place)
        commit = self.commit_of_version(ref.name, version, head)
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
            head = self.head(ref.repository)
            commit, warnings = self._revision(named, head), head.warnings
        file = self._files(ref.repository, commit, ref.path)
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
        from flashrl_registry.registry.hub_push import append

        return append(self, name, event, expected)

    def listing(self, author: str | None = None) -> Iterator[Listed | FlashRLError]:
        """Every plan repository on the Hub, by its newest version; see :meth:`find`."""
        return self.find([], author=author)

    def find(
        self, tags: list[str], *, author: str | None = None, text: str | None = None, limit: int = 1000
    ) -> Iterator[Listed]:
        """Plan repositories that have all of these tags.

        Args:
            tags: Beside the one that all plans have.
            author: Owner of the repository.
            text: Part of its name.
            limit: At most so many.
        """
        for repo, found in self.client.search([TAG, *tags], author=author, text=text, limit=limit):
            facts = {key: value for key, _, value in (tag.partition(":") for tag in found) if value}
            schemes = tuple(tag.partition(":")[2] for tag in found if tag.startswith("scheme:"))
            yield Listed(
                repo, facts.get("plan-version", ""), facts.get("model", ""), facts.get("arch", ""), schemes,
                facts.get("vllm", ""), facts.get("plan-digest", ""), store=self.kind,
                devices=tuple(tag.partition(":")[2] for tag in found if tag.startswith("device:")),
            )  # fmt: skip

    def commit_of_version(self, name: str, version: str, head: Head) -> str:
        """The commit of a version: its tag's, or the one found among the commits where the tag is missing.

        Raises:
            NotFoundError: Neither.
        """
        if (tagged := head.refs.tags.get(f"v{version}")) is not None:
            return tagged
        for commit, title in self.client.commits(name)[:_SHOWN_COMMITS]:
            # A merged proposal has the title of the proposal, which a person can write: the manifest decides.
            if f"v{version}" in title and self._version_at(name, commit) == version:
                return commit
        raise NotFoundError(
            f"{name}@{version} was published on {self.place}, and neither its tag nor its commit is there",
            hint="publish it again from its source: that restores the tag",
            context={"ref": f"{name}@{version}"},
        )

    def manifest_at(self, name: str, commit: str) -> Manifest | None:
        """The manifest at a commit; None where it has none."""
        try:
            return read_document(self._fetch(name, commit, MANIFEST_JSON), Manifest)
        except NotFoundError:
            return None

    def plan_at(self, name: str, commit: str) -> Plan:
        """The plan at a commit."""
        return read_document(self._fetch(name, commit, PLAN_JSON), Plan)

    def documents_at(self, name: str, commit: str, manifest: Manifest) -> Plan | HybridPlans:
        """What a version says of itself: the plan, or the hybrid and its members' plans; no vectors are fetched."""
        if not is_hybrid(manifest):
            return self.plan_at(name, commit)
        hybrid = read_document(self._fetch(name, commit, HYBRID_YAML), Hybrid)
        plans = {
            member.name: read_document(self._fetch(name, commit, f"{member.name}/{PLAN_JSON}"), Plan)
            for member in hybrid.members
            if member.is_path
        }
        return HybridPlans(hybrid, plans)

    def _version_at(self, name: str, commit: str) -> str | None:
        manifest = self.manifest_at(name, commit)
        return manifest.version if manifest is not None else None

    def _remembered(self, name: str, why: str, cause: RegistryError | None) -> Head:
        refs = self.client.remembered(name)
        if refs is None:
            missing = f"{name} was never asked for on {self.place}, so nothing is known about it here"
            raise StoreUnavailableError(
                f"{missing}: {why}", hint="pull it once with a network, or lock it and pull the lock",
                context={"endpoint": self.place, "repository": name},
            ) from cause  # fmt: skip
        warning = f"{name}: {self.place} was not asked ({why}); this is what it said on {refs.seen_at}"
        history = History(name=name)
        if refs.head is not None and (file := self.client.cached(name, refs.head, HISTORY_JSON)) is not None:
            history = read_document(file, History)
        return Head(refs, history, (warning,))

    def _revision(self, ref: NamedRef, head: Head) -> str:
        wanted = ref.version or "main"
        known = head.refs.branches.get(wanted) or head.refs.tags.get(wanted)
        if known is not None:
            return known
        if head.warnings:
            raise NotFoundError(
                f"{ref}: nothing is known here about the revision '{wanted}'", hint="pull it once with a network",
                context={"ref": str(ref)},
            )  # fmt: skip
        try:
            return self.client.commit_of(ref.name, wanted)
        except NotFoundError as exc:
            standing = head.standing
            names = [*head.versions[-8:], *standing.channels, *head.refs.branches]
            hint = f"versions, channels and branches there: {', '.join(names) or 'none'}"
            raise NotFoundError(
                f"{ref}: {self.place} has no version, channel or revision '{wanted}' of it", hint=hint,
                context={"ref": str(ref), "nearest": names},
            ) from exc  # fmt: skip

    def _pinned(self, ref: NamedRef) -> Bundle | None:
        """A plan whose digest the reference pins, from the cache alone."""
        refs = self.client.remembered(ref.name)
        if refs is None:
            return None
        commits = [refs.tags.get(f"v{ref.version}") or refs.tags.get(ref.version or "")] if ref.version else []
        for commit in [*commits, *refs.tags.values(), refs.head]:
            if commit is None or self.client.cached(ref.name, commit, MANIFEST_JSON) is None:
                continue
            manifest = read_document(self._fetch(ref.name, commit, MANIFEST_JSON), Manifest)
            names = [MANIFEST_JSON, *(file.path for file in manifest.files)]
            here = all(self.client.cached(ref.name, commit, path) is not None for path in names)
            if manifest.plan_digest == ref.digest and ref.version in {None, manifest.version} and here:
                return self._read(ref, commit, manifest.version, ())
        return None

    def _read(
        self, ref: NamedRef, commit: str, version: str | None, warnings: tuple[str, ...], digest: str | None = None
    ) -> Bundle:
        manifest = self.manifest_at(ref.name, commit)
        if manifest is None:
            if digest is not None:
                raise IntegrityError(f"{ref}: its commit {commit[:12]} has no {MANIFEST_JSON}: the tag was moved")
            folder = f"{ref.member}/" if ref.member else ""
            return self._checked(ref, self._files(ref.name, commit, folder + PLAN_YAML), commit, warnings=warnings)
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
        sizes = self._sizes(ref.name, commit, needed)
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
        version = manifest.version
        return read_version(
            top, manifest, ref, f"{self.place} at {commit[:12]}",
            origin=f"{ref.name}@{version} on {self.place} at {commit[:12]}",
            source=HubSource(endpoint=self.place, repository=ref.name, commit=commit, version=version),
            warnings=warnings, history=self._known_history(ref.name),
        )  # fmt: skip

    def _known_history(self, name: str) -> History | None:
        """What the Hub said last, from the cache alone; the plan itself needs none of it."""
        try:
            refs = self.client.remembered(name)
            if refs is None or refs.head is None or self.client.cached(name, refs.head, HISTORY_JSON) is None:
                return None
            return self.history_at(name, refs.head)
        except IntegrityError:  # who needs it asks for it, and gets the error
            return None

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

    def _files(self, repo: str, commit: str, path: str) -> Path:
        """A plan file that no manifest lists, and the neighbours that it may have."""
        plan_file = self._fetch(repo, commit, path)
        folder = path.rpartition("/")[0]
        beside = [f"{folder}/{name}" if folder else name for name in (PLAN_JSON, PROFILE_YAML)]
        plan = read_document(plan_file, Plan)
        if plan.profile is not None:
            name = plan.profile.sidecar.file_name
            self._fetch(repo, commit, f"{folder}/{name}" if folder else name, plan.profile.sidecar.num_bytes)
        for other in beside:
            try:
                self._fetch(repo, commit, other)
            except NotFoundError:
                continue
            except StoreUnavailableError:
                if not self.client.offline:
                    raise  # offline, what came with the plan is what there is: the plan does not need these
        return plan_file

    def _fetch(self, repo: str, commit: str, path: str, num_bytes: int = 64 << 20) -> Path:
        if (cached := self.client.cached(repo, commit, path)) is not None:
            return cached
        sizes = self._sizes(repo, commit, [path])
        size = None if sizes is None else sizes.get(path)
        limit = MAX_BYTES if path.rpartition("/")[2] in {MANIFEST_JSON} else num_bytes
        if size is not None and size > limit:
            raise RegistryError(f"{path} of {repo} has {size} bytes; at most {limit} are read")
        return self.client.fetch(repo, commit, path, size)

    def _sizes(self, repo: str, commit: str, paths: list[str]) -> dict[str, int] | None:
        """What the Hub says about files before any is fetched; None where all of them are here already."""
        if all(self.client.cached(repo, commit, path) is not None for path in paths):
            return None
        if self.client.offline:
            missing = [path for path in paths if self.client.cached(repo, commit, path) is None]
            raise StoreUnavailableError(
                f"{', '.join(missing)} of {repo} at {commit[:12]} not cached, and the Hub is offline",
                hint="unset HF_HUB_OFFLINE once, and pull it",
                context={"endpoint": self.place, "repository": repo, "commit": commit, "missing": missing},
            )
        return self.client.sizes(repo, commit)


def _is_revision(wanted: str | None, head: Head) -> bool:
    """Whether a reference means a git revision: neither a version nor a channel has that name."""
    if wanted is None or is_version(wanted) or wanted in head.standing.channels:
        return False
    return wanted != LATEST or not head.versions
