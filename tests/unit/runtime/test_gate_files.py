"""No engine leaves its file behind for good, and none takes another's away."""

import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flashrl_registry.runtime.gate_files import make_file

NAME = "flashrl-gate"
MAKE = f"""
import os, sys, time
from pathlib import Path
from flashrl_registry.runtime.gate_files import make_file
made = make_file(Path(sys.argv[1]), {NAME!r}, 64)
print(made, flush=True)
"""


def start(folder: Path, then: str) -> tuple["subprocess.Popen[str]", Path]:
    """A process that has made its file."""
    command = [sys.executable, "-c", MAKE + then, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def end(process: "subprocess.Popen[str]") -> None:
    process.communicate()


def test_it_goes_with_its_process(tmp_path: Path) -> None:
    process, file = start(tmp_path, "sys.stdin.read()")
    assert (file.exists(), file.stat().st_size) == (True, 64)
    end(process)
    assert not file.exists()


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    for kill in ("terminate", "kill"):
        process, file = start(tmp_path, "time.sleep(60)")
        getattr(process, kill)()
        end(process)
        assert file.exists()
        make_file(tmp_path, NAME, 64)
        assert not file.exists(), kill


def test_a_file_that_is_in_use_stays(tmp_path: Path) -> None:
    process, file = start(tmp_path, "sys.stdin.read()")
    mine = [make_file(tmp_path, NAME, 64) for _ in range(3)]
    assert file.exists()
    assert all(path.exists() for path in mine)
    end(process)


def test_a_forked_child_takes_its_own_away_and_not_its_parents(tmp_path: Path) -> None:
    then = """
child = os.fork()
if child == 0:
    sys.exit(0)
os.waitpid(child, 0)
print(made.exists(), flush=True)
"""
    process, _ = start(tmp_path, then)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    end(process)


def test_a_child_of_multiprocessing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(make_file, (tmp_path, NAME, 64))
        assert len(list(tmp_path.iterdir())) == 1
        pool.close()
        pool.join()
    assert list(tmp_path.iterdir()) == []


def test_what_only_looks_like_one_stays(tmp_path: Path) -> None:
    target = tmp_path / "somebody's"
    target.write_text("theirs")
    link = tmp_path / f"{NAME}-{os.getuid()}-link"
    link.symlink_to(target)
    folder = tmp_path / f"{NAME}-{os.getuid()}-folder"
    folder.mkdir()
    other = tmp_path / f"{NAME}-{os.getuid() + 1}-other"
    other.write_text("of another user")
    make_file(tmp_path, NAME, 64)
    assert target.read_text() == "theirs"
    assert all(path.exists() for path in (link, folder, other))


def test_many_that_start_at_once_keep_theirs(tmp_path: Path) -> None:
    made: list[Path] = []
    threads = [threading.Thread(target=lambda: made.append(make_file(tmp_path, NAME, 64))) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 40
    assert all(path.exists() for path in made)
