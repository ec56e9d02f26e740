"""What is seen of a transfer: a bar on a terminal, nothing elsewhere."""

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ran
from git_server import GitHub
from test_hub_commands import NAME, PLAN, TOKEN, hub, ok, user

from flashrl_registry.registry import read_bundle
from flashrl_registry.registry.chain import Chain, open_chain, store_at
from flashrl_registry.registry.ref import NamedRef
from flashrl_registry.registry.transfer import watched

pytestmark = pytest.mark.hub

__all__ = ["hub", "user"]  # fixtures
User = Callable[..., Ran]


def on_a_terminal(hub: GitHub, home: Path, *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and what a terminal got on stderr."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "FLASHRL_"))}
    environ = {
        **kept, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_TOKEN": TOKEN, "NO_PROXY": "127.0.0.1", "FLASHRL_REGISTRY": str(home / "registry"), "TERM": "xterm",
        "COLUMNS": "120",
    }  # fmt: skip
    code = "from flashrl_cli.app import registry_main; registry_main()"
    reader, writer = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], env=environ, stdout=subprocess.PIPE, stderr=writer,
        text=True,
    ) as process:  # fmt: skip
        os.close(writer)
        seen = b""
        try:
            while chunk := os.read(reader, 65536):
                seen += chunk
        except OSError:  # how a terminal says that nobody writes any more
            os.close(reader)
        assert process.stdout is not None
        out = process.stdout.read()
    return process.returncode, out, seen.decode()


def test_push_and_pull_show_a_bar_on_a_terminal_and_nothing_elsewhere(tmp_path: Path, hub: GitHub, user: User) -> None:
    code, out, seen = on_a_terminal(hub, tmp_path / "one", "push", PLAN, f"hf://{NAME}@1.0.0")
    assert code == 0, seen
    assert f"publishing {NAME}@1.0.0" in seen
    assert "━" in seen
    code, out, seen = on_a_terminal(hub, tmp_path / "two", "pull", f"hf://{NAME}")
    assert code == 0, seen
    assert f"pulling hf://{NAME}" in seen
    assert "MB" in seen
    assert "━" not in out
    code, out, seen = on_a_terminal(hub, tmp_path / "three", "pull", f"hf://{NAME}", "--json")
    assert (code, seen) == (0, "")
    assert ok(user("pull", f"hf://{NAME}")).err == ""


@pytest.fixture
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chain:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    return open_chain({"FLASHRL_REGISTRY": str(tmp_path / "registry")})


@pytest.mark.parametrize("kind", ["hub", "url"])
def test_every_byte_that_is_fetched_is_counted_once(kind: str, tmp_path: Path, hub: GitHub, stores: Chain) -> None:
    bundle = read_bundle(PLAN)
    address = hub.endpoint if kind == "hub" else f"file://{tmp_path}/shared"
    ref = NamedRef(NAME, "1.0.0", store=kind, endpoint=address)  # type: ignore[arg-type]
    published = store_at(address, {"FLASHRL_REGISTRY": str(tmp_path / "publisher")}).publish(bundle, NAME, "1.0.0")
    size = sum(entry.num_bytes for entry in published.manifest.files)
    told: list[tuple[int, int, str]] = []
    with watched(lambda done, total, name: told.append((done, total, name))):
        stores.get(ref)
    parts = [entry for entry in told if entry[1] == size]
    assert parts[0] == (0, size, "")
    assert parts[-1][:2] == (size, size)
    assert [entry[0] for entry in parts] == sorted(entry[0] for entry in parts)
    assert {name for _, _, name in parts} >= {entry.path for entry in published.manifest.files}
    told.clear()
    with watched(lambda done, total, name: told.append((done, total, name))):
        stores.get(ref)
    assert told == [], "what is cached is not on its way"
