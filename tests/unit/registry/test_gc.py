"""gc: what a lock needs stays in the cache, wherever on this machine the lock is."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flashrl_registry.documents import Lock, LockedPlan
from flashrl_registry.documents.lock import HubSource
from flashrl_registry.errors import RegistryError
from flashrl_registry.registry.keeping import collect_garbage, keep_for

LOCKED, OTHER = "a" * 40, "b" * 40
ENDPOINT = "https://hub.example"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry whose cache has two commits that no branch or tag names any more; the working folder has no lock."""
    monkeypatch.chdir(tmp_path)
    repository = tmp_path / "registry" / ".cache" / "hub.example-1" / "models--team--toy"
    (repository.parent / "refs").mkdir(parents=True)
    (repository / "blobs").mkdir(parents=True)
    for commit in (LOCKED, OTHER):
        (repository / "blobs" / commit).write_text(commit)
        (repository / "snapshots" / commit).mkdir(parents=True)
        (repository / "snapshots" / commit / "plan.yaml").symlink_to(Path("..", "..", "blobs", commit))
    return tmp_path / "registry"


def write_lock(file: Path) -> Lock:
    """A lock of the first commit."""
    source = HubSource(endpoint=ENDPOINT, repository="team/toy", commit=LOCKED, version="1.0.0")
    lock = Lock(entries=[LockedPlan(requested="hf://team/toy", source=source, plan_digest=f"sha256:{'0' * 64}")])
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(lock.json_file())
    return lock


@pytest.fixture
def cached(root: Path) -> Callable[[], set[str]]:
    """Commits that are in the cache."""
    return lambda: {entry.name for entry in root.rglob("snapshots/*")}


def test_the_lock_of_the_working_folder_keeps_what_it_needs(root: Path, cached: Callable[[], set[str]]) -> None:
    write_lock(Path("flashrl.lock"))
    assert [OTHER[:12] in freed.what for freed in collect_garbage(root, [])] == [True]
    assert cached() == {LOCKED}


def test_a_lock_that_was_written_elsewhere_keeps_what_it_needs_until_it_is_deleted(
    root: Path, tmp_path: Path, cached: Callable[[], set[str]]
) -> None:
    file = tmp_path / "job" / "plans.lock"
    assert keep_for(root, file, write_lock(file)) == ()
    collect_garbage(root, [])
    assert cached() == {LOCKED}
    file.unlink()
    collect_garbage(root, [], dry_run=True)
    assert list(root.rglob("locks/*.txt")), "a dry run changes nothing"
    collect_garbage(root, [])
    assert cached() == set()
    assert list(root.rglob("locks/*.txt")) == []


@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_damaged_lock_stops_the_collection_and_is_named(
    root: Path, tmp_path: Path, cached: Callable[[], set[str]], elsewhere: bool
) -> None:
    file = tmp_path / "job" / "plans.lock" if elsewhere else Path("flashrl.lock")
    keep_for(root, file, write_lock(file))
    file.write_text("{")
    with pytest.raises(RegistryError, match="nothing was removed") as raised:
        collect_garbage(root, [])
    assert f"mend {file} or delete it" in str(raised.value)
    assert cached() == {LOCKED, OTHER}
    collect_garbage(root, [], everything=True)
    assert cached() == set()


def test_after_the_whole_cache_went_a_lock_is_still_known(
    root: Path, tmp_path: Path, cached: Callable[[], set[str]]
) -> None:
    file = tmp_path / "job" / "plans.lock"
    keep_for(root, file, write_lock(file))
    assert [freed.num_bytes for freed in collect_garbage(root, [], everything=True, dry_run=True)] == [80]
    assert cached() == {LOCKED, OTHER}
    collect_garbage(root, [], everything=True)
    assert [note.read_text() for note in root.rglob("locks/*.txt")] == [str(file)]
    assert collect_garbage(root, [], everything=True) == []


def test_a_lock_that_needs_no_hub_is_not_remembered(root: Path, tmp_path: Path) -> None:
    assert keep_for(root, tmp_path / "empty.lock", Lock(entries=[])) == ()
    assert list(root.rglob("locks")) == []


def test_a_cache_that_cannot_be_written_is_said(root: Path, tmp_path: Path) -> None:
    (root / ".cache" / "locks").write_text("in the way")
    (warning,) = keep_for(root, tmp_path / "plans.lock", write_lock(tmp_path / "plans.lock"))
    assert "give gc --lock" in warning
