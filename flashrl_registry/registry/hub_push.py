"""Writing to a Hub: one commit per push, and a look before every repetition.

The version, its files, the history with its digest and the card go in one commit onto the head that was read, so a
version is there with everything or not at all. After any answer but a clear one the repository is read again: if the
history has the version, the commit landed, whatever the answer was.
"""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from flashrl_registry.compiler import diff_plans
from flashrl_registry.documents import History, Manifest, Plan, PublishEvent
from flashrl_registry.documents.history import Event
from flashrl_registry.errors import (
    AccessDeniedError,
    AlreadyPublishedError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    RegistryError,
    StoreUnavailableError,
)
from flashrl_registry.registry.channels import author_of, now
from flashrl_registry.registry.folders import HISTORY_JSON, MANIFEST_JSON, check_name
from flashrl_registry.registry.hub import HubStore
from flashrl_registry.registry.hub_cache import Refs
from flashrl_registry.registry.hub_client import Landed
from flashrl_registry.registry.hub_heads import Head
from flashrl_registry.registry.hub_page import page_with
from flashrl_registry.registry.hybrids import Bundle, HybridPlans, documents_of
from flashrl_registry.registry.standing import highest
from flashrl_registry.registry.store import Published
from flashrl_registry.registry.version import write_version

if TYPE_CHECKING:
    from flashrl_registry.registry.signing import Signer

TRIES = 40
"""Enough for dozens of people who publish under one name at the same time."""
OUTAGES = 5
"""Unclear answers in a row before giving up."""


class Push:
    """One publication, however many tries it takes.

    Args:
        store: The Hub.
        bundle: What is published.
        name: ``owner/repo``.
        version: Semantic version.
        propose: Open a pull request.
        private: Whether a repository that is made is private.
        signer: Signs it in the same commit.
    """

    def __init__(
        self, store: HubStore, bundle: Bundle, name: str, version: str, *, propose: bool, private: bool | None,
        signer: "Signer | None" = None,
    ) -> None:  # fmt: skip
        check_name(name, version)
        self.store, self.client = store, store.client
        self.bundle, self.name, self.version = bundle, name, version
        self.propose, self.private, self.signer = propose, private, signer
        self.signatures: list[Event] = []
        self.event = PublishEvent(at=now(), by=author_of(store), version=version, plan_digest=bundle.digest)

    def run(self) -> Published:
        """Publish; see :meth:`HubStore.publish`.

        Raises:
            AlreadyPublishedError, ConflictError: Another plan has the version.
            AccessDeniedError, StoreUnavailableError: It was not published.
        """
        with tempfile.TemporaryDirectory(prefix="flashrl-push-") as scratch:
            folder = Path(scratch)
            manifest = write_version(folder, self.bundle, self.name, self.version)
            if self.signer is not None:
                self.signatures = [self.signer.sign(manifest, self.event.by)]
            # The version's files are read-only; their folder is not, so it can be removed.
            files = {entry.path: folder / entry.path for entry in manifest.files}
            return self._publish(manifest, {**files, MANIFEST_JSON: folder / MANIFEST_JSON})

    def _publish(self, manifest: Manifest, files: Mapping[str, Path]) -> Published:
        base: Head | None = None
        outages = 0
        waits = list(self.client.waits(OUTAGES))
        for _ in range(TRIES):
            head = self._head()
            if (published := self._already(head, base, manifest)) is not None:
                return published
            if self.propose and base is None and (revision := self._proposed_before()) is not None:
                return self._proposed(revision, manifest, before=True)
            base = base or head
            try:
                landed = self._send(head, manifest, files)
            except ConflictError:
                outages = 0
                self.client.sleep(next(wait for wait in self.client.waits(2) if wait is not None))
                continue
            except StoreUnavailableError:
                wait = waits[outages]
                if self.propose and (revision := self._proposal()) is not None:
                    return self._proposed(revision, manifest)
                if wait is None:
                    return self._last_look(base, manifest)
                outages += 1
                self.client.sleep(wait)
                continue
            if self.propose:
                return self._proposed(landed.proposal or landed.revision, manifest)
            return self._tagged(landed.commit, manifest, created=True)
        raise ConflictError(
            f"others published under {self.name} on {self.store.place} {TRIES} times while this was tried",
            hint="push again when they are done",
        )

    def _head(self) -> Head:
        """The repository as it is now; made where there is none."""
        try:
            return self.store.heads.head_of(self.name)
        except NotFoundError:
            if self.propose:
                raise
        self.client.create(self.name, private=self.private)
        try:
            return self.store.heads.head_of(self.name)
        except NotFoundError:  # a new repository may take a moment to be seen
            return Head(Refs(None, {}, {}), History(name=self.name))

    def _already(self, head: Head, base: Head | None, manifest: Manifest) -> Published | None:
        """What came of the version, where the repository has it.

        Args:
            head: The repository now.
            base: The repository before the first try; None in the first.
            manifest: Of the version.
        """
        there = head.standing.digests.get(self.version)
        if there is None:
            return None
        commit = self.store.heads.commit_of_version(self.name, self.version, head)
        if there != self.event.plan_digest:
            raise self._taken(commit, there, base)
        mine = self.event in head.history.events
        return self._tagged(commit, self.store.files.manifest_at(self.name, commit) or manifest, created=mine)

    def _last_look(self, base: Head, manifest: Manifest) -> Published:
        """After the last unclear answer: it landed, or it is as before."""
        published = self._already(self.store.heads.head_of(self.name), base, manifest)
        if published is None:
            raise StoreUnavailableError(
                f"{self.name}@{self.version} was not published: {self.store.place} did not accept the commit",
                hint="push again: nothing was changed there",
                context={"endpoint": self.store.place, "ref": f"{self.name}@{self.version}"},
            )
        return published

    def _proposal(self) -> str | None:
        """The pull request that holds this push, where an unclear answer hid that it was opened."""
        return next((revision for revision, events in self._proposals() if self.event in events), None)

    def _proposals(self) -> Iterator[tuple[str, list[Event]]]:
        """Pull requests, and what their histories say; of those that nobody could merge, nothing."""
        for revision, commit in self.client.proposals(self.name).items():
            try:
                yield revision, self.store.heads.history_at(self.name, commit).events
            except IntegrityError:  # somebody's changes by hand; whoever merges them is told
                yield revision, []

    def _proposed_before(self) -> str | None:
        """An open pull request with the same plan as the same version, whoever opened it."""
        same = [
            revision
            for revision, events in self._proposals()
            for event in events
            if isinstance(event, PublishEvent)
            and (event.version, event.plan_digest) == (self.version, self.event.plan_digest)
        ]
        still_open = self.client.open_proposals(self.name) if same else set()
        return next((revision for revision in same if revision in still_open), None)

    def _proposed(self, where: str | None, manifest: Manifest, *, before: bool = False) -> Published:
        said = f"proposed already, at {where}" if before else f"proposed at {where}"
        notes = (f"{said}: it is published when the owner merges it, and pushing it again then tags it",)
        return Published(self.name, self.version, manifest, self.store.place, notes=notes)

    def _send(self, head: Head, manifest: Manifest, files: Mapping[str, Path]) -> Landed:
        if head.refs.head is None:
            # A commit without a parent is not compared with anything: it would overwrite what others publish now.
            raise StoreUnavailableError(f"{self.name} on {self.store.place} was made, and has no branch 'main' yet")
        history = History(name=self.name, events=[*head.history.events, self.event, *self.signatures])
        add: dict[str, bytes | Path] = dict(files)
        add[HISTORY_JSON] = history.json_file()
        add |= page_with(self.store, head, history, self.version, documents_of(self.bundle))
        old = self.store.files.manifest_at(self.name, head.refs.head)
        gone = sorted({entry.path for entry in old.files} - set(add)) if old else []
        title = f"Publish v{self.version}"
        return self.client.commit(self.name, add, gone, parent=head.refs.head, title=title, propose=self.propose)

    def _tagged(self, commit: str, manifest: Manifest, *, created: bool) -> Published:
        """The version is published; give it its tag, without which it is only slower to find."""
        tag = f"v{self.version}"
        notes: tuple[str, ...] = ()
        for wait in self.client.waits(4):
            try:
                if (there := self.client.refs(self.name).tags.get(tag)) is None:
                    self.client.tag(self.name, tag, commit, f"digest {self.event.plan_digest}")
                elif there != commit:
                    raise ConflictError(
                        f"the tag {tag} of {self.name} points at {there[:12]}, and the version is {commit[:12]}",
                        hint="somebody moved or made the tag; remove it and push again",
                        context={"expected": commit, "actual": there},
                    )
                break
            except AccessDeniedError:
                notes = (f"it has no tag {tag} yet: the owner gets it by publishing the same plan",)
                break
            except StoreUnavailableError as exc:
                if wait is None:
                    notes = (f"it has no tag {tag} yet ({exc.message}); push again to make it",)
                    break
                self.client.sleep(wait)
        return Published(self.name, self.version, manifest, self.store.place, created=created, notes=notes)

    def _taken(self, commit: str, there: str, base: Head | None) -> RegistryError:
        """Another plan has the version: three sides, so that its owner can decide."""
        theirs, mine = self.store.files.published_at(self.name, commit), documents_of(self.bundle)
        ref = f"{self.name}@{self.version}"
        context = {"ref": ref, "expected": there, "actual": self.event.plan_digest, "theirs": _changes(mine, theirs)}
        hint = "a published version never changes; publish yours under the next version"
        if base is None:
            return AlreadyPublishedError(
                f"{ref} is published on {self.store.place} already and holds another plan: it differs in "
                f"{', '.join(context['theirs']) or 'names'} (published {there}, yours {self.event.plan_digest})",
                hint=hint, context=context,
            )  # fmt: skip
        before = highest(base.versions, base.standing)
        sides = ""
        if before is not None:
            start = self.store.files.published_at(
                self.name, self.store.heads.commit_of_version(self.name, before, base)
            )
            context |= {
                "base": before,
                "theirs_since_base": _changes(start, theirs),
                "mine_since_base": _changes(start, mine),
            }
            sides = (
                f"; since {before} they changed {', '.join(context['theirs_since_base']) or 'nothing'}, "
                f"you changed {', '.join(context['mine_since_base']) or 'nothing'}"
            )
        return ConflictError(
            f"another plan was published as {ref} on {self.store.place} while yours was on its way{sides}",
            hint=hint, context=context,
        )  # fmt: skip


def _changes(before: Plan | HybridPlans, after: Plan | HybridPlans) -> list[str]:
    """What differs between two plans or hybrids, in few words."""
    if isinstance(before, HybridPlans) and isinstance(after, HybridPlans):
        old, new = ({member.name: member for member in side.hybrid.members} for side in (before, after))
        return [f"member '{name}'" for name in {**old, **new} if old.get(name) != new.get(name)][:20]
    if isinstance(before, HybridPlans) or isinstance(after, HybridPlans):
        return ["whether it is a hybrid"]
    found = diff_plans(before, after)
    changes = [setting.where for setting in found.settings] + [change.names for change in found.tensors]
    return changes[:20]
