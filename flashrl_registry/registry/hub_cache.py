"""What of a Hub is kept on this machine: what its refs were when it was asked last, and commits that were fetched."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flashrl_registry.documents.io import write_atomically
from flashrl_registry.errors import IntegrityError

_FETCHED = "models--"
"""What the Hub's client begins the folder of a repository with."""


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


def remember(cache: Path, repo: str, branches: Mapping[str, str], tags: Mapping[str, str]) -> Refs:
    """Write down what a Hub says of a repository now.

    Args:
        cache: Folder of that Hub.
        repo: ``owner/name``.
        branches: Branch to commit.
        tags: Tag to commit.
    """
    refs = Refs(branches.get("main"), branches, tags, _now())
    data = {"branches": branches, "tags": tags, "seen_at": refs.seen_at}
    write_atomically(_memory(cache, repo), json.dumps(data).encode())
    return refs


def remembered(cache: Path, repo: str) -> Refs | None:
    """What a Hub said of a repository last; None where it was never asked.

    Raises:
        IntegrityError: The file is damaged.
    """
    return _read_memory(_memory(cache, repo))


def drop_commits(cache: Path, kept: set[str], *, dry_run: bool) -> list[tuple[str, str, int]]:
    """Remove commits from a Hub's cache that its last answer does not name.

    Of a repository whose branches and tags were never asked for, all stay: a tag may name them; see :func:`unasked`.

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
    unknown = set(unasked(cache))
    dropped = [(repo.repo_id, revision.commit_hash) for repo in found.repos for revision in repo.revisions
               if revision.commit_hash not in named and repo.repo_id not in unknown]  # fmt: skip
    sizes = []
    for repo_id, commit in sorted(dropped):
        strategy = found.delete_revisions(commit)
        sizes.append((repo_id, commit, int(strategy.expected_freed_size)))
    if dropped and not dry_run:
        found.delete_revisions(*(commit for _, commit in dropped)).execute()
    return sizes


def unasked(cache: Path) -> list[str]:
    """Repositories of which commits were fetched and whose branches and tags were never asked for.

    Args:
        cache: Folder of a Hub.
    """
    repos = [entry.name.removeprefix(_FETCHED).replace("--", "/", 1) for entry in sorted(cache.glob(f"{_FETCHED}*"))]
    return [repo for repo in repos if not _memory(cache, repo).is_file()]


def _memory(cache: Path, repo: str) -> Path:
    return cache / "refs" / f"{repo.replace('/', '--')}.json"


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


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
