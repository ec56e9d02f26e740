"""A plan on another Hub than HF_ENDPOINT's: every process of the job asks that Hub, and it gets no token."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from git_server import Account, GitHub, serve_git

pytestmark = pytest.mark.hub

PLAN = Path(__file__).parents[3] / "profiles" / "HuggingFaceTB" / "SmolLM2-135M-Instruct" / "int8"
NAME = "team/smol-int8"
TOKEN = "hf_" + "a" * 34
# What an engine's front end does with FLASHRL_CONFIG, and then each process that it starts.
ENGINE = """
import os, subprocess, sys
from pathlib import Path
from flashrl_registry.registry import open_chain
from flashrl_registry.registry.open import open_any
from flashrl_registry.runtime.pinning import pin_for_children
from flashrl_registry.runtime.reference import plan_reference
config = os.environ["FLASHRL_CONFIG"]
ref = pin_for_children(config, plan_reference(config, Path("registry"), lambda: None), os.environ)
print(open_any(ref, open_chain(os.environ)).digest, flush=True)
if "child" not in sys.argv:
    os.environ["FLASHRL_REGISTRY"] = "empty"  # a child has nothing cached, as a node of its own
    subprocess.run([sys.executable, "-c", os.environ["ENGINE"], "child"], check=True)
"""
COMMAND = "from flashrl_cli.app import registry_main; registry_main()"
PIN = "import sys; from flashrl_registry import pin; print(pin(sys.argv[1]))"
Process = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hubs(tmp_path: Path) -> Iterator[tuple[GitHub, GitHub]]:
    """The Hub that has the plan, and the one that HF_ENDPOINT names."""
    for name in ("theirs", "ours"):
        (tmp_path / name).mkdir()
    with serve_git(tmp_path / "theirs") as theirs, serve_git(tmp_path / "ours") as ours:
        theirs.accounts[TOKEN] = Account("ann", frozenset({"team"}))
        yield theirs, ours


@pytest.fixture
def process(tmp_path: Path, hubs: tuple[GitHub, GitHub]) -> Process:
    """Runs Python on a machine with a token, whose HF_ENDPOINT is ``ours``."""

    def run(code: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "FLASHRL_"))}
        environ = {
            **kept, "HF_ENDPOINT": hubs[1].endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_TOKEN": TOKEN, "NO_PROXY": "127.0.0.1", "FLASHRL_REGISTRY": str(tmp_path / "registry"),
            "ENGINE": ENGINE, **environment,
        }  # fmt: skip
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            env=environ, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    return run


@pytest.fixture
def digest(process: Process, hubs: tuple[GitHub, GitHub]) -> str:
    """Of the plan, which is published on ``theirs`` alone; nothing of it is on this machine."""
    there = {"HF_ENDPOINT": hubs[0].endpoint, "FLASHRL_REGISTRY": "publisher"}
    pushed = process(COMMAND, "push", PLAN, f"{NAME}@1.0.0", "--store", "hub", "--json", **there)
    assert pushed.returncode == 0, pushed.stderr + pushed.stdout
    moved = process(COMMAND, "channel", "set", f"hf://{NAME}", "stable", "1.0.0", **there)
    assert moved.returncode == 0, moved.stderr
    locked = process(COMMAND, "lock", f"hf://{NAME}@stable", "--json", **there)
    assert locked.returncode == 0, locked.stderr + locked.stdout
    hubs[0].requests.clear()
    return str(json.loads(locked.stdout)["entries"][0]["plan_digest"])


@pytest.mark.parametrize("named_by", ["a lock", "a reference"])
def test_a_child_asks_the_hub_of_the_lock_and_not_its_own(
    process: Process, hubs: tuple[GitHub, GitHub], digest: str, named_by: str
) -> None:
    theirs, ours = hubs
    config = "flashrl.lock" if named_by == "a lock" else f"hf://{NAME}@stable?store={theirs.endpoint}"
    ran = process(ENGINE, FLASHRL_CONFIG=config)
    assert (ran.returncode, ran.stdout.split()) == (0, [digest, digest]), ran.stderr
    assert ours.requests == []
    fetched = [request.path for request in theirs.requests if request.path.endswith("/plan.yaml")]
    assert len(fetched) >= 2, "the parent and the child fetched it, each into its own cache"
    assert not any(request.has_token for request in theirs.requests), "the token is for another Hub"


def test_what_pin_returns_is_run_by_a_worker_with_another_hub(
    process: Process, hubs: tuple[GitHub, GitHub], digest: str
) -> None:
    theirs, ours = hubs
    by_lock = process(PIN, "flashrl.lock")
    by_environment = process(PIN, f"hf://{NAME}@stable", HF_ENDPOINT=theirs.endpoint)
    commit = theirs.commit_of(NAME, "v1.0.0")
    expected = f"hf://{NAME}@{commit}?store={theirs.endpoint}#{digest.replace(':', '=')}"
    assert (by_lock.stdout.strip(), by_environment.stdout.strip()) == (expected, expected), by_lock.stderr
    ran = process(ENGINE, FLASHRL_CONFIG=expected)
    assert (ran.returncode, ran.stdout.split()) == (0, [digest, digest]), ran.stderr
    assert ours.requests == []


def test_the_users_own_hub_still_gets_the_token_and_a_private_plan_elsewhere_says_how(
    process: Process, hubs: tuple[GitHub, GitHub], digest: str
) -> None:
    theirs, _ = hubs
    ref = f"hf://{NAME}@stable?store={theirs.endpoint}"
    assert process(COMMAND, "show", ref, HF_ENDPOINT=theirs.endpoint).returncode == 0
    assert all(request.has_token for request in theirs.requests)
    refused = process(COMMAND, "show", f"hf://team/none?store={theirs.endpoint}", "--json")
    assert refused.returncode == 1
    assert f"set HF_ENDPOINT={theirs.endpoint} (a Hub that a reference names gets no token)" in refused.stdout
