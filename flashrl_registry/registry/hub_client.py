"""The Hub's calls that plans need. Only this module, ``hub_errors`` and ``hub_cache`` import its client.

What is peculiar about the Hub is dealt with there and nowhere else:

* Files are fetched by commit only. By tag or branch the client answers from its cache when the server fails, without
  saying so; by commit there is nothing to be stale about.
* The head comes from the list of refs; the repository's info can lag behind it.
* A commit is one POST that the client never retries; whoever gets no clear answer looks before sending it again.
* The cache is the client's own, in a folder per Hub: the client itself does not tell two Hubs apart.

The token is the client's (``HF_TOKEN``, ``hf auth login``); it is never read here, so it cannot reach a message. A Hub
that only a reference or a lock names never gets it: whoever wrote them could collect tokens.
"""

import hashlib
import inspect
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from flashrl_registry.checkpoints.quiet import quiet_hub
from flashrl_registry.errors import (
    AccessDeniedError,
    InvalidRefError,
    NotFoundError,
    RegistryError,
    StoreUnavailableError,
)
from flashrl_registry.registry.hub_cache import Refs, remember, remembered
from flashrl_registry.registry.hub_errors import HubErrors
from flashrl_registry.registry.transfer import moving, one_file, present

MAX_FILE_BYTES = 4 << 30
"""No file of a plan is larger; vectors of a large model are a few hundred megabytes."""

_TRIES = 4
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 8.0
_MAX_PATHS = 10_000
_RETRIED = {408, 409, 425, 429, 500, 502, 503, 504}
T = TypeVar("T")


@dataclass(frozen=True)
class Landed:
    """A commit that the Hub accepted.

    Attributes:
        commit: Its id.
        proposal: Address of the pull request, where one was opened.
        revision: ``refs/pr/N``, where one was opened.
    """

    commit: str
    proposal: str | None = None
    revision: str | None = None


class HubClient:
    """One Hub.

    Args:
        endpoint: Its address; the client's own (``HF_ENDPOINT``) where None.
        cache: Folder for caches of Hubs.
        named_by_user: Whether the user gave the address; if not, only the client's own Hub gets the user's token.
        sleep: Waits; tests give another one.
    """

    def __init__(
        self, endpoint: str | None, cache: Path, *, named_by_user: bool = True,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        from huggingface_hub import HfApi
        from huggingface_hub.constants import ENDPOINT

        _check_address(ENDPOINT if endpoint is None else endpoint, "HF_ENDPOINT" if endpoint is None else "it")
        is_own = endpoint is None or endpoint.rstrip("/") == ENDPOINT.rstrip("/")
        self._api = HfApi(endpoint=endpoint, token=None if is_own or named_by_user else False)
        self.sleep = sleep
        self._sizes: dict[tuple[str, str], dict[str, int]] = {}  # what a commit holds never changes
        self.endpoint = str(self._api.endpoint).rstrip("/")
        host = re.sub(r"[^A-Za-z0-9.-]", "_", urlsplit(self.endpoint).netloc)
        login = "hf auth login"
        if self._api.token is False:
            login = f"set HF_ENDPOINT={self.endpoint} (a Hub that a reference names gets no token), and {login}"
        self.cache = cache / f"{host}-{hashlib.sha256(self.endpoint.encode()).hexdigest()[:8]}"
        self._errors = HubErrors(self.endpoint, self.cache, login)

    @property
    def offline(self) -> bool:
        """Whether the user switched the network off (``HF_HUB_OFFLINE``)."""
        from huggingface_hub.constants import is_offline_mode

        return bool(is_offline_mode())

    def refs(self, repo: str) -> Refs:
        """Branches and tags, as the Hub has them now; remembered for when it cannot be asked."""
        found = self.patiently(repo, lambda: self._api.list_repo_refs(repo))
        branches = {ref.name: ref.target_commit for ref in found.branches}
        tags = {ref.name: ref.target_commit for ref in found.tags}
        with self._errors.typed(repo):
            return remember(self.cache, repo, branches, tags)

    def proposals(self, repo: str) -> dict[str, str]:
        """Pull requests, by their refs, and their commits; closed ones too."""
        found = self.patiently(repo, lambda: self._api.list_repo_refs(repo, include_pull_requests=True))
        return {ref.ref: ref.target_commit for ref in found.pull_requests or []}

    def open_proposals(self, repo: str) -> set[str]:
        """Refs of the pull requests that nobody merged or closed."""
        listed = lambda: list(  # noqa: E731
            self._api.get_repo_discussions(repo, discussion_type="pull_request", discussion_status="open")
        )
        return {f"refs/pr/{proposal.num}" for proposal in self.patiently(f"the proposals of {repo}", listed)}

    def remembered(self, repo: str) -> Refs | None:
        """What the Hub said last; None where it was never asked."""
        return remembered(self.cache, repo)

    def commit_of(self, repo: str, revision: str) -> str:
        """The commit that any revision means: a branch, a tag, ``refs/pr/N``, a short commit."""
        info = self.patiently(f"{repo}@{revision}", lambda: self._api.model_info(repo, revision=revision))
        if info.sha is None:
            raise StoreUnavailableError(f"{self.endpoint} names no commit for {repo}@{revision}")
        return str(info.sha)

    def commits(self, repo: str) -> list[tuple[str, str]]:
        """Commit and title, newest first."""
        found = self.patiently(repo, lambda: self._api.list_repo_commits(repo))
        return [(commit.commit_id, commit.title) for commit in found]

    def sizes(self, repo: str, commit: str) -> dict[str, int]:
        """Every file at a commit and its size."""
        if (known := self._sizes.get((repo, commit))) is not None:
            return known
        sizes: dict[str, int] = {}
        for entry in self.patiently(
            repo, lambda: list(self._api.list_repo_tree(repo, recursive=True, revision=commit))
        ):
            if (size := getattr(entry, "size", None)) is not None:
                sizes[entry.path] = size
            if len(sizes) > _MAX_PATHS:
                raise RegistryError(f"{repo} holds more than {_MAX_PATHS} files; a plan repository holds a dozen")
        self._sizes[repo, commit] = sizes
        return sizes

    def cached(self, repo: str, commit: str, path: str) -> Path | None:
        """The local copy of a file at a commit; None where there is none."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(repo, path, cache_dir=self.cache, revision=commit)
        return Path(found) if isinstance(found, str) else None

    def fetch(self, repo: str, commit: str, path: str, size: int | None) -> Path:
        """Bring a file at a commit here.

        Args:
            repo: ``owner/name``.
            commit: In full.
            path: Path in the repository.
            size: What the Hub says that it has; None where it has no such file.

        Raises:
            NotFoundError: No such file.
            RegistryError: It is larger than any file of a plan.
        """
        if (cached := self.cached(repo, commit, path)) is not None:
            return cached
        if self.offline:
            raise StoreUnavailableError(
                f"{path} of {repo} at {commit[:12]} is not cached, and the Hub is offline",
                hint="unset HF_HUB_OFFLINE once, and pull it",
                context={"endpoint": self.endpoint, "repository": repo, "commit": commit, "file": path},
            )
        if size is None:
            raise NotFoundError(f"{repo} at {commit[:12]} has no {path}", context={"repository": repo, "file": path})
        if size > MAX_FILE_BYTES:
            raise RegistryError(f"{path} of {repo} has {size} bytes; no file of a plan is that large")
        bar = _bar()
        download = lambda: self._api.hf_hub_download(repo, path, revision=commit, cache_dir=self.cache, **bar)  # noqa: E731
        with one_file(path, size):
            return Path(self.patiently(f"{path} of {repo}", download))

    def create(self, repo: str, *, private: bool | None) -> None:
        """Make a repository, unless it is there."""
        self.patiently(repo, lambda: self._api.create_repo(repo, private=private, exist_ok=True), writing=True)

    def commit(
        self, repo: str, add: Mapping[str, bytes | Path], delete: Sequence[str], *, parent: str | None, title: str,
        propose: bool = False,
    ) -> Landed:  # fmt: skip
        """Send one commit; not repeated here.

        Raises:
            ConflictError: The head is not ``parent`` any more.
            StoreUnavailableError: No clear answer; it may have been applied.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        operations: list[Any] = [
            CommitOperationAdd(path, str(data) if isinstance(data, Path) else data) for path, data in add.items()
        ]
        operations += [CommitOperationDelete(path) for path in delete]
        sizes = [data.stat().st_size if isinstance(data, Path) else len(data) for data in add.values()]
        with self._errors.typed(repo, writing=True), quiet_hub(), moving(sum(sizes)), one_file(title, sum(sizes)):
            info = self._api.create_commit(
                repo, operations, commit_message=title, parent_commit=parent, create_pr=propose or None
            )
        return Landed(info.oid, info.pr_url, info.pr_revision)

    def tag(self, repo: str, tag: str, commit: str, message: str) -> None:
        """Make a tag; not repeated here.

        Raises:
            StoreUnavailableError: It exists (409), or no clear answer.
        """
        with self._errors.typed(repo, writing=True):
            self._api.create_tag(repo, tag=tag, revision=commit, tag_message=message)

    def search(
        self, tags: Sequence[str], *, author: str | None, text: str | None, limit: int | None
    ) -> list[tuple[str, list[str]]]:
        """Repositories with all of these tags, and their tags."""
        found = self.patiently(
            "the list of models",
            lambda: list(
                self._api.list_models(filter=list(tags), author=author, search=text, limit=limit, expand=["tags"])
            ),
        )
        return [(model.id, list(model.tags or [])) for model in found]

    def whoami(self) -> str:
        """Name of the account that the token belongs to.

        Raises:
            AccessDeniedError: There is none.
        """
        if self._api.token is False:
            message = f"{self.endpoint} is named by a reference, and gets no token: nobody can publish there like this"
            raise AccessDeniedError(message, hint=f"give --store {self.endpoint}, or {self._errors.login}")
        return str(self.patiently("the account", self._api.whoami)["name"])

    def patiently(self, what: str, call: Callable[[], T], *, writing: bool = False) -> T:
        """A call that may be repeated, repeated while the Hub is out of order."""
        for wait in self.waits(_TRIES):
            try:
                with self._errors.typed(what, writing=writing), quiet_hub():
                    return call()
            except StoreUnavailableError as exc:
                if wait is None or self.offline or exc.context.get("status") not in _RETRIED | {None}:
                    raise
                self.sleep(wait)
        raise AssertionError("the last wait is None")

    def waits(self, tries: int) -> Iterator[float | None]:
        """How long to wait after each try, growing and jittered; None after the last one."""
        wait = _FIRST_WAIT
        for _ in range(tries - 1):
            yield random.uniform(wait / 2, wait)  # noqa: S311 - spreads retries, keeps no secret
            wait = min(2 * wait, _LONGEST_WAIT)
        yield None


def _check_address(address: str, name: str) -> None:
    """Refuse what is no Hub's address; without printing it, because what is wrong with it may be a password."""
    if not re.match(r"https?://[^/@]", address) or "@" in address:
        raise InvalidRefError(
            f"a Hub's address is http(s)://host[:port] without credentials, and {name} is not",
            hint="give the token by HF_TOKEN or: hf auth login",
        )


def _bar() -> dict[str, Any]:
    """Arguments that make the client count bytes as they come; none where nobody watches."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import tqdm

    transfer = present()
    if transfer is None or "tqdm_class" not in inspect.signature(HfApi.hf_hub_download).parameters:
        return {}  # with an older client the bar moves file by file
    count = transfer.moved

    class Counting(tqdm):  # type: ignore[misc]
        """Prints nothing, and counts."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> None:
            """So many more bytes."""
            count(int(n or 0))

    return {"tqdm_class": Counting}
