"""Command lines, run in this process through the same boundary as the console scripts."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flashrl_cli.app import run


@dataclass(frozen=True)
class Ran:
    """What a user sees of a finished command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        lines = self.out.splitlines()
        assert len(lines) == 1, self.out
        data: dict[str, Any] = json.loads(lines[0])
        return data


Command = Callable[..., Ran]


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's registry."""
    root = tmp_path / "registry"
    monkeypatch.setenv("FLASHRL_REGISTRY", str(root))
    monkeypatch.delenv("FLASHRL_LOGGING_LEVEL", raising=False)
    monkeypatch.delenv("FLASHRL_STORES", raising=False)
    # Read when the client is imported, which another test may have done.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return root


@pytest.fixture
def cli(registry: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run ``flashrl-registry``, or another program of ours."""
    assert registry.parent.exists()

    def command(*arguments: object, program: str = "flashrl-registry") -> Ran:
        capsys.readouterr()
        code = run(program, [str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return command
