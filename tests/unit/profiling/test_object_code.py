"""The compiled loops are made once; what is kept of them is loaded without a compiler, and checked."""

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flashrl_registry.profiling import compiled, object_code


def test_a_process_that_finds_the_loops_does_not_load_a_compiler() -> None:
    object_code.addresses()
    code = "import sys, flashrl_registry.profiling.compiled; print('numba' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-9], lambda data: data[:50] + b"x" + data[51:], lambda data: b""]
)
def test_loops_that_are_damaged_on_disk_are_not_loaded(
    damage: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_code, "_folders", lambda: iter([tmp_path / "new"]))
    object_code._write("loops.o", bytes(range(256)))
    assert object_code._read("loops.o") == bytes(range(256))
    file = tmp_path / "new" / "loops.o"
    file.write_bytes(damage(file.read_bytes()))  # type: ignore[operator]
    assert object_code._read("loops.o") is None


def test_loops_go_to_the_next_folder_where_the_first_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    folders = tmp_path / "file" / "no", tmp_path / "yes"
    monkeypatch.setattr(object_code, "_folders", lambda: iter(folders))
    object_code._write("loops.o", b"code")
    assert [path.name for path in (tmp_path / "yes").iterdir()] == ["loops.o"]
    assert object_code._read("loops.o") == b"code"
    monkeypatch.setattr(object_code, "_folders", lambda: iter(folders[:1]))
    object_code._write("loops.o", b"code")  # nowhere: every process compiles
    assert object_code._read("loops.o") is None


@pytest.mark.parametrize(
    ("umask", "folder", "file"), [(0o022, 0o755, 0o644), (0o077, 0o700, 0o600), (0o002, 0o775, 0o664)]
)
def test_loops_are_readable_for_whom_the_umask_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, umask: int, folder: int, file: int
) -> None:
    """``__pycache__`` may be made here, and Python keeps its own files there for everybody."""
    monkeypatch.setattr(object_code, "_folders", lambda: iter([tmp_path / "__pycache__"]))
    before = os.umask(umask)
    try:
        object_code._write("loops.o", b"code")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "__pycache__").stat().st_mode) == folder
    assert stat.S_IMODE((tmp_path / "__pycache__" / "loops.o").stat().st_mode) == file
    assert [path.name for path in (tmp_path / "__pycache__").iterdir()] == ["loops.o"]


WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == sys.argv[1]:
            if sys.argv[2] == "broken":
                raise OSError("Could not find/load shared object file")
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
if sys.argv[1] == "numba":  # what is kept needs none
    from flashrl_registry.profiling import object_code
    object_code._folders = lambda: iter(())
from flashrl_cli.app import run
sys.exit(run("flashrl", sys.argv[3:]))
"""


@pytest.mark.parametrize(
    ("package", "how", "text"),
    [
        ("llvmlite", "missing", "needs llvmlite, which is not installed"),
        ("llvmlite", "broken", "needs llvmlite, which does not load: Could not find/load shared object file"),
        ("numba", "missing", "needs numba, which is not installed"),
    ],
)
def test_a_pair_whose_loops_cannot_be_compiled_is_one_error_that_says_what_to_install(
    pair: Any, tmp_path: Path, package: str, how: str, text: str
) -> None:
    reference, quantized = map(str, pair.write())
    command = ["profile", "-m", reference, "-qm", quantized, "-o", str(tmp_path / "out"), "--every-row"]
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT, package, how, *command], check=False, capture_output=True, text=True
    )
    assert ran.returncode == 1, ran.stderr
    assert ran.stderr.startswith("error: profiling this pair " + text)
    assert 'hint: pip install "flashrl-registry[torch]"' in ran.stderr
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".flashrl-profile-*"))


@pytest.mark.parametrize(
    "codes", [np.zeros((2, 299), np.uint8), np.zeros((2, 300), np.float32), np.zeros((2, 600), np.uint8)[:, ::2]]
)
def test_a_loop_refuses_arrays_that_it_would_read_past(codes: np.ndarray) -> None:
    ones, out = np.ones((1, 300), np.float32), np.empty(2)
    with pytest.raises(ValueError, match="a loop takes 600 contiguous"):
        compiled.fit_rows(
            np.zeros((2, 300), np.uint16), codes, 0, np.ones((2, 1), np.float32), np.zeros((0, 0), np.float32), 1, 300,
            ones, 2, np.zeros(0, np.float32), out, out,
        )  # fmt: skip


def test_the_bits_of_bfloat16_give_what_their_numbers_give() -> None:
    rng = np.random.default_rng(5)
    half = (rng.standard_normal((4, 700), np.float32).view(np.uint32) >> 16).astype(np.uint16)
    wide = (half.astype(np.uint32) << 16).view(np.float32)
    codes = rng.integers(0, 256, half.shape, np.uint8)
    scale, inverse = np.full((4, 1), 0.02, np.float32), rng.uniform(0.5, 2, (1, 700)).astype(np.float32)
    results = []
    for weight in (half, wide):
        above, below = np.empty(4), np.empty(4)
        compiled.fit_rows(
            weight, codes, 0, scale, np.zeros((0, 0), np.float32), 1, 700, inverse, 4, np.zeros(0, np.float32), above,
            below,
        )  # fmt: skip
        results.append((above / below).astype(np.float32))
    np.testing.assert_array_equal(*results)
