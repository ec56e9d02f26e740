"""The registry's commands against a Hub, as a user runs them: processes, the real client, an empty machine."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Ran
from git_server import Account, Fault, GitHub, serve_git

from flashrl_registry.registry import read_bundle

pytestmark = pytest.mark.hub

PROFILES = Path(__file__).parents[3] / "profiles"
PLAN = PROFILES / "HuggingFaceTB" / "SmolLM2-135M-Instruct" / "int8"
EXAMPLES = PROFILES.parent / "examples" / "plan_repository" / "plans"
OTHER = PROFILES / "Qwen" / "Qwen2.5-0.5B-Instruct" / "int8"
NAME = "team/smol-int8"
TOKEN = "hf_" + "a" * 34
User = Callable[..., Ran]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[GitHub]:
    """A Hub on which ann may write for the team, and bob for himself."""
    (tmp_path / "hub").mkdir()
    with serve_git(tmp_path / "hub") as running:
        running.accounts[TOKEN] = Account("ann", frozenset({"ann", "team"}))
        running.accounts[TOKEN + "b"] = Account("bob", frozenset({"bob"}))
        yield running


@pytest.fixture
def user(tmp_path: Path, hub: GitHub) -> User:
    """Runs a command on a machine of its own; ``machine`` names it."""

    def run(*arguments: object, machine: str = "one", program: str = "registry_main", **environment: str) -> Ran:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "FLASHRL_"))}
        home = tmp_path / machine
        home.mkdir(exist_ok=True)
        environ = {
            **kept, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_TOKEN": TOKEN, "NO_PROXY": "127.0.0.1", "FLASHRL_REGISTRY": str(home / "registry"), **environment,
        }  # fmt: skip
        code = f"import sys; from flashrl_cli.app import {program}; {program}()"
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            env=environ, cwd=home, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert TOKEN not in done.stdout + done.stderr, "a token is printed"
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


def ok(ran: Ran) -> Ran:
    assert ran.code == 0, ran.err + ran.out
    return ran


def test_push_search_pull_lock_and_run_from_the_lock_on_another_machine_offline(
    tmp_path: Path, hub: GitHub, user: User
) -> None:
    assert "would publish" in ok(user("push", PLAN, f"hf://{NAME}@1.0.0", "--dry-run")).out
    assert not hub.git_dir(NAME).exists(), "a dry run made a repository"
    assert ok(user("push", PLAN, f"hf://{NAME}@1.0.0")).out.startswith("published ")
    assert "published already" in ok(user("push", PLAN, f"hf://{NAME}@1.0.0")).out
    assert hub.log(NAME) == ["Publish v1.0.0", "initial"]
    ok(user("channel", "set", f"hf://{NAME}", "stable", "1.0.0"))
    found = ok(
        user("search", "--scheme", "int8", "--model", "HuggingFaceTB/SmolLM2-135M-Instruct", "--store", "hub", "--json")
    )
    assert [plan["ref"] for plan in found.json["plans"]] == [f"{NAME}@1.0.0"]
    by_device = {
        device: len(ok(user("search", "--device", device, "--store", "hub", "--json")).json["plans"])
        for device in ("cpu", "cuda", "rocm")
    }
    assert by_device == {"cpu": 1, "cuda": 1, "rocm": 1}
    assert "device:cpu" in hub.read(NAME, "main", "README.md").decode()

    digest = ok(user("pull", f"{NAME}@stable", "-o", "plan", "--json", machine="two")).json["digest"]
    assert (tmp_path / "two" / "plan" / "plan.yaml").read_text() == (PLAN / "plan.yaml").read_text()
    locked = ok(user("lock", f"{NAME}@stable", "--json", machine="two")).json["entries"]
    assert locked[0]["plan_digest"] == digest
    assert locked[0]["source"]["endpoint"] == hub.endpoint
    assert locked[0]["source"]["commit"] == hub.commit_of(NAME, "v1.0.0")
    ok(user("lock", "--check", machine="two"))

    asked = len(hub.requests)
    offline = ok(user("show", "flashrl.lock", "--json", machine="two", HF_HUB_OFFLINE="1")).json
    assert (offline["digest"], offline["warnings"]) == (digest, [])
    ok(user("show", "flashrl.lock", machine="two"))
    assert len(hub.requests) == asked, "what is locked and cached asks nobody"

    lock = (tmp_path / "two" / "flashrl.lock").read_text()
    (tmp_path / "three").mkdir()
    (tmp_path / "three" / "flashrl.lock").write_text(lock)
    missing = user("show", "flashrl.lock", "--json", machine="three", HF_HUB_OFFLINE="1")
    assert missing.code == 1
    assert missing.json["error"]["code"] == "store-unavailable"
    assert "manifest.json" in missing.json["error"]["message"]
    ok(user("pull", "flashrl.lock", machine="three"))
    ok(user("show", "flashrl.lock", machine="three", HF_HUB_OFFLINE="1"))


def test_a_lock_that_moved_is_noticed_and_still_runs_what_it_locked(user: User) -> None:
    ok(user("push", PLAN, f"hf://{NAME}@1.0.0"))
    ok(user("channel", "set", f"hf://{NAME}", "stable", "1.0.0"))
    before = ok(user("lock", f"hf://{NAME}@stable", "--json")).json["entries"][0]["plan_digest"]
    ok(user("push", OTHER, f"hf://{NAME}@2.0.0"))
    ok(user("channel", "set", f"hf://{NAME}", "stable", "2.0.0", "--from", "1.0.0"))
    checked = user("lock", "--check", "--json")
    assert (checked.code, checked.json["ok"]) == (1, False)
    assert [entry["same"] for entry in checked.json["entries"]] == [False]
    assert ok(user("show", "flashrl.lock", "--json")).json["digest"] == before
    ok(user("lock"))
    ok(user("lock", "--check"))
    history = ok(user("channel", "history", f"hf://{NAME}", "stable", "--json")).json["events"]
    assert [(event["by"], event["previous"], event["version"]) for event in history] == [
        ("ann", None, "1.0.0"),
        ("ann", "1.0.0", "2.0.0"),
    ]
    refused = user("channel", "set", f"hf://{NAME}", "stable", "1.0.0", "--from", "1.0.0", "--json")
    assert refused.json["error"]["code"] == "conflict"


def test_a_hub_out_of_order_is_an_error_unless_stale_is_allowed_and_then_it_says_so(hub: GitHub, user: User) -> None:
    ok(user("push", PLAN, f"hf://{NAME}@1.0.0"))
    digest = ok(user("show", f"hf://{NAME}", "--json")).json["digest"]
    hub.plan.append(Fault("/refs", "status", times=10**6))
    for wanted in (f"hf://{NAME}", f"hf://{NAME}@1.0.0"):
        refused = user("show", wanted, "--json")
        assert refused.json["error"]["code"] == "store-unavailable"
        stale = ok(user("show", wanted, "--allow-stale", "--json")).json
        assert stale["digest"] == digest
        assert "was not asked" in stale["warnings"][0]
    spelled = digest.replace(":", "=")
    assert ok(user("show", f"hf://{NAME}@1.0.0#{spelled}", "--json")).json["warnings"] == []


def test_pull_over_a_plan_while_the_hub_is_down_says_what_it_cannot_know(
    hub: GitHub, user: User, tmp_path: Path
) -> None:
    ok(user("push", EXAMPLES / "int8", f"hf://{NAME}@1.0.0"))
    ok(user("push", EXAMPLES / "int8_edges_bf16", f"hf://{NAME}@2.0.0"))
    for version, machine in (("2.0.0", "one"), ("1.0.0", "one"), ("1.0.0", "two")):
        ok(user("pull", f"hf://{NAME}@{version}", "-o", tmp_path / f"v{version}", machine=machine))
    hub.plan.append(Fault("", "status", times=10**6))
    over = ("pull", f"hf://{NAME}@1.0.0", "--allow-stale", "-o")
    shutil.copytree(tmp_path / "v2.0.0", tmp_path / "other")
    unknown = user(*over, tmp_path / "other", machine="two")
    assert unknown.code == 1
    assert "what was published cannot be told" in unknown.err
    assert "was changed since" not in unknown.err
    ok(user(*over, tmp_path / "v2.0.0"))
    assert (tmp_path / "v2.0.0" / "plan.json").read_bytes() == (tmp_path / "v1.0.0" / "plan.json").read_bytes()


def test_offline_says_what_it_is_based_on(user: User) -> None:
    ok(user("push", PLAN, f"hf://{NAME}@1.0.0"))
    ok(user("pull", f"hf://{NAME}", machine="two"))
    ran = ok(user("show", f"hf://{NAME}", machine="two", HF_HUB_OFFLINE="1"))
    assert "this is what it said on" in ran.err
    never = user("show", "hf://team/other", machine="two", HF_HUB_OFFLINE="1")
    assert never.code == 1
    assert "was never asked for" in never.err


def test_deprecation_and_withdrawal_are_shown_on_use(hub: GitHub, user: User) -> None:
    ok(user("push", PLAN, f"hf://{NAME}@1.0.0"))
    ok(user("push", OTHER, f"hf://{NAME}@1.1.0"))
    ok(user("deprecate", f"hf://{NAME}@1.1.0", "--reason", "clips the head", "--use", "1.2.0"))
    assert "deprecated by ann" in ok(user("show", f"hf://{NAME}")).err
    ok(user("yank", f"hf://{NAME}@1.1.0", "--reason", "wrong logprobs"))
    assert ok(user("pull", f"hf://{NAME}", "--json")).json["source"]["version"] == "1.0.0"
    listed = ok(user("versions", f"hf://{NAME}", "--json")).json["versions"]
    assert [(entry["version"], entry["state"]) for entry in listed] == [("1.0.0", []), ("1.1.0", ["yanked"])]
    assert "wrong logprobs" in hub.read(NAME, "main", "README.md").decode()


def test_a_lock_of_a_version_that_was_withdrawn_since_says_so_where_that_is_known(hub: GitHub, user: User) -> None:
    ok(user("push", EXAMPLES / "int8", f"hf://{NAME}@1.0.0"))
    ok(user("lock", f"hf://{NAME}@1.0.0"))
    ok(user("yank", f"hf://{NAME}@1.0.0", "--reason", "wrong logprobs"))
    ok(user("versions", f"hf://{NAME}"))
    hub.requests.clear()
    assert "was withdrawn" in ok(user("pull", "flashrl.lock")).err
    assert hub.requests == [], "a lock asks nobody"


def test_readers_propose_and_the_owner_merges(hub: GitHub, user: User) -> None:
    ok(user("push", PLAN, f"hf://{NAME}@1.0.0"))
    bob = {"HF_TOKEN": TOKEN + "b", "machine": "bob"}
    refused = user("push", OTHER, f"hf://{NAME}@1.1.0", "--json", **bob)
    assert refused.json["error"]["code"] == "access-denied"
    assert "--pr" in refused.json["error"]["hint"]
    proposed = ok(user("push", OTHER, f"hf://{NAME}@1.1.0", "--pr", **bob))
    assert "proposed" in proposed.out
    assert ok(user("versions", f"hf://{NAME}", "--json")).json["versions"][-1]["version"] == "1.0.0"
    digest = ok(user("show", f"hf://{NAME}@refs%2Fpr%2F1", "--json")).json["digest"]
    hub.git(NAME, "update-ref", "refs/heads/main", hub.refs(NAME, "refs/pr/")["1"])  # the owner merges it
    assert ok(user("show", f"hf://{NAME}@1.1.0", "--json")).json["digest"] == digest
    again = ok(user("push", OTHER, f"hf://{NAME}@1.1.0"))
    assert "published already" in again.out
    assert "v1.1.0" in hub.refs(NAME, "refs/tags/")


def test_a_plan_in_any_repository_is_read_by_revision_and_by_path(hub: GitHub, user: User) -> None:
    hub.make("team/mixed")
    head = hub.commit_of("team/mixed", "main")
    files = {"plans/int8/plan.yaml": (OTHER / "plan.yaml").read_bytes(), "readme.txt": b"ours"}
    commit = hub.write("team/mixed", "refs/heads/main", head, files, [], title="by hand")
    for ref in ("team/mixed/plans/int8/plan.yaml", f"hf://team/mixed@{commit}/plans/int8/plan.yaml"):
        assert ok(user("show", ref, "--json")).json["source"]["commit"] == commit
        locked = f"flashrl.lock#{ok(user('lock', ref, '--json')).json['entries'][0]['requested']}"
        assert ok(user("show", locked, "--json", HF_HUB_OFFLINE="1")).json["source"]["commit"] == commit
    missing = user("show", "hf://team/mixed", "--json")
    assert missing.json["error"]["code"] == "not-found"
    wrong = user("show", "hf://team/mixed@nowhere", "--json")
    assert "main" in wrong.json["error"]["hint"]


def test_a_local_plan_is_never_replaced_by_one_of_the_same_name_on_a_hub(hub: GitHub, user: User) -> None:
    ok(user("push", PLAN, f"hf://{NAME}@9.0.0"))
    ok(user("push", OTHER, f"{NAME}@1.0.0"))
    asked = len(hub.requests)
    assert ok(user("show", NAME, "--json")).json["source"] == {"kind": "local", "name": NAME, "version": "1.0.0"}
    assert user("show", f"{NAME}@9.0.0").code == 1
    assert len(hub.requests) == asked
    assert ok(user("show", f"hf://{NAME}", "--json")).json["source"]["version"] == "9.0.0"


def test_gc_keeps_what_locks_and_refs_name(tmp_path: Path, hub: GitHub, user: User) -> None:
    ok(user("push", PLAN, f"hf://{NAME}@1.0.0"))
    ok(user("lock", f"hf://{NAME}"))
    ok(user("push", OTHER, f"hf://{NAME}@1.1.0"))
    ok(user("show", f"hf://{NAME}"))
    first = ok(user("gc", "--lock", "flashrl.lock", "--dry-run", "--json")).json
    ok(user("gc", "--lock", "flashrl.lock"))
    ok(user("show", "flashrl.lock", HF_HUB_OFFLINE="1"))
    assert ok(user("gc", "--lock", "flashrl.lock", "--json")).json["freed"] == []
    assert first["dry_run"] is True
    assert ok(user("gc", "--all", "--json")).json["num_bytes"] > 0
    assert user("show", "flashrl.lock", HF_HUB_OFFLINE="1").code == 1


def test_gc_knows_the_locks_that_were_written_or_pulled_here(tmp_path: Path, user: User) -> None:
    ok(user("push", PLAN, f"hf://{NAME}@1.0.0"))
    ok(user("channel", "set", f"hf://{NAME}", "stable", "1.0.0"))
    ok(user("lock", f"hf://{NAME}@main", "-o", "jobs/plans.lock"))
    (tmp_path / "two").mkdir()
    shutil.copy(tmp_path / "one" / "jobs" / "plans.lock", tmp_path / "two" / "copy.lock")
    (tmp_path / "three").mkdir()
    shutil.copy(tmp_path / "one" / "jobs" / "plans.lock", tmp_path / "three" / "copy.lock")
    ok(user("pull", "copy.lock", machine="two"))
    ok(user("pull", f"copy.lock#hf://{NAME}@main", machine="three"))
    ok(user("push", OTHER, f"hf://{NAME}@1.1.0"))
    for machine, lock in (("one", "jobs/plans.lock"), ("two", "copy.lock"), ("three", "copy.lock")):
        ok(user("pull", f"hf://{NAME}", machine=machine))  # no branch and no tag names the locked commit any more
        ok(user("gc", machine=machine))
        ok(user("show", lock, machine=machine, HF_HUB_OFFLINE="1"))
        (tmp_path / machine / lock).rename(tmp_path / machine / "moved.lock")
        assert len(ok(user("gc", "--json", machine=machine)).json["freed"]) == 1
        assert user("show", "moved.lock", machine=machine, HF_HUB_OFFLINE="1").code == 1


def test_verify_reads_every_version_on_a_hub_and_names_the_one_whose_tag_was_moved(hub: GitHub, user: User) -> None:
    for version, plan in (("1.0.0", PLAN), ("1.1.0", OTHER), ("1.2.0", PLAN)):
        ok(user("push", plan, f"hf://{NAME}@{version}"))
    assert [plan["ref"] for plan in ok(user("verify", "--store", "hub", "--json")).json["plans"]] == [
        f"{NAME}@{version}" for version in ("1.0.0", "1.1.0", "1.2.0")
    ]
    hub.git(NAME, "update-ref", "refs/tags/v1.1.0", hub.commit_of(NAME, "v1.0.0"))
    found = user("verify", "--store", "hub", "--json")
    assert (found.code, found.json["sound"]) == (1, 2)
    assert [(plan["ref"], plan["code"]) for plan in found.json["damaged"]] == [(f"{NAME}@1.1.0", "integrity")]


def test_hub_listings_show_the_version_that_the_name_means_and_its_state(hub: GitHub, user: User) -> None:
    def shown() -> list[tuple[str, str, str]]:
        listed = ok(user("list", "--store", "hub", "--json")).json["plans"]
        assert ok(user("search", "--store", "hub", "--json")).json["plans"] == listed
        return [(plan["ref"], plan["digest"], plan["state"]) for plan in listed]

    ok(user("push", PLAN, f"hf://{NAME}@2.0.0"))
    ok(user("push", OTHER, f"hf://{NAME}@1.0.1"))  # an older line gets a correction
    assert shown() == [(f"{NAME}@2.0.0", digest_of(PLAN), "")]
    assert "are those of 1.0.1" in hub.read(NAME, "main", "README.md").decode()
    ok(user("channel", "set", f"hf://{NAME}", "stable", "2.0.0"))
    ok(user("deprecate", f"hf://{NAME}@2.0.0", "--reason", "clips the head"))
    assert shown() == [(f"{NAME}@2.0.0", digest_of(PLAN), "stable deprecated")]
    ok(user("channel", "set", f"hf://{NAME}", "stable", "1.0.1"))
    ok(user("yank", f"hf://{NAME}@2.0.0", "--reason", "wrong logprobs"))
    assert shown() == [(f"{NAME}@1.0.1", digest_of(OTHER), "stable")]
    assert ok(user("show", f"hf://{NAME}", "--json")).json["digest"] == digest_of(OTHER)


def test_a_hub_is_searched_in_any_case_as_a_folder_is(user: User) -> None:
    ok(user("push", PLAN, f"hf://{NAME}@1.0.0"))
    ok(user("push", PLAN, f"{NAME}@1.0.0"))
    for asked in (
        ("--arch", "llamaforcausallm"),
        ("--model", "huggingfacetb/smollm2-135m-instruct"),
        ("--model", "smollm2-135M-Instruct"),
        ("SMOLLM2",),
    ):
        for store in ("hub", "local"):
            found = ok(user("search", *asked, "--store", store, "--json")).json["plans"]
            assert [plan["ref"] for plan in found] == [f"{NAME}@1.0.0"], (asked, store)


def test_a_moved_tag_is_noticed_whichever_way_its_version_is_written(hub: GitHub, user: User) -> None:
    ok(user("push", PLAN, f"hf://{NAME}@1.0.0"))
    ok(user("push", OTHER, f"hf://{NAME}@2.0.0"))
    assert ok(user("show", f"hf://{NAME}@v1.0.0", "--json")).json["source"]["version"] == "1.0.0"
    hub.git(NAME, "update-ref", "refs/tags/v1.0.0", hub.commit_of(NAME, "v2.0.0"))
    for wanted in ("1.0.0", "v1.0.0"):
        assert user("show", f"hf://{NAME}@{wanted}", "--json").json["error"]["code"] == "integrity", wanted


def test_the_same_proposal_twice_opens_one_pull_request(hub: GitHub, user: User) -> None:
    ok(user("push", PLAN, f"hf://{NAME}@1.0.0"))
    bob = {"HF_TOKEN": TOKEN + "b", "machine": "bob"}
    for said in ("proposed at", "proposed already, at refs/pr/1"):
        ran = ok(user("push", OTHER, f"hf://{NAME}@1.1.0", "--pr", **bob))
        assert said in ran.err
        assert list(hub.refs(NAME, "refs/pr/")) == ["1"]
    ok(user("push", OTHER, f"hf://{NAME}@1.2.0", "--pr", **bob))
    hub.closed.add(f"{NAME}#1")
    ok(user("push", OTHER, f"hf://{NAME}@1.1.0", "--pr", **bob))
    assert list(hub.refs(NAME, "refs/pr/")) == ["1", "2", "3"], "one that was closed may be proposed again"


def test_without_a_token_nothing_is_tried_and_the_hint_says_how_to_log_in(hub: GitHub, user: User) -> None:
    ok(user("push", PLAN, f"hf://{NAME}@1.0.0"))
    hub.requests.clear()
    refused = [
        user("push", OTHER, f"hf://{NAME}@1.1.0", "--json", HF_TOKEN=""),
        user("channel", "set", f"hf://{NAME}", "stable", "1.0.0", "--json", HF_TOKEN=""),
    ]
    for ran in refused:
        assert ran.json["error"]["code"] == "access-denied"
        assert "hf auth login" in ran.json["error"]["hint"]
    assert not [request for request in hub.requests if request.method == "POST"]


def test_a_reader_who_is_refused_is_told_to_read_and_not_to_write(hub: GitHub, user: User) -> None:
    ok(user("push", PLAN, f"hf://{NAME}@1.0.0"))
    refused = user("show", f"hf://{NAME}", "--json", HF_TOKEN="hf_wrong", machine="two").json["error"]
    assert refused["code"] == "access-denied"
    assert "may read" in refused["hint"]
    assert "--pr" not in refused["hint"]


def test_a_copy_of_a_repository_under_another_name_is_not_that_plan(hub: GitHub, user: User) -> None:
    ok(user("push", PLAN, f"hf://{NAME}@1.0.0"))
    shutil.copytree(hub.git_dir(NAME), hub.git_dir("bob/smol-int8"))
    refused = user("show", "hf://bob/smol-int8@1.0.0", "--json").json["error"]
    assert (refused["code"], refused["context"]["actual"]) == ("integrity", NAME)
    assert f"take {NAME}" in refused["hint"]


def test_a_password_in_the_hubs_address_is_refused_and_never_printed(tmp_path: Path, hub: GitHub, user: User) -> None:
    address = hub.endpoint.replace("http://", "http://ann:s3cret@")
    for arguments in (("show", f"hf://{NAME}"), ("push", PLAN, f"hf://{NAME}@1.0.0")):
        refused = user(*arguments, HF_ENDPOINT=address)
        assert refused.code == 1
        assert "without credentials" in refused.err
        assert "s3cret" not in refused.err + refused.out
    assert not [path for path in tmp_path.rglob("*") if "s3cret" in path.name]


def test_a_damaged_cache_says_which_file_and_what_to_do(tmp_path: Path, user: User) -> None:
    ok(user("push", PLAN, f"hf://{NAME}@1.0.0"))
    ok(user("pull", f"hf://{NAME}", machine="two"))
    cache = tmp_path / "two" / "registry" / ".cache"
    manifest = next(cache.rglob("manifest.json")).resolve()
    manifest.write_text("{")
    damaged = user("show", f"hf://{NAME}", "--json", machine="two").json["error"]
    assert damaged["code"] == "integrity"
    assert "gc --all" in damaged["hint"]
    memory = next(cache.rglob("refs/team--smol-int8.json"))
    memory.write_text('{"branches": 3}')
    refused = user("gc", "--json", machine="two")
    assert (refused.code, refused.json["error"]["code"]) == (1, "integrity")
    assert refused.json["error"]["context"]["file"] == str(memory)
    ok(user("gc", "--all", machine="two"))
    ok(user("show", f"hf://{NAME}", machine="two"))


def test_hub_pages_and_wrong_tokens(hub: GitHub, user: User) -> None:
    for number in range(5):
        ok(user("push", OTHER, f"hf://team/plan-{number}@1.0.0"))
    assert len(ok(user("list", "--store", "hub", "--json")).json["plans"]) == 5
    assert len(ok(user("list", "--store", "hub", "--author", "team", "--json")).json["plans"]) == 5
    refused = user("push", OTHER, "hf://team/other@1.0.0", "--json", HF_TOKEN="hf_wrong")
    assert refused.json["error"]["code"] == "access-denied"
    assert "hf_wrong" not in json.dumps(refused.json)


def test_a_hybrid_is_published_with_its_plans_and_each_of_them_has_a_name(
    tmp_path: Path, hub: GitHub, user: User
) -> None:
    job = tmp_path / "job"
    job.mkdir()
    for plan in (EXAMPLES / "int8", EXAMPLES / "int8_edges_bf16"):
        shutil.copytree(plan, job / plan.name)
    members = "- {name: eight, plan: ./int8, weight: 3}\n- {name: full, plan: ./int8_edges_bf16}\n"
    (job / "hybrid.yaml").write_text(f"schema_version: flashrl.hybrid/v1\nmembers:\n{members}")
    assert "would publish" in ok(user("push", job, "hf://team/mix@1.0.0", "--dry-run")).out
    digest = ok(user("push", job, "hf://team/mix@1.0.0", "--json")).json["digest"]
    ok(user("channel", "set", "hf://team/mix", "stable", "1.0.0"))
    page = hub.read("team/mix", "main", "README.md").decode()
    assert "`hf://team/mix:MEMBER` is one of them" in page
    assert "| `stable` | 1.0.0 |" in page
    found = ok(user("search", "--scheme", "int8", "--store", "hub", "--json")).json["plans"]
    assert [(plan["name"], plan["digest"], plan["schemes"]) for plan in found] == [
        ("team/mix", digest, ["bf16", "int8"])
    ]

    hub.requests.clear()
    eight = ok(user("show", "team/mix@stable:eight", "--json", machine="two")).json
    assert (eight["digest"], eight["source"]["member"]) == (digest_of(EXAMPLES / "int8"), "eight")
    assert not [request for request in hub.requests if "/full/" in request.path], "only the member's files are fetched"
    refused = user("show", "team/mix@stable", "--json", machine="two").json["error"]
    assert "team/mix@stable:eight, team/mix@stable:full" in refused["hint"]
    nearest = user("show", "team/mix@stable:eigth", "--json", machine="two").json["error"]
    assert nearest["context"]["nearest"] == ["eight", "full"]

    ok(user("lock", "team/mix@stable", "team/mix:full", machine="two"))
    ok(user("lock", "--check", machine="two"))
    ok(user("pull", "flashrl.lock", machine="two"))
    offline = ok(user("show", "flashrl.lock#team/mix:full", "--json", machine="two", HF_HUB_OFFLINE="1")).json
    assert offline["digest"] == digest_of(EXAMPLES / "int8_edges_bf16")
    ok(user("pull", "team/mix@stable", "-o", "copy", machine="two"))
    assert "published already" in ok(user("push", tmp_path / "two" / "copy", "hf://team/mix@1.0.0")).out
    taken = user("push", PLAN, "hf://team/mix@1.0.0", "--json").json["error"]
    assert (taken["code"], taken["context"]["theirs"]) == ("already-published", ["whether it is a hybrid"])


def digest_of(folder: Path) -> str:
    digest = read_bundle(folder).plan.digest
    assert digest is not None
    return digest
