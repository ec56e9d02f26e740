"""The Hub's calls that plans need, with its errors in our words. Nothing else in this package imports its client.

What is peculiar about the Hub is dealt with here and nowhere else:

* Files are fetched by commit only. By tag or branch the client answers from its cache when the server fails, without
  saying so; by commit there is nothing to be stale about.
* The head comes from the list of refs; the repository's info can lag behind it.
* A commit is one POST that the client never retries. 412 means that the head moved; 409, 429, 5xx and a lost
  connection say nothing about whether it was applied, so callers look before they repeat.
* The cache is the client's own, in a folder per Hub: the client itself does not tell two Hubs apart.

The token is the client's (``HF_TOKEN``, ``hf auth login``); it is never read here, so it cannot reach a message. A Hub
that only a reference or a lock names never gets it: whoever wrote them could collect tokens.
"""

import errno
import hashlib
import inspect
import json
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from flashrl_registry.checkpoints.quiet import quiet_hub
from flashrl_registry.documents.io import write_atomically
from flashrl_registry.errors import (
    AccessDeniedError,
    ConflictError,
    IntegrityError,
    InvalidRefError,
    NotFoundError,
    RegistryError,
    StoreUnavailableError,
)
from flashrl_registry.registry.transfer import moving, one_file, present

MAX_FILE_BYTES = 4 << 30
"""No file of a plan is larger; vectors of a large model are a few hundred megabytes."""

_TRIES = 4
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 8.0
_MAX_PATHS = 10_000
_FULL = {errno.ENOSPC, errno.EDQUOT}
_DISK = {*_FULL, errno.EROFS, errno.EACCES, errno.EPERM}
_RETRIED = {408, 409, 425, 429, 500, 502, 503, 504}
T = TypeVar("T")


@dataclass(frozen=True)
class Refs:
    """What a repository's names point at.

    Attributes:
        head: Commit of ``main``; None in an empty repository.
        branches: Branch to commit.
        tags: Tag to commit.
        seen_at: UTC time when the Hub said so.
    """

    head: str | None
    branches: Mapping[str, str]
    tags: Mapping[str, str]
    seen_at: str = ""


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
        self._login = "hf auth login"
        if self._api.token is False:
            self._login = (
                f"set HF_ENDPOINT={self.endpoint} (a Hub that a reference names gets no token), and {self._login}"
            )
        self.cache = cache / f"{host}-{hashlib.sha256(self.endpoint.encode()).hexdigest()[:8]}"

    @property
    def offline(self) -> bool:
        """Whether the user switched the network off (``HF_HUB_OFFLINE``)."""
        from huggingface_hub.constants import is_offline_mode

        return bool(is_offline_mode())

    def refs(self, repo: str) -> Refs:
        """Branches and tags, as the Hub has them now; remembered for when it cannot be asked."""
        found = self.patiently(repo, lambda: self._api.list_repo_refs(repo))
        branches = {ref.name: ref.target_commit for ref in found.branches}
        refs = Refs(branches.get("main"), branches, {ref.name: ref.target_commit for ref in found.tags}, _now())
        data = {"branches": branches, "tags": refs.tags, "seen_at": refs.seen_at}
        with self._typed(repo):
            write_atomically(self._memory(repo), json.dumps(data).encode())
        return refs

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
        return _read_memory(self._memory(repo))

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
        with self._typed(repo, writing=True), quiet_hub(), moving(sum(sizes)), one_file(title, sum(sizes)):
            info = self._api.create_commit(
                repo, operations, commit_message=title, parent_commit=parent, create_pr=propose or None
            )
        return Landed(info.oid, info.pr_url, info.pr_revision)

    def tag(self, repo: str, tag: str, commit: str, message: str) -> None:
        """Make a tag; not repeated here.

        Raises:
            StoreUnavailableError: It exists (409), or no clear answer.
        """
        with self._typed(repo, writing=True):
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
            raise AccessDeniedError(message, hint=f"give --store {self.endpoint}, or {self._login}")
        return str(self.patiently("the account", self._api.whoami)["name"])

    def patiently(self, what: str, call: Callable[[], T], *, writing: bool = False) -> T:
        """A call that may be repeated, repeated while the Hub is out of order."""
        for wait in self.waits(_TRIES):
            try:
                with self._typed(what, writing=writing), quiet_hub():
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

    def _memory(self, repo: str) -> Path:
        return self.cache / "refs" / f"{repo.replace('/', '--')}.json"

    @contextmanager
    def _typed(self, what: str, *, writing: bool = False) -> Iterator[None]:
        from huggingface_hub import errors

        where = {"endpoint": self.endpoint}
        try:
            yield
        except errors.GatedRepoError as exc:  # a subclass of the next
            hint = f"ask for access on {self.endpoint}, then: {self._login}"
            raise AccessDeniedError(f"{what} is gated on {self.endpoint}", hint=hint, context=where) from exc
        except errors.RepositoryNotFoundError as exc:
            hint = f"check the spelling; for a private repository: {self._login}"
            raise NotFoundError(f"{what}: no repository on {self.endpoint} that you may read",
                                hint=hint, context=where) from exc  # fmt: skip
        except errors.RevisionNotFoundError as exc:
            raise NotFoundError(f"{what}: no such revision on {self.endpoint}", context=where) from exc
        except errors.OfflineModeIsEnabled as exc:
            raise _offline(what, where) from exc
        except errors.EntryNotFoundError as exc:
            if isinstance(exc, errors.LocalEntryNotFoundError):  # not cached, and the request failed
                raise self._unavailable(what, exc) from exc
            raise NotFoundError(f"{what}: no such file on {self.endpoint}", context=where) from exc
        except errors.LocalTokenNotFoundError as exc:
            message = f"{what}: {self.endpoint} wants to know who you are, and there is no token"
            raise AccessDeniedError(message, hint=f"{self._login}, or set HF_TOKEN", context=where) from exc
        except errors.HFValidationError as exc:
            raise InvalidRefError(f"{what}: {exc}", context=where) from exc
        except (errors.HTTPError, OSError) as exc:
            raise self._of_status(what, exc, writing=writing) from exc
        except (KeyError, TypeError, AttributeError, ValueError) as exc:  # how the client trips over a bad answer
            raise StoreUnavailableError(f"{what}: {self.endpoint} gave an answer that is not understood: "
                                        f"{type(exc).__name__}: {exc}", context=where) from exc  # fmt: skip

    def _of_status(self, what: str, exc: Exception, *, writing: bool) -> RegistryError:
        if isinstance(exc, OSError) and exc.errno in _DISK and (exc.filename or exc.errno in _FULL):
            # A full disk names no file; without one, a permission is the network's.
            file = str(exc.filename or self.cache)
            return RegistryError(
                f"{what}: {file} cannot be written: {exc.strerror}",
                hint="make room (flashrl-registry gc) or give FLASHRL_REGISTRY another place; the Hub is not to blame",
                context={"file": file, "errno": errno.errorcode[exc.errno]},
            )
        status = getattr(getattr(exc, "response", None), "status_code", None)
        context = {"endpoint": self.endpoint, "status": status}
        if status == 412:
            return ConflictError(f"{what}: somebody committed meanwhile", context=context)
        if status in {401, 403}:
            hint = f"{self._login} with a token that may read it"
            if writing:
                hint = f"{self._login} with a token that may write there; readers propose with: push --pr"
            return AccessDeniedError(f"{what}: {self.endpoint} says no ({status})", hint=hint, context=context)
        return self._unavailable(what, exc)

    def _unavailable(self, what: str, exc: Exception) -> StoreUnavailableError:
        status = getattr(getattr(exc, "response", None), "status_code", None)
        cause = exc.__cause__
        if status is None and cause is not None:  # a download that was given up carries why
            status = getattr(getattr(cause, "response", None), "status_code", None)
        why = f"answers {status}" if status is not None else f"cannot be reached ({type(exc).__name__})"
        return StoreUnavailableError(
            f"{what}: {self.endpoint} {why}",
            hint="try again; what is pinned by commit or digest and cached needs no network",
            context={"endpoint": self.endpoint, "status": status},
        )


def _check_address(address: str, name: str) -> None:
    """Refuse what is no Hub's address; without printing it, because what is wrong with it may be a password.

    Raises:
        InvalidRefError: It is none, or carries credentials.
    """
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


def _read_memory(file: Path) -> Refs | None:
    """What a Hub said last; None where it was never asked.

    Raises:
        IntegrityError: The file is damaged.
    """
    try:
        data = json.loads(file.read_bytes())
        branches, tags = dict(data["branches"]), dict(data["tags"])
        if not all(isinstance(commit, str) for commit in (*branches.values(), *tags.values())):
            raise TypeError("a commit is no text")  # noqa: TRY301
        return Refs(branches.get("main"), branches, tags, str(data["seen_at"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        raise IntegrityError(
            f"{file}, what a Hub said last, is damaged: {type(exc).__name__}: {exc}",
            hint="remove it; the next time that the Hub is asked writes it again",
            context={"file": str(file)},
        ) from exc


def drop_commits(cache: Path, kept: set[str], *, dry_run: bool) -> list[tuple[str, str, int]]:
    """Remove commits from a Hub's cache that its last answer does not name.

    Args:
        cache: Folder of that Hub.
        kept: Commits that stay whatever the Hub said.
        dry_run: Only say what would go.

    Returns:
        Repository, commit and bytes that are freed.

    Raises:
        IntegrityError: What the Hub said last cannot be read, so what it names is not known.
    """
    from huggingface_hub import scan_cache_dir

    named = set(kept)
    for memory in (cache / "refs").glob("*.json"):
        if (refs := _read_memory(memory)) is not None:
            named |= {*refs.branches.values(), *refs.tags.values()}
    found = scan_cache_dir(cache)
    dropped = [(repo.repo_id, revision.commit_hash) for repo in found.repos for revision in repo.revisions
               if revision.commit_hash not in named]  # fmt: skip
    sizes = []
    for repo_id, commit in sorted(dropped):
        strategy = found.delete_revisions(commit)
        sizes.append((repo_id, commit, int(strategy.expected_freed_size)))
    if dropped and not dry_run:
        found.delete_revisions(*(commit for _, commit in dropped)).execute()
    return sizes


def _offline(what: str, where: dict[str, str]) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"{what}: the Hub is offline (HF_HUB_OFFLINE)", hint="unset HF_HUB_OFFLINE, or use what is cached",
        context={**where, "status": None},
    )  # fmt: skip


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
