"""The real Hub, only when asked for: ``FLASHRL_LIVE_HF_TOKEN=... FLASHRL_LIVE_REPO=me/scratch pytest -m live``.

The repository is made private where it does not exist, gets one version of a bundled plan, and is left there: a second
run finds the version and changes nothing but a channel.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flashrl_registry.registry import read_bundle

pytestmark = pytest.mark.live

PLAN = Path(__file__).parents[3] / "profiles" / "HuggingFaceTB" / "SmolLM2-135M-Instruct" / "int8"
TOKEN, REPO = "FLASHRL_LIVE_HF_TOKEN", "FLASHRL_LIVE_REPO"


def test_a_plan_goes_to_the_real_hub_and_comes_back(tmp_path: Path) -> None:
    missing = [name for name in (TOKEN, REPO) if not os.environ.get(name)]
    if missing:
        pytest.fail(
            f"the live test was asked for, and {' and '.join(missing)} is not set: a token that may write to the "
            "namespace of the repository, such as me/scratch"
        )
    token, repo = os.environ[TOKEN], os.environ[REPO]

    def run(machine: str, *arguments: object) -> str:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "FLASHRL"))}
        home = tmp_path / machine
        home.mkdir(exist_ok=True)
        environ = {**kept, "HF_TOKEN": token, "HF_HOME": str(home / "hf"), "FLASHRL_REGISTRY": str(home / "registry")}
        code = "from flashrl_cli.app import registry_main; registry_main()"
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            env=environ, cwd=home, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert token not in done.stdout + done.stderr
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    digest = read_bundle(PLAN).plan.digest
    run("one", "push", PLAN, f"hf://{repo}@1.0.0", "--private")
    run("one", "channel", "set", f"hf://{repo}", "live-test", "1.0.0")
    run("two", "pull", f"hf://{repo}@live-test", "-o", "plan")
    assert read_bundle(tmp_path / "two" / "plan").plan.digest == digest
    run("two", "lock", f"hf://{repo}@live-test")
    run("two", "lock", "--check")
    assert "published already" in run("one", "push", PLAN, f"hf://{repo}@1.0.0")
