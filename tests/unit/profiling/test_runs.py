"""How a profile is made, and not what is in it: threads, Ray, a run that was killed, disks that are full."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pairs import linears
from safetensors.numpy import load_file, save_file

from flashrl_cli.app import run
from flashrl_registry.errors import CheckpointError, CheckpointMismatchError, FlashRLError, ProfilingError
from flashrl_registry.profiling import output, profile_pair, verify_profile, work

ROOT = Path(__file__).parents[3]
KILLED = """
import sys, time
from pathlib import Path
from flashrl_registry.profiling import layer, profile_pair, work
work._WRITE_SECONDS = 0.1
run = layer.Layer.run
def slowly(self):
    found = run(self)
    print(self._task.key, flush=True)
    time.sleep(0.3)
    return found
layer.Layer.run = slowly
profile_pair(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
"""


def contents(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


@pytest.mark.parametrize("every_row", [False, True])
def test_the_number_of_threads_changes_no_byte(pair: Any, tmp_path: Path, every_row: bool) -> None:
    folders = pair.write()
    for threads in (1, 2, 5):
        profile_pair(*folders, tmp_path / str(threads), threads=threads, every_row=every_row)
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "5")


def test_no_threads_are_refused(pair: Any, tmp_path: Path) -> None:
    with pytest.raises(ProfilingError, match="0 threads"):
        profile_pair(*pair.write(), tmp_path / "out", threads=0)


def run_killed(folders: tuple[Path, Path], out: Path, after: int) -> None:
    """Profile in a process, and kill it once it has finished some layers."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-c", KILLED, *map(str, folders), str(out)]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(after):
            assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)


def test_a_run_that_was_killed_goes_on_where_it_stopped(
    pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = pair.write()
    profile_pair(*folders, tmp_path / "whole")
    run_killed(folders, tmp_path / "out", after=4)
    assert not (tmp_path / "out").exists(), "nothing is half-written"
    assert len(list(tmp_path.glob(".flashrl-profile-*"))) == 1
    put: list[str] = []
    original = work.WorkFolder.put
    monkeypatch.setattr(
        work.WorkFolder, "put",
        lambda self, number, task, result: (put.append(task.key), original(self, number, task, result)),
    )  # fmt: skip
    profile_pair(*folders, tmp_path / "out")
    assert 0 < len(put) < 4, "the layers that were finished were measured again"
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not list(tmp_path.glob(".flashrl-profile-*"))


def damage_vectors(work_folder: Path, how: str) -> None:
    """Change one byte, cut or blank the vectors of every layer that was finished."""
    for file in work_folder.glob("*.vectors"):
        data = bytearray(file.read_bytes())
        start = 8 + int.from_bytes(data[:8], "little")
        if len(data) == start:
            continue  # a task without vectors
        if how == "zeroed":
            data[start:] = bytes(len(data) - start)
        elif how == "cut short":
            del data[-4:]
        elif how == "edited":
            data[-1] ^= 1
        file.write_bytes(data)
        if how == "gone":
            file.unlink()


def damage_records(work_folder: Path, how: str) -> None:
    for file in work_folder.glob("*.json"):
        text = file.read_bytes()
        spoiled = {
            "empty": b"", "no text": b"\xff" * len(text), "cut short": text[:-5],
            "edited": text.replace(b": 1", b": 2"),
            "another object": b"[]", "no lines": text.replace(b"\n", b""),
        }  # fmt: skip
        file.write_bytes(spoiled[how])


@pytest.mark.parametrize(
    ("damage", "how"),
    [(damage_vectors, how) for how in ("zeroed", "cut short", "edited", "gone")]
    + [(damage_records, how) for how in ("empty", "no text", "cut short", "edited", "another object", "no lines")],
)
def test_what_a_killed_run_left_and_was_damaged_is_measured_again_and_said(
    pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Any, how: str
) -> None:
    folders = pair.write()
    profile_pair(*folders, tmp_path / "whole")
    run_killed(folders, tmp_path / "out", after=4)
    (left,) = tmp_path.glob(".flashrl-profile-*")
    damage(left, how)
    command = ["profile", "-m", str(folders[0]), "-qm", str(folders[1]), "-o", str(tmp_path / "out")]
    assert run("flashrl", command) == 0
    shown = capsys.readouterr().err
    assert shown.count("warning:") == 1
    assert f"{left}: what an interrupted run left is damaged for " in shown
    assert "model.layers.0" in shown
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not left.exists()


@pytest.mark.parametrize("held", [0, work._HELD_BYTES])
def test_a_run_that_is_interrupted_keeps_every_layer_that_was_finished(
    pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    """Also those of the last moments, which are written late; and where no vector fits into memory."""
    monkeypatch.setattr(work, "_HELD_BYTES", held)
    folders = pair.write()
    profile_pair(*folders, tmp_path / "whole")

    def interrupt(_: int, __: int, name: str, ___: int) -> None:
        if name == "model.norm.weight":  # the last one
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        profile_pair(*folders, tmp_path / "out", progress=interrupt)
    (left,) = tmp_path.glob(".flashrl-profile-*")
    assert len(list(left.glob("*.json"))) == len(list(left.glob("*.vectors"))) == 4
    profile_pair(*folders, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_an_undamaged_run_that_goes_on_says_nothing(
    pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = pair.write()
    run_killed(folders, tmp_path / "out", after=4)
    assert run("flashrl", ["profile", "-m", str(folders[0]), "-qm", str(folders[1]), "-o", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().err == ""


def test_a_long_run_has_its_finished_layers_flushed(pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a machine that stops loses seconds of work, and not all of it."""
    flushed: list[str] = []
    monkeypatch.setattr(work, "flush", lambda file: flushed.append(file.name))
    monkeypatch.setattr(work, "_FLUSH_SECONDS", 0)
    monkeypatch.setattr(work, "_WRITE_SECONDS", 0)
    profile_pair(*pair.write(), tmp_path / "out")
    assert {"0.json", "0.vectors", "1.json", "1.vectors"} <= set(flushed)


def test_a_checkpoint_that_changed_meanwhile_is_measured_anew(pair: Any, tmp_path: Path) -> None:
    folders = pair.write()
    run_killed(folders, tmp_path / "out", after=4)
    name = linears(pair)[0]
    pair.quantized[f"{name}_scale"] = pair.quantized[f"{name}_scale"] * 1.0
    pair.quantized["model.norm.weight"] = pair.reference["model.norm.weight"] = torch.ones(32, dtype=torch.bfloat16)
    time.sleep(0.01)
    folders = pair.write()
    profile_pair(*folders, tmp_path / "out")
    profile_pair(*folders, tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_two_processes_do_not_write_one_profile(pair: Any, tmp_path: Path) -> None:
    folders = pair.write()
    with pytest.raises(ProfilingError, match="another process is writing"):
        profile_pair(*folders, tmp_path / "out", progress=lambda *_: profile_pair(*folders, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("broken", ["write_vectors", "write_document"])
def test_a_full_disk_leaves_nothing_half_written(
    pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    from flashrl_registry.profiling import profile as profile_module

    folders = pair.write()

    def full(*_: Any) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    for module in (output, work, profile_module):
        if hasattr(module, broken):
            monkeypatch.setattr(module, broken, full)
    before = set(tmp_path.iterdir())
    with pytest.raises(ProfilingError, match="No space left on device"):
        profile_pair(*folders, tmp_path / "new" / "out")
    assert set(tmp_path.iterdir()) == before


def test_a_folder_without_permission_is_an_error_of_one_line(pair: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FlashRLError):
        profile_pair(*pair.write(), tmp_path / "file" / "out")


def spoil_header(folder: Path) -> None:
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[10:30] = b"\xff" * 20
    file.write_bytes(data)


def shard(folder: Path, lie: str) -> None:
    """Two shards and an index that does not say what is in them."""
    tensors = load_file_raw(folder / "model.safetensors")
    names = sorted(tensors)
    files = {name: f"model-{index % 2}.safetensors" for index, name in enumerate(names)}
    for file in set(files.values()):
        save_raw({name: tensors[name] for name in names if files[name] == file}, folder / file)
    (folder / "model.safetensors").unlink()
    if lie == "missing shard":
        (folder / "model-1.safetensors").unlink()
    if lie == "other tensors":
        files["model.extra.weight"] = "model-0.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


def load_file_raw(path: Path) -> dict[str, Any]:
    from safetensors.torch import load_file as load

    tensors: dict[str, Any] = load(path)
    return tensors


def save_raw(tensors: dict[str, Any], path: Path) -> None:
    from safetensors.torch import save_file as save

    save(tensors, path)


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (truncate, "cut short"),
        (spoil_header, "is not JSON"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "not a complete safetensors file"),
        (lambda folder: shard(folder, "missing shard"), "shards are missing"),
        (lambda folder: shard(folder, "other tensors"), "disagree"),
        (lambda folder: (folder / "config.json").write_text("{"), "not JSON"),
        (lambda folder: (folder / "config.json").unlink(), "cannot be read"),
    ],
    ids=["truncated", "corrupt header", "no safetensors", "missing shard", "index that lies", "config", "no config"],
)
def test_a_damaged_checkpoint_is_one_clear_error(pair: Any, tmp_path: Path, side: int, spoil: Any, text: str) -> None:
    folders = pair.write()
    spoil(folders[side])
    with pytest.raises(CheckpointError, match=text):
        profile_pair(*folders, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".flashrl-profile-*"))


def test_another_model_of_the_same_shapes_is_refused(pair: Any, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(99)
    for name in linears(pair):
        pair.reference[name] = torch.randn(pair.reference[name].shape, generator=generator).to(torch.bfloat16)
    with pytest.raises(CheckpointMismatchError, match="it is another weight"):
        profile_pair(*pair.write(), tmp_path / "out")


def test_another_kind_of_model_is_refused_at_once(pair: Any, tmp_path: Path) -> None:
    pair.quantized_config["model_type"] = "qwen2"
    with pytest.raises(CheckpointMismatchError, match="one is a qwen2 model, the other a llama model"):
        profile_pair(*pair.write(), tmp_path / "out")


def test_a_reference_that_holds_low_precision_weights_is_refused(pair: Any, tmp_path: Path) -> None:
    name = linears(pair)[0]
    pair.reference[name] = pair.reference[name].to(torch.float8_e4m3fn)
    with pytest.raises(ProfilingError, match="was given as the reference"):
        profile_pair(*pair.write(), tmp_path / "out")


def test_vectors_are_the_bytes_that_safetensors_writes(pair: Any, tmp_path: Path) -> None:
    _, profile = profile_pair(*pair.write(), tmp_path / "out")
    sidecar = tmp_path / "out" / profile.sidecar.file_name
    save_file(load_file(sidecar), tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == sidecar.read_bytes()


@pytest.mark.parametrize("spoil", ["sidecar", "scale", "code", "norm", "model"])
def test_a_profile_of_something_else_is_not_verified(pair: Any, tmp_path: Path, spoil: str) -> None:
    document, profile = profile_pair(*pair.write(), tmp_path / "out")
    name = linears(pair)[3]
    if spoil == "sidecar":
        sidecar = tmp_path / "out" / profile.sidecar.file_name
        sidecar.write_bytes(sidecar.read_bytes()[:-4] + b"\0\0\0\1")
    elif spoil == "scale":
        pair.quantized[f"{name}_scale"] = (pair.quantized[f"{name}_scale"].float() * 1.02).to(torch.bfloat16)
    elif spoil == "code":
        pair.quantized[name] = pair.quantized[name].flip(0)
    elif spoil == "norm":
        norm = "model.layers.0.input_layernorm.weight"
        pair.quantized[norm] = pair.quantized[norm] * 2
    else:
        pair.reference["extra.weight"] = pair.quantized["extra.weight"] = torch.ones(2, dtype=torch.bfloat16)
    with pytest.raises(FlashRLError) as caught:
        verify_profile(document, *pair.write())
    expected = {
        "sidecar": "damaged", "scale": "has other scales", "code": "is not explained by the profile's vectors",
        "norm": "is not the reference's norm times", "model": "another model",
    }  # fmt: skip
    assert expected[spoil] in str(caught.value)


def test_ray_gives_the_bytes_of_a_run_here(pair: Any, tmp_path: Path) -> None:
    folders = pair.write()
    profile_pair(*folders, tmp_path / "here")
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    code = "import sys; from pathlib import Path; from flashrl_registry.profiling import profile_pair\n"
    code += "profile_pair(sys.argv[1], sys.argv[2], Path(sys.argv[3]), ray='local')"
    command = [sys.executable, "-c", code, *map(str, folders), str(tmp_path / "ray")]
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")
