"""What a repository on a Hub is now: its refs, its history, and the commit that a version or a revision means.

When the Hub does not answer, that is the answer, except offline and where falling back is allowed; then a head says
what it is based on.
"""

from dataclasses import dataclass

from flashrl_registry.documents import History, read_document
from flashrl_registry.errors import (
    AccessDeniedError,
    DocumentError,
    IntegrityError,
    NotFoundError,
    RegistryError,
    StoreUnavailableError,
)
from flashrl_registry.registry.folders import HISTORY_JSON, check_name
from flashrl_registry.registry.hub_cache import Refs
from flashrl_registry.registry.hub_client import HubClient
from flashrl_registry.registry.hub_files import HubFiles, again, refuse_other_name
from flashrl_registry.registry.ref import NamedRef, in_order, is_version
from flashrl_registry.registry.standing import LATEST, Standing, standing_of

_SHOWN_COMMITS = 500


def version_of_tag(tag: str) -> str | None:
    """The version that a tag is for: ``v1.2.3`` is for 1.2.3; None for other tags."""
    return tag[1:] if tag.startswith("v") and is_version(tag[1:]) else None


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
        tagged = [version for tag in self.refs.tags if (version := version_of_tag(tag)) is not None]
        return in_order(list(by_history) or tagged)

    def means_revision(self, wanted: str | None) -> bool:
        """Whether what follows the @ of a reference is a git revision: no version and no channel has that name."""
        if wanted is None or is_version(wanted) or wanted in self.standing.channels:
            return False
        return wanted != LATEST or not self.versions


class HubHeads:
    """Heads of repositories on one Hub.

    Args:
        client: Speaks to it.
        files: Reads at a commit.
        allow_stale: When the Hub does not answer, take what it said last, and say so.
    """

    def __init__(self, client: HubClient, files: HubFiles, *, allow_stale: bool) -> None:
        self._client = client
        self._files = files
        self._allow_stale = allow_stale
        self._histories: dict[tuple[str, str], History] = {}  # what a commit holds never changes

    def head_of(self, name: str) -> Head:
        """A repository's refs and history.

        Raises:
            NotFoundError: No such repository.
            AccessDeniedError, StoreUnavailableError: The Hub does not answer, and falling back is not allowed.
            IntegrityError: The history is damaged.
        """
        check_name(name)
        if self._client.offline:
            return self._remembered(name, "offline", None)
        try:
            refs = self._client.refs(name)
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
            file = self._files.fetch(name, commit, HISTORY_JSON)
        except NotFoundError:
            return History(name=name)
        try:
            history = read_document(file, History)
        except DocumentError as exc:
            hint = (
                f"somebody changed it by hand: restore it from an earlier commit; if only the copy here is, {again()}"
            )
            raise IntegrityError(f"{HISTORY_JSON} of {name} is damaged: {exc.message}", hint=hint) from exc
        refuse_other_name(history.name, name, HISTORY_JSON)
        self._histories[name, commit] = history
        return history

    def known_history(self, name: str) -> History | None:
        """What the Hub said last, from the cache alone; the plan itself needs none of it."""
        try:
            refs = self._client.remembered(name)
            if refs is None or refs.head is None or self._client.cached(name, refs.head, HISTORY_JSON) is None:
                return None
            return self.history_at(name, refs.head)
        except IntegrityError:  # who needs it asks for it, and gets the error
            return None

    def commit_of_version(self, name: str, version: str, head: Head) -> str:
        """The commit of a version: its tag's, or the one found among the commits where the tag is missing.

        Raises:
            NotFoundError: Neither.
        """
        if (tagged := head.refs.tags.get(f"v{version}")) is not None:
            return tagged
        for commit, title in self._client.commits(name)[:_SHOWN_COMMITS]:
            # A merged proposal has the title of the proposal, which a person can write: the manifest decides.
            if f"v{version}" in title and self._version_at(name, commit) == version:
                return commit
        raise NotFoundError(
            f"{name}@{version} was published on {self._client.endpoint}, and neither its tag nor its commit is there",
            hint="publish it again from its source: that restores the tag",
            context={"ref": f"{name}@{version}"},
        )

    def commit_of(self, ref: NamedRef, head: Head) -> str:
        """The commit of the git revision that a reference names.

        Raises:
            NotFoundError: No such revision; names what there is.
        """
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
            return self._client.commit_of(ref.name, wanted)
        except NotFoundError as exc:
            standing = head.standing
            names = [*head.versions[-8:], *standing.channels, *head.refs.branches]
            hint = f"versions, channels and branches there: {', '.join(names) or 'none'}"
            raise NotFoundError(
                f"{ref}: {self._client.endpoint} has no version, channel or revision '{wanted}' of it", hint=hint,
                context={"ref": str(ref), "nearest": names},
            ) from exc  # fmt: skip

    def _version_at(self, name: str, commit: str) -> str | None:
        manifest = self._files.manifest_at(name, commit)
        return manifest.version if manifest is not None else None

    def _remembered(self, name: str, why: str, cause: RegistryError | None) -> Head:
        refs = self._client.remembered(name)
        if refs is None:
            missing = f"{name} was never asked for on {self._client.endpoint}, so nothing is known about it here"
            raise StoreUnavailableError(
                f"{missing}: {why}", hint="pull it once with a network, or lock it and pull the lock",
                context={"endpoint": self._client.endpoint, "repository": name},
            ) from cause  # fmt: skip
        warning = f"{name}: {self._client.endpoint} was not asked ({why}); this is what it said on {refs.seen_at}"
        history = History(name=name)
        if refs.head is not None and self._client.cached(name, refs.head, HISTORY_JSON) is not None:
            history = self.history_at(name, refs.head)
        return Head(refs, history, (warning,))
