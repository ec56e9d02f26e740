"""Pulling through olah, a mirror of the Hub that others wrote: an independent server between the client and ours.

olah mirrors reads of repositories. It has no list of models, so searching is not among them; nor is writing.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Ran
from git_server import GitHub
from test_hub_commands import EXAMPLES, NAME, OTHER, PLAN, TOKEN, digest_of, hub, ok, user

pytestmark = pytest.mark.hub

__all__ = ["hub", "user"]  # fixtures of the same tests without a mirror
OLAH = Path(__file__).parents[3] / ".cache" / "olah" / "bin" / "olah-cli"
User = Callable[..., Ran]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def mirror(tmp_path: Path, hub: GitHub) -> Iterator[str]:
    """Address of an olah that asks our server again each time."""
    assert OLAH.exists(), f"{OLAH} is missing; install it with: make .cache/olah/.ready"
    port, upstream = free_port(), hub.endpoint.removeprefix("http://")
    here = f"127.0.0.1:{port}"
    log = (tmp_path / "olah.log").open("w")
    process = subprocess.Popen(
        [
            OLAH, "--host", "127.0.0.1", "--port", str(port), "--hf-scheme", "http", "--hf-netloc", upstream,
            "--hf-lfs-netloc", upstream, "--mirror-netloc", here, "--mirror-lfs-netloc", here,
            "--repos-path", tmp_path / "olah", "--log-path", tmp_path / "olah-logs", "--metadata-cache-ttl", "0",
        ],
        env={"PATH": os.environ["PATH"], "NO_PROXY": "127.0.0.1", "HOME": str(tmp_path)}, cwd=tmp_path,
        stdout=log, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (tmp_path / "olah.log").read_text()
            time.sleep(0.1)
        yield f"http://{here}"
    finally:
        process.terminate()
        process.wait(timeout=20)
        log.close()


def test_a_plan_is_pulled_locked_and_checked_through_a_mirror(
    tmp_path: Path, hub: GitHub, user: User, mirror: str
) -> None:
    ok(user("push", PLAN, f"hf://{NAME}@1.0.0"))
    ok(user("channel", "set", f"hf://{NAME}", "stable", "1.0.0"))
    commit = hub.commit_of(NAME, "v1.0.0")
    there = {"machine": "two", "HF_ENDPOINT": mirror}
    for wanted in (f"{NAME}@stable", f"hf://{NAME}@{commit}"):
        pulled = ok(user("pull", wanted, "-o", "plan", "--json", **there)).json
        assert (pulled["digest"], pulled["source"]["commit"]) == (digest_of(PLAN), commit), wanted
        assert pulled["source"]["endpoint"] == mirror
    assert (tmp_path / "two" / "plan" / "plan.yaml").read_text() == (PLAN / "plan.yaml").read_text()
    ok(user("lock", f"hf://{NAME}@stable", **there))
    ok(user("push", OTHER, f"hf://{NAME}@2.0.0"))
    ok(user("channel", "set", f"hf://{NAME}", "stable", "2.0.0"))
    moved = user("lock", "--check", "--json", **there)
    assert (moved.code, moved.json["ok"]) == (1, False), "the mirror is asked again, and so is the Hub"
    assert ok(user("show", f"hf://{NAME}@stable", "--json", **there)).json["digest"] == digest_of(OTHER)
    assert ok(user("show", "flashrl.lock", "--json", HF_HUB_OFFLINE="1", **there)).json["digest"] == digest_of(PLAN)


def test_members_and_files_are_pulled_through_a_mirror(tmp_path: Path, hub: GitHub, user: User, mirror: str) -> None:
    there = {"machine": "two", "HF_ENDPOINT": mirror}
    job = tmp_path / "job"
    job.mkdir()
    for plan in ("int8", "int8_edges_bf16"):
        shutil.copytree(EXAMPLES / plan, job / plan)
    members = "- {name: a, plan: ./int8}\n- {name: b, plan: ./int8_edges_bf16}\n"
    (job / "hybrid.yaml").write_text(f"schema_version: flashrl.hybrid/v1\nmembers:\n{members}")
    ok(user("push", job, "hf://team/mix@1.0.0"))
    assert ok(user("show", "hf://team/mix:b", "--json", **there)).json["digest"] == digest_of(job / "int8_edges_bf16")
    hub.make("team/mixed")
    files = {"plans/int8/plan.yaml": (OTHER / "plan.yaml").read_bytes()}
    hub.write("team/mixed", "refs/heads/main", hub.commit_of("team/mixed", "main"), files, [], title="by hand")
    found = ok(user("show", "team/mixed/plans/int8/plan.yaml", "--json", **there)).json
    assert found["digest"] == digest_of(OTHER)


def test_what_is_not_there_and_what_may_not_be_read_are_errors_through_a_mirror(
    hub: GitHub, user: User, mirror: str
) -> None:
    there = {"machine": "two", "HF_ENDPOINT": mirror}
    ok(user("push", PLAN, f"hf://{NAME}@1.0.0"))
    missing = user("show", f"hf://{NAME}@9.9.9", "--json", **there)
    assert (missing.code, missing.json["error"]["code"]) == (1, "not-found")
    hub.private.add(NAME)
    refused = user("show", f"hf://{NAME}", "--json", HF_TOKEN="", **there)
    assert (refused.code, refused.json["error"]["code"]) in {(1, "not-found"), (1, "access-denied")}, refused.out
    assert ok(user("show", f"hf://{NAME}", "--json", **there)).json["digest"] == digest_of(PLAN)
    assert TOKEN not in str([request.path for request in hub.requests])
