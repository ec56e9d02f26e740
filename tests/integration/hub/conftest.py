"""A Hub on the loopback interface, checkpoints on it, and clients in processes of their own.

huggingface_hub reads its environment when it is imported, so a client that should see another Hub is a new process.
"""

import json
import math
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from server import Hub, serve

Shapes = Mapping[str, tuple[int, ...]]
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": False}


@dataclass(frozen=True)
class Ran:
    """What a user sees of a finished command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        data: dict[str, Any] = json.loads(self.out)
        return data


Command = Callable[..., Ran]
Publish = Callable[..., Path]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """The server; its repositories lie in ``tmp_path/hub``."""
    (tmp_path / "hub").mkdir()
    with serve(tmp_path / "hub") as running:
        yield running


@pytest.fixture
def command(tmp_path: Path, hub: Hub) -> Command:
    """Run ``flashrl-registry`` as a user of that Hub, with an empty cache."""

    def run(*arguments: object, **environment: str) -> Ran:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "FLASHRL_"))}
        environ = {
            **kept, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1", "FLASHRL_REGISTRY": str(tmp_path / "registry"), **environment,
        }  # fmt: skip
        code = "import sys; from flashrl_cli.app import registry_main; registry_main()"
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            env=environ, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def publish(hub: Hub) -> Publish:
    """Put a checkpoint on the Hub: one file, or one shard per given map with an index."""

    def put(repo: str, *shards: Shapes, config: Mapping[str, object] = CONFIG) -> Path:
        folder = hub.root / repo
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config))
        if len(shards) == 1:
            write_safetensors(folder / "model.safetensors", shards[0])
            return folder
        weight_map = {}
        for number, shapes in enumerate(shards, 1):
            name = f"model-{number:05}-of-{len(shards):05}.safetensors"
            write_safetensors(folder / name, shapes)
            weight_map |= dict.fromkeys(shapes, name)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        return folder

    return put


def write_safetensors(path: Path, shapes: Shapes) -> None:
    """A bf16 file of zeros that takes no space on disk."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
