"""A start model on the Hub: fetched at one commit, which is what every worker is told to read."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from server import Hub

pytestmark = pytest.mark.hub

PROGRAM = """
import sys
from types import SimpleNamespace
from flashrl_registry.errors import FlashRLError
from flashrl_registry.runtime._vllm.locate import read_start_model
args = SimpleNamespace(download_dir=None, load_format="auto")  # what EngineArgs has for the loader
try:
    index, place, commit = read_start_model(args, sys.argv[1])
    print(place, commit, len(index.specs))
except FlashRLError as exc:
    sys.exit(f"{type(exc).__name__}: {exc}")
"""
SHAPES = {"model.embed_tokens.weight": (32, 8), "model.norm.weight": (8,)}
Read = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture
def read(tmp_path: Path, hub: Hub) -> Read:
    """What an engine's driver finds."""

    def run(model: str) -> subprocess.CompletedProcess[str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "FLASHRL_"))}
        environ = {
            **kept, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1",
        }  # fmt: skip
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, model],
            env=environ, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    return run


def test_a_name_is_fixed_to_the_commit_that_was_read(read: Read, hub: Hub, publish: Callable[..., Path]) -> None:
    publish("org/quantized", SHAPES)
    ran = read("org/quantized")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["org/quantized", hub.commit("org/quantized"), "2"]


def test_a_revision_that_is_not_there_and_a_model_that_is_not(read: Read, publish: Callable[..., Path]) -> None:
    publish("org/quantized", SHAPES)
    for model in ("org/quantized@v9", "org/nothing", "./nowhere"):
        ran = read(model)
        assert ran.returncode == 1
        assert ran.stderr.startswith("CheckpointError: model "), ran.stderr
        assert "neither a local folder nor on the Hub" in ran.stderr
