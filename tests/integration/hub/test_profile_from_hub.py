"""A pair on the Hub is profiled by byte ranges: what is not needed is not fetched."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "unit" / "profiling"))

import architectures
from safetensors.torch import load_file, save_file
from server import Hub

from flashrl_registry.documents import Profile, read_document
from flashrl_registry.profiling import profile_pair

pytestmark = pytest.mark.hub
VOCAB = 70_000  # an embedding of nine megabytes, which is compared by samples


@pytest.fixture
def pair(hub: Hub, tmp_path: Path) -> tuple[Path, Path]:
    """Two repositories, ``org/model`` and ``org/model-w8a8``, and the folders that they were made of."""
    architecture = architectures.Architecture(
        "llama", {**architectures.BASE, "vocab_size": VOCAB, "tie_word_embeddings": True}, architectures.LLAMA
    )
    model = architectures.build(architecture, tmp_path / "raw")
    folders = architectures.write_pair(model, tmp_path)
    for folder, name in zip(folders, ("model", "model-w8a8"), strict=True):
        shutil.copytree(folder, hub.root / "org" / name)
    return folders


def flashrl(hub: Hub, home: Path, *arguments: object) -> Any:
    environ = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("HF_", "FLASHRL_"))},
        "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    code = "from flashrl_cli.app import flashrl_main; flashrl_main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=120)


def test_a_pair_on_the_hub_has_the_profile_of_its_download(hub: Hub, pair: tuple[Path, Path], tmp_path: Path) -> None:
    ran = flashrl(hub, tmp_path / "hf", "profile", "-m", "org/model", "-qm", "org/model-w8a8", "-o", tmp_path / "out")
    assert ran.returncode == 0, ran.stderr
    remote = read_document(tmp_path / "out" / "profile.yaml", Profile)
    _, local = profile_pair(*pair, tmp_path / "local")
    assert (remote.sidecar, remote.linears, remote.smoothing) == (local.sidecar, local.linears, local.smoothing)
    assert (remote.reference.name, remote.quantized.name) == ("org/model", "org/model-w8a8")
    assert remote.reference.fingerprint == local.reference.fingerprint


def test_only_ranges_that_are_needed_are_fetched(hub: Hub, pair: tuple[Path, Path], tmp_path: Path) -> None:
    ran = flashrl(hub, tmp_path / "hf", "profile", "-m", "org/model", "-qm", "org/model-w8a8", "-o", tmp_path / "out")
    assert ran.returncode == 0, ran.stderr
    weights = [request for request in hub.requests if ".safetensors" in request.path and request.method == "GET"
               and not request.path.endswith(".json")]  # fmt: skip
    assert weights
    assert all(request.range is not None for request in weights)
    stored = sum(file.stat().st_size for folder in pair for file in folder.glob("*.safetensors"))
    assert sum(request.sent_bytes for request in weights) < stored / 10
    assert not list((tmp_path / "hf").rglob("*.safetensors")), "no file is downloaded"


@pytest.mark.parametrize("missing", ["-m", "-qm"])
def test_a_repository_that_cannot_be_read_is_one_error(
    hub: Hub, pair: tuple[Path, Path], tmp_path: Path, missing: str
) -> None:
    names = {"-m": "org/model", "-qm": "org/model-w8a8", missing: "org/absent"}
    arguments = [part for option, name in names.items() for part in (option, name)]
    ran = flashrl(hub, tmp_path / "hf", "profile", *arguments, "-o", tmp_path / "out")
    assert ran.returncode == 1
    assert "org/absent is neither a folder here nor a model on" in ran.stderr
    assert not (tmp_path / "out").exists()


def split(folder: Path, *, lie: bool = False, tail: bytes = b"", twice: bool = False) -> None:
    """Two shards of a repository and their index, with a fault."""
    stored = {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
    for file in folder.glob("*.safetensors"):
        file.unlink()
    names = sorted(stored)
    files = {name: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(names)}
    for shard in set(files.values()):
        save_file({name: stored[name] for name in names if files[name] == shard}, folder / shard)
    first = folder / files[names[0]]
    if twice:
        data = first.read_bytes()
        length = int.from_bytes(data[:8], "little")
        text = data[8 : 8 + length].rstrip()
        text = text[:-1] + b"," + json.dumps({names[0]: json.loads(text)[names[0]]}).encode()[1:]
        first.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    first.write_bytes(first.read_bytes() + tail)
    if lie:
        files[names[0]] = files[names[1]]
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ({}, None),
        (
            {"lie": True},
            "the shards disagree on 1 tensors: model.embed_tokens.weight (in model-00001-of-00002.safetensors; ",
        ),
        ({"tail": b"12345"}, "org/model/model-00001-of-00002.safetensors: the last 5 bytes belong to no tensor"),
        (
            {"twice": True},
            "org/model/model-00001-of-00002.safetensors: the header names model.embed_tokens.weight twice",
        ),
    ],
    ids=["none", "index that lies", "bytes after the last tensor", "a name twice"],
)
def test_a_damaged_upload_is_one_error_that_names_the_file(
    hub: Hub, pair: tuple[Path, Path], tmp_path: Path, fault: dict[str, Any], text: str | None
) -> None:
    split(hub.root / "org" / "model", **fault)
    ran = flashrl(hub, tmp_path / "hf", "profile", "-m", "org/model", "-qm", "org/model-w8a8", "-o", tmp_path / "out")
    assert ran.returncode == (0 if text is None else 1), ran.stderr
    if text is not None:
        assert text in ran.stderr
        assert not (tmp_path / "out").exists()
