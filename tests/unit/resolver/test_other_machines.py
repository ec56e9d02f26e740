"""Workers on another machine than the driver, where the file of vectors is not: they get that one or an error."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flashrl_registry.documents import Environment, Inventory
from flashrl_registry.registry import Chain, HubFileRef, NamedRef, PathRef, PlanBundle, PlanRef, open_chain
from flashrl_registry.resolver import make_payload, resolve

HUB = Path(__file__).parents[2] / "integration" / "hub"
NAME = "team/toy-int8"
CPU = Environment(vllm="0.32.0+cpu", device="cpu")
WORKER = """
import json, sys
from flashrl_registry.documents import Environment
from flashrl_registry.errors import FlashRLError
from flashrl_registry.resolver import open_payload
try:
    _, sidecar = open_payload(json.load(sys.stdin), Environment(vllm="0.32.0+cpu", device="cpu"))
    print(json.dumps({"sidecar": str(sidecar)}))
except FlashRLError as exc:
    print(json.dumps({"error": exc.message, "hint": exc.hint, "code": exc.code}))
"""
Worker = Callable[..., dict[str, Any]]


@pytest.fixture
def driver(tmp_path: Path) -> Chain:
    """The stores of the driver's machine."""
    return open_chain({"FLASHRL_REGISTRY": str(tmp_path / "driver")})


@pytest.fixture
def worker(tmp_path: Path, inventory: Inventory, driver: Chain) -> Worker:
    """What a worker makes of a plan that the driver found, on a machine that has nothing."""

    def run(ref: PlanRef, *gone: Path, **environment: str) -> dict[str, Any]:
        resolution = resolve(ref, inventory, CPU, driver)
        payload = make_payload(resolution, tmp_path / "gate", "auto", {}).as_dict()
        for folder in (tmp_path / "driver", *gone):
            if folder.exists():
                folder.rename(folder.with_name(folder.name + "-of-the-driver"))
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "FLASHRL_"))}
        environ = {
            **kept, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1",
            "FLASHRL_REGISTRY": str(tmp_path / "worker"), **environment,
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", WORKER], input=json.dumps(payload), env=environ, capture_output=True, text=True,
            check=True, timeout=120,
        )  # fmt: skip
        for folder in (tmp_path / "driver", *gone):
            shutil.rmtree(folder, ignore_errors=True)
            there = folder.with_name(folder.name + "-of-the-driver")
            if there.exists():
                there.rename(folder)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    return run


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Hub on the loopback interface."""
    monkeypatch.syspath_prepend(HUB)
    from git_server import Account, serve_git

    monkeypatch.setenv("HF_TOKEN", "hf_ann")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    (tmp_path / "hub").mkdir()
    with serve_git(tmp_path / "hub") as running:
        for name, end in (
            ("ENDPOINT", ""),
            ("HUGGINGFACE_CO_URL_TEMPLATE", "/{repo_id}/resolve/{revision}/{filename}"),
        ):
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", running.endpoint + end)  # the driver's HF_ENDPOINT
        running.accounts["hf_ann"] = Account("ann", frozenset({"team"}))
        yield running


@pytest.mark.hub
def test_vectors_of_a_plan_on_a_hub_are_fetched_from_the_commit_that_the_driver_found(
    hub: Any, driver: Chain, worker: Worker, bundle: PlanBundle, other_bundle: PlanBundle
) -> None:
    store = driver.hub(hub.endpoint)
    store.publish(bundle, NAME, "1.0.0")
    assert bundle.sidecar is not None
    ref = NamedRef(NAME, "1.0.0", store="hub", endpoint=hub.endpoint)
    store.publish(other_bundle, NAME, "1.1.0")
    answer = worker(ref, HF_ENDPOINT="http://127.0.0.1:9")
    assert "/worker/" in answer["sidecar"]
    assert Path(answer["sidecar"]).read_bytes() == bundle.sidecar.read_bytes()
    commit = hub.commit_of(NAME, "v1.0.0")
    hub.requests.clear()
    assert worker(ref) == answer
    asked = [request.path for request in hub.requests if commit in request.path]
    assert asked == [], "what one worker of a machine fetched serves the others"


@pytest.mark.hub
def test_vectors_beside_a_plan_file_in_any_repository_are_fetched_too(
    hub: Any, worker: Worker, bundle: PlanBundle, tmp_path: Path
) -> None:
    hub.make("team/mixed")
    files = {f"plans/int8/{file.name}": file.read_bytes() for file in bundle.files}
    hub.write("team/mixed", "refs/heads/main", hub.commit_of("team/mixed", "main"), files, [], title="by hand")
    answer = worker(HubFileRef("team/mixed", "plans/int8/plan.yaml", endpoint=hub.endpoint))
    assert Path(answer["sidecar"]).is_relative_to(tmp_path / "worker"), answer


@pytest.mark.hub
def test_a_hub_that_says_no_to_a_worker_is_an_error_that_says_what_is_missing_where(
    hub: Any, driver: Chain, worker: Worker, bundle: PlanBundle
) -> None:
    driver.hub(hub.endpoint).publish(bundle, NAME, "1.0.0")
    hub.private.add(NAME)  # the driver has a token, the worker has none
    answer = worker(NamedRef(NAME, "1.0.0", store="hub", endpoint=hub.endpoint))
    assert answer["code"] == "not-found"
    assert "where a worker runs: no file at" in answer["error"]
    assert f"no repository on {hub.endpoint} that you may read" in answer["error"]


def test_vectors_of_a_plan_in_a_shared_store_are_fetched_from_there(
    driver: Chain, worker: Worker, bundle: PlanBundle, tmp_path: Path
) -> None:
    address = f"file://{tmp_path}/shared"
    ref = NamedRef(NAME, "1.0.0", store="url", endpoint=address)
    driver.store_of(ref).publish(bundle, NAME, "1.0.0")
    answer = worker(ref)
    assert Path(answer["sidecar"]).is_relative_to(tmp_path / "worker"), answer


def test_a_folder_of_the_driver_is_not_there_for_a_worker_and_the_error_says_what_to_copy_where(
    driver: Chain, worker: Worker, bundle: PlanBundle, tmp_path: Path
) -> None:
    assert bundle.sidecar is not None
    assert bundle.plan.profile is not None
    answer = worker(PathRef(tmp_path / "bundle"), tmp_path / "bundle")
    assert answer["code"] == "not-found"
    assert f"no file at {bundle.sidecar} (26 bytes, {bundle.plan.profile.sidecar.digest})" in answer["error"]
    assert answer["hint"].startswith(f"copy {bundle.sidecar} from the driver's machine to the same path on ")
    assert "push the plan to a Hub or a shared store" in answer["hint"]
    driver.stores[0].publish(bundle, NAME, "1.0.0")
    answer = worker(NamedRef(NAME, "1.0.0"))
    assert f"{tmp_path}/driver/{NAME}/1.0.0/" in answer["error"]


def test_a_worker_whose_own_registry_has_the_version_takes_it(
    driver: Chain, worker: Worker, bundle: PlanBundle, tmp_path: Path
) -> None:
    driver.stores[0].publish(bundle, NAME, "1.0.0")
    open_chain({"FLASHRL_REGISTRY": str(tmp_path / "worker")}).stores[0].publish(bundle, NAME, "1.0.0")
    answer = worker(replace(NamedRef(NAME), version="1.0.0"))
    assert Path(answer["sidecar"]).is_relative_to(tmp_path / "worker"), answer
