"""gc: what a lock needs stays in the cache, wherever on this machine the lock is."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flashrl_registry.documents import Lock, LockedPlan
from flashrl_registry.documents.lock import HubSource
from flashrl_registry.errors import RegistryError
from flashrl_registry.registry import NamedRef, PlanBundle, open_chain
from flashrl_registry.registry.hub_cache import remember
from flashrl_registry.registry.keeping import collect_garbage, keep_for, never_asked
from flashrl_registry.registry.locking import lock_references

LOCKED, OTHER = "a" * 40, "b" * 40
ENDPOINT = "https://hub.example"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry whose cache has two commits that no branch or tag names any more; the working folder has no lock."""
    monkeypatch.chdir(tmp_path)
    repository = tmp_path / "registry" / ".cache" / "hub.example-1" / "models--team--toy"
    (repository / "blobs").mkdir(parents=True)
    remember(repository.parent, "team/toy", {"main": "c" * 40}, {})
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
    size = 80 + sum(file.stat().st_size for file in root.rglob("refs/*.json"))
    assert [freed.num_bytes for freed in collect_garbage(root, [], everything=True, dry_run=True)] == [size]
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


@pytest.mark.parametrize("asked", ["another repository", "nothing"])
def test_what_was_fetched_by_its_commit_stays_until_it_is_known_what_names_it(
    root: Path, cached: Callable[[], set[str]], asked: str
) -> None:
    (hub,) = (root / ".cache").iterdir()
    (hub / "refs" / "team--toy.json").unlink()
    if asked == "nothing":
        (hub / "refs").rmdir()
    else:
        remember(hub, "team/other", {"main": "d" * 40}, {})
    assert collect_garbage(root, []) == []
    assert cached() == {LOCKED, OTHER}
    assert never_asked(root) == ["team/toy"]
    remember(hub, "team/toy", {"main": "c" * 40}, {"v1.0.0": OTHER})
    assert [LOCKED[:12] in freed.what for freed in collect_garbage(root, [])] == [True]
    assert cached() == {OTHER}, "a tag names it"
    assert never_asked(root) == []


def test_versions_of_a_shared_store_go_unless_a_lock_pins_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: PlanBundle, other_bundle: PlanBundle
) -> None:
    monkeypatch.chdir(tmp_path)
    address, root = f"file://{tmp_path}/shared", tmp_path / "registry"
    stores = open_chain({"FLASHRL_REGISTRY": str(root), "FLASHRL_STORES": address})
    (store,) = (store for store in stores.stores if store.kind == "url")
    for version, one in (("1.0.0", bundle), ("2.0.0", other_bundle)):
        store.publish(one, "team/toy", version)
        stores.get(NamedRef("team/toy", version))
    assert len(list(root.rglob("versions/*/profile.yaml"))) == 1
    lock, _ = lock_references(["team/toy@1.0.0"], stores, tmp_path)
    (tmp_path / "job.lock").write_bytes(lock.json_file())
    assert keep_for(root, tmp_path / "job.lock", lock) == ()
    dry = collect_garbage(root, [], dry_run=True)
    assert len(list((root / ".cache" / "versions").iterdir())) == 2
    assert collect_garbage(root, []) == dry
    assert len(dry) == 1
    assert dry[0].num_bytes > 0
    assert len(list(root.rglob("versions/*/profile.yaml"))) == 1, "the lock pins it"
    (tmp_path / "job.lock").unlink()
    assert len(collect_garbage(root, [])) == 1
    assert stores.get(NamedRef("team/toy", "2.0.0")).digest == other_bundle.digest, "fetched again"
