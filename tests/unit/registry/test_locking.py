"""Writing a lock: nothing that somebody locks is lost, and what was asked for means the same wherever it is read."""

import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from flashrl_registry.documents import Lock, LockedPlan, read_document
from flashrl_registry.documents.lock import LocalSource
from flashrl_registry.errors import InvalidRefError, StoreUnavailableError
from flashrl_registry.registry import PlanBundle, open_chain, write_bundle
from flashrl_registry.registry.chain import Chain
from flashrl_registry.registry.lock_entries import folder_of
from flashrl_registry.registry.locking import check_lock, lock_references, relock, update_lock

GUARD = ".flashrl.lock.guard"


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    """The stores of a registry that has nothing."""
    return open_chain({"FLASHRL_REGISTRY": str(tmp_path / "registry")})


@pytest.fixture
def job(tmp_path: Path, bundle: PlanBundle, other_bundle: PlanBundle, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with one plan in ``plan`` and another in ``sub/plan``."""
    for folder, made in ((tmp_path / "job" / "plan", bundle), (tmp_path / "job" / "sub" / "plan", other_bundle)):
        write_bundle(folder, made.plan, profile=made.profile, sidecar=made.sidecar)
    monkeypatch.chdir(tmp_path / "job")
    return tmp_path / "job"


def one(name: str) -> Lock:
    """A lock of one plan."""
    source = LocalSource(name=name, version="1.0.0")
    return Lock(entries=[LockedPlan(requested=name, source=source, plan_digest=f"sha256:{'a' * 64}")])


def _lock_some(number: int, file: str, temporary: str, begin: Any) -> None:
    os.environ["TMPDIR"] = temporary
    begin.wait()
    for turn in range(5):
        update_lock(Path(file), one(f"team/n{number}-{turn}"))


@pytest.mark.parametrize("by_link", [False, True])
def test_jobs_with_temporary_folders_of_their_own_lose_no_entry_of_each_other(tmp_path: Path, by_link: bool) -> None:
    file = tmp_path / "flashrl.lock"
    if by_link:
        (tmp_path / "link.lock").symlink_to(file)
    spawning = multiprocessing.get_context("spawn")
    begin = spawning.Barrier(4)
    jobs = [
        spawning.Process(
            target=_lock_some,
            args=(
                number,
                str(tmp_path / "link.lock" if by_link and number % 2 else file),
                f"{tmp_path}/{number}",
                begin,
            ),
        )
        for number in range(4)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0] * 4
    assert len(read_document(file, Lock).entries) == 20
    assert not (tmp_path / GUARD).exists(), "nothing is left in the user's repository"


def test_a_lock_that_another_process_keeps_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flashrl_registry.registry import alone

    monkeypatch.setattr(alone, "WAIT_SECONDS", 0.1)
    file = tmp_path / "flashrl.lock"
    with alone.alone_with(file), pytest.raises(StoreUnavailableError, match="another process has been writing"):
        update_lock(file, one("team/toy"))
    assert len(update_lock(file, one("team/toy")).entries) == 1


def test_what_a_killed_process_left_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / GUARD).touch()
    assert len(update_lock(tmp_path / "flashrl.lock", one("team/toy")).entries) == 1
    assert not (tmp_path / GUARD).exists()


def test_a_folder_that_cannot_be_written_is_one_clear_error_and_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / GUARD).symlink_to(tmp_path / "victim")
    with pytest.raises(StoreUnavailableError, match=r"flashrl\.lock cannot be written: .*guard"):
        update_lock(tmp_path / "flashrl.lock", one("team/toy"))
    assert (tmp_path / "victim").read_text() == "mine"
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailableError, match=r"flashrl\.lock cannot be written"):
        update_lock(tmp_path / "file" / "flashrl.lock", one("team/toy"))


@pytest.mark.parametrize("name", ["nosuffix", "x.txt"])
def test_a_name_that_nobody_would_take_for_a_lock_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRefError, match="would not be taken for a lock"):
        update_lock(tmp_path / name, one("team/toy"))
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_is_locked_from_another_folder_means_the_same_plan_where_the_lock_lies(
    job: Path, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(job / "sub")
    digest = f"#{read_digest(job / 'sub' / 'plan')}"
    lock, _ = lock_references(["./plan", "plan/plan.yaml", f"../plan/../sub/plan/{digest}"], chain, job)
    assert [entry.requested for entry in lock.entries] == ["./sub/plan", f"./sub/plan{digest}", "./sub/plan/plan.yaml"]
    monkeypatch.chdir(job)
    assert [entry.same for entry in check_lock(lock, chain, job)] == [True] * 3
    assert relock(lock, chain, job)[0] == lock


def read_digest(folder: Path) -> str:
    """The digest of a plan as references have it."""
    from flashrl_registry.registry import read_bundle

    return read_bundle(folder).digest.replace(":", "=")


def test_locking_a_path_again_replaces_its_entry_however_it_is_written(job: Path, chain: Chain) -> None:
    file = job / "flashrl.lock"
    for text in ("./plan", "./plan/", "./sub/../plan"):
        locked = update_lock(file, lock_references([text], chain, job)[0])
        assert [entry.requested for entry in locked.entries] == ["./plan"]


def test_a_lock_that_is_a_link_stays_one_and_its_paths_are_those_of_the_file(job: Path, chain: Chain) -> None:
    link = job / "flashrl.lock"
    link.symlink_to(Path("locks", "real.lock"))
    lock = update_lock(link, lock_references(["./plan"], chain, folder_of(link))[0])
    assert link.is_symlink()
    assert read_document(job / "locks" / "real.lock", Lock) == lock
    assert [entry.requested for entry in lock.entries] == ["../plan"]
    assert [entry.same for entry in check_lock(lock, chain, folder_of(link))] == [True]


def test_a_check_notices_an_entry_whose_path_is_not_the_one_that_was_asked_for(job: Path, chain: Chain) -> None:
    lock, _ = lock_references(["./plan"], chain, job)
    other, _ = lock_references(["./sub/plan"], chain, job)
    changed = Lock(entries=[other.entries[0].model_copy(update={"requested": "./plan"})])
    (checked,) = check_lock(changed, chain, job)
    assert not checked.same
    assert checked.now == lock.entries[0]
