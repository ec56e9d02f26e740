"""What the Hub's client asks for each operation, compared with what it asked when the trace was written.

A new huggingface_hub that asks something else is no failure of ours, but it must be seen: a request more on every pull,
or one that our server has no answer for. Look at what changed, then write the traces again with

    FLASHRL_WRITE_TRACES=1 python -m pytest -m hub tests/integration/hub/test_traces.py
"""

import difflib
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ran
from git_server import GitHub
from test_hub_commands import NAME, PLAN, hub, ok, user

pytestmark = pytest.mark.hub

__all__ = ["hub", "user"]  # fixtures
TRACES = Path(__file__).parent / "traces"
User = Callable[..., Ran]


def trace(hub: GitHub) -> str:
    """Method, path and status of every request, with commits and digests as numbers in the order of appearance."""
    seen: dict[str, str] = {}

    def number(match: re.Match[str]) -> str:
        return seen.setdefault(match[0], f"<{len(seen) + 1}>")

    lines: list[str] = []
    for request in hub.requests:
        path = re.sub(r"\b[0-9a-f]{40,64}\b", number, request.path)
        lines.append(f"{request.method:6} {path} {request.status}")
    return "".join(f"{line}\n" for line in lines)


def compare(name: str, now: str) -> None:
    file = TRACES / f"{name}.txt"
    if os.environ.get("FLASHRL_WRITE_TRACES"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(now)
    before = file.read_text()
    differ = "".join(difflib.unified_diff(before.splitlines(True), now.splitlines(True), str(file), "now"))
    assert now == before, f"the client asks something else than it did:\n{differ}\nif that is fine: see {__file__}"


def test_requests_of_every_operation_are_those_that_were_written_down(hub: GitHub, user: User) -> None:
    def step(name: str, *arguments: object, machine: str = "one") -> None:
        hub.requests.clear()
        ok(user(*arguments, machine=machine))
        compare(name, trace(hub))

    step("push", "push", PLAN, f"hf://{NAME}@1.0.0")
    step("push_again", "push", PLAN, f"hf://{NAME}@1.0.0")
    step("channel", "channel", "set", f"hf://{NAME}", "stable", "1.0.0")
    step("pull", "pull", f"hf://{NAME}@stable", machine="two")
    step("pull_cached", "pull", f"hf://{NAME}@stable", machine="two")
    step("resolve_commit", "show", f"hf://{NAME}@{hub.commit_of(NAME, 'v1.0.0')}", machine="two")
    step("search", "search", "--scheme", "int8", "--store", "hub", machine="two")


def test_nothing_is_asked_for_a_commit_that_is_cached() -> None:
    if not os.environ.get("FLASHRL_WRITE_TRACES"):
        assert (TRACES / "resolve_commit.txt").read_text() == ""
