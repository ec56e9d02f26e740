"""The registry's verbs on the local registry, without a network."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flashrl_registry.registry import PlanBundle

Command = Callable[..., Any]
NAME = "team/toy"


@pytest.fixture
def published(cli: Command, bundle: PlanBundle, other_bundle: PlanBundle) -> Command:
    """Two versions; stable is at the first."""
    assert cli("push", bundle.origin, f"{NAME}@1.0.0").code == 0
    assert cli("push", other_bundle.origin, f"{NAME}@2.0.0").code == 0
    assert cli("channel", "set", NAME, "stable", "1.0.0").code == 0
    return cli


def test_a_dry_run_says_what_would_change_and_changes_nothing(published: Command, bundle: PlanBundle) -> None:
    new = published("push", bundle.origin, f"{NAME}@1.5.0", "--dry-run", "--json").json
    assert (new["state"], new["base"]) == ("new", "2.0.0")
    assert new["changes"]
    assert published("push", bundle.origin, f"{NAME}@1.0.0", "--dry-run", "--json").json["state"] == "same"
    taken = published("push", bundle.origin, f"{NAME}@2.0.0", "--dry-run", "--json")
    assert (taken.code, taken.json["state"]) == (1, "taken")
    assert [v["version"] for v in published("versions", NAME, "--json").json["versions"]] == ["1.0.0", "2.0.0"]


def test_channels_are_listed_moved_and_remembered(published: Command) -> None:
    assert published("channel", "list", NAME, "--json").json["channels"] == {"stable": "1.0.0"}
    assert published("channel", "set", NAME, "stable", "2.0.0", "--from", "2.0.0").code == 1
    assert (
        published("channel", "set", NAME, "stable", "2.0.0", "--from", "1.0.0").out
        == f"{NAME}@stable: 1.0.0 -> 2.0.0\n"
    )
    assert len(published("channel", "history", NAME, "--json").json["events"]) == 2
    assert published("channel", "set", NAME, "stable").code == 2


def test_search_finds_by_what_a_plan_is_for(published: Command) -> None:
    def found(*arguments: str) -> list[str]:
        return [plan["ref"] for plan in published("search", *arguments, "--store", "local", "--json").json["plans"]]

    both = [f"{NAME}@1.0.0", f"{NAME}@2.0.0"]
    assert found() == both
    assert found("--scheme", "int8") == both[:1]
    assert found("toy", "--arch", "llamaforcausallm", "--vllm", "0.32.0") == both
    assert found("--vllm", "0.1.0") == found("--model", "other/model") == []
    assert published("search", "--vllm", "new").code == 1


def test_a_bundled_plan_has_a_short_name(cli: Command) -> None:
    ran = cli("show", "Qwen/Qwen2.5-0.5B-Instruct:int8", "--json")
    assert ran.json["source"] == {"kind": "bundled", "name": "Qwen/Qwen2.5-0.5B-Instruct/int8"}
    typo = cli("show", "Qwen/Qwen2.5-0.5B-Instruct:int9", "--json")
    assert "did you mean 'int8'" in typo.json["error"]["message"]
    assert "none of them is named" in cli("show", "Qwen/Qwen2.5-0.5B-Instruct").err


def test_lock_and_check_notice_what_moved(published: Command, tmp_path: Path) -> None:
    lock = tmp_path / "job" / "flashrl.lock"
    lock.parent.mkdir()
    assert published("lock", f"{NAME}@stable", "Qwen/Qwen2.5-0.5B-Instruct:int8", "-o", lock).code == 0
    assert published("lock", "--check", "-o", lock).code == 0
    before = published("show", f"{lock}#{NAME}@stable", "--json").json["digest"]
    published("channel", "set", NAME, "stable", "2.0.0")
    checked = published("lock", "--check", "-o", lock, "--json")
    assert checked.code == 1
    assert [entry["same"] for entry in checked.json["entries"]] == [True, False]
    assert published("show", f"{lock}#{NAME}@stable", "--json").json["digest"] == before
    assert published("lock", "-o", lock).code == 0
    assert published("lock", "--check", "-o", lock).code == 0
    assert published("lock", "int8", "-o", lock).code == 1, "a scheme name means another plan for every model"


def test_a_lock_has_a_name_by_which_pull_takes_it_for_one(published: Command, tmp_path: Path) -> None:
    refused = published("lock", f"{NAME}@1.0.0", "-o", tmp_path / "plans.txt")
    assert (refused.code, (tmp_path / "plans.txt").exists()) == (1, False)
    assert "plans.txt.lock" in refused.err
    for name in ("plans.lock", "plans.json", "plans.yaml"):
        assert published("lock", f"{NAME}@1.0.0", "-o", tmp_path / "new" / name).code == 0
        assert published("pull", tmp_path / "new" / name).code == 0


def test_pull_replaces_what_was_published_and_never_what_was_changed_by_hand(
    published: Command, other_bundle: PlanBundle, tmp_path: Path
) -> None:
    copy, plan = tmp_path / "copy", tmp_path / "copy" / "plan.yaml"
    for ref in (f"{NAME}@2.0.0", f"{NAME}@2.0.0", f"{NAME}@stable", f"{NAME}@1.0.0"):
        assert published("pull", ref, "-o", copy).code == 0, "as published, so nothing is lost"
    mine = plan.read_text().replace("flashrl.plan/v1", "flashrl.plan/v1\nx-mine: keep this", 1)
    plan.write_text(mine)
    for ref in (f"{NAME}@1.0.0", f"{NAME}@stable"):
        refused = published("pull", ref, "-o", copy, "--json")
        assert (refused.code, plan.read_text()) == (1, mine)
        assert "plan.yaml" in refused.json["error"]["context"]["files"]
        assert "--force" in refused.json["error"]["hint"]
    assert published("pull", f"{NAME}@1.0.0", "-o", copy, "--force").code == 0
    assert "x-mine" not in plan.read_text()
    unpublished = Path(other_bundle.origin)
    assert published("pull", f"{NAME}@1.0.0", "-o", unpublished).code == 0, "it was published as 2.0.0"


def test_pull_does_not_replace_a_plan_that_nobody_published(
    cli: Command, bundle: PlanBundle, other_bundle: PlanBundle
) -> None:
    assert cli("push", bundle.origin, f"{NAME}@1.0.0").code == 0
    before = (Path(other_bundle.origin) / "plan.yaml").read_bytes()
    refused = cli("pull", NAME, "-o", other_bundle.origin)
    assert "none that was published under this name, so it is not replaced" in refused.err
    assert (Path(other_bundle.origin) / "plan.yaml").read_bytes() == before


def test_withdrawn_is_skipped_shown_and_taken_back(published: Command) -> None:
    assert published("yank", f"{NAME}@1.0.0", "--reason", "x").code == 1, "stable points at it"
    assert published("yank", f"{NAME}@2.0.0", "--reason", "wrong logprobs", "--use", "1.0.0").code == 0
    assert published("show", NAME, "--json").json["source"]["version"] == "1.0.0"
    exact = published("show", f"{NAME}@2.0.0")
    assert "wrong logprobs; use 1.0.0" in exact.err
    assert [plan["state"] for plan in published("list", "--json").json["plans"]] == ["stable", "yanked"]
    assert published("restore", f"{NAME}@2.0.0", "--reason", "it was the driver").code == 0
    assert published("show", NAME).err == ""


def test_a_channel_is_not_moved_to_what_was_withdrawn_and_the_hint_names_the_others(published: Command) -> None:
    assert published("yank", f"{NAME}@2.0.0", "--reason", "wrong").code == 0
    assert published("channel", "set", NAME, "next", "2.0.0").err.endswith("hint: choose one of 1.0.0\n")


def test_verify_hashes_everything_again(published: Command, registry: Path) -> None:
    assert published("verify", "--json").json["sound"] == 2
    file = registry / NAME / "2.0.0" / "plan.yaml"
    file.chmod(0o644)
    file.write_text(file.read_text() + "# changed\n")
    ran = published("verify", "--json")
    assert (ran.code, ran.json["sound"], ran.json["damaged"][0]["code"]) == (1, 1, "integrity")


def test_verify_says_which_channel_leads_to_a_version_that_was_removed(published: Command, registry: Path) -> None:
    shutil.rmtree(registry / NAME / "1.0.0")
    ran = published("verify")
    assert ran.code == 1
    assert "1 of 1 versions" in ran.out
    assert ran.err.count("error:") == 1
    assert f"{NAME}@stable" in ran.err
    assert "points at 1.0.0, which is not there" in ran.err
    assert f"flashrl-registry channel set {NAME} stable VERSION" in ran.err
    shutil.rmtree(registry / NAME / "2.0.0")
    ran = published("verify", "--json")
    assert (ran.code, ran.json["sound"], ran.json["plans"]) == (1, 0, [])
    assert [damaged["ref"] for damaged in ran.json["damaged"]] == [f"{NAME}@stable"]


def test_a_shared_store_that_does_not_answer_keeps_nobody_from_the_others(
    published: Command, bundle: PlanBundle, tmp_path: Path, monkeypatch: Any
) -> None:
    good = f"file://{tmp_path}/good"
    assert published("push", bundle.origin, f"team/shared@1.0.0{'?store=' + good}").code == 0
    (tmp_path / "broken").write_text("no folder")
    for broken, code in ((f"file://{tmp_path}/broken/plans", "store-unavailable"), ("nonsense", "invalid-ref")):
        monkeypatch.setenv("FLASHRL_STORES", f"{broken},{good}")
        ran = published("search", "--scheme", "int8", "team")
        assert ran.code == 1
        assert [line.partition(" ")[0] for line in ran.out.splitlines()[1:]] == [f"{NAME}@1.0.0", "team/shared@1.0.0"]
        assert ran.err.startswith("error:")
        assert broken in ran.err
        as_json = published("search", "--scheme", "int8", "team", "--json")
        assert (as_json.code, as_json.json["ok"]) == (1, False)
        assert [plan["ref"] for plan in as_json.json["plans"]] == [f"{NAME}@1.0.0", "team/shared@1.0.0"]
        assert [damaged["code"] for damaged in as_json.json["damaged"]] == [code]
        nothing = published("search", "no such plan")
        assert (nothing.code, nothing.out) == (1, ""), "a store that did not answer may have it"
        assert published("list").code == 0, "it lists the local registry"
        assert published("search", "--store", "local").code == 0
    alone = published("search", "--store", f"file://{tmp_path}/broken/plans", "--json")
    assert (alone.code, alone.json["error"]["code"]) == (1, "store-unavailable")


def test_a_shared_store_has_the_same_verbs(cli: Command, bundle: PlanBundle, tmp_path: Path, monkeypatch: Any) -> None:
    shared = f"file://{tmp_path}/shared"
    assert cli("push", bundle.origin, f"{NAME}@1.0.0", "--store", shared).code == 0
    assert cli("channel", "set", NAME, "stable", "1.0.0", "--store", shared).code == 0
    monkeypatch.setenv("FLASHRL_STORES", shared)
    shown = cli("show", f"{NAME}@stable", "--json").json
    assert shown["source"] == {"kind": "url", "url": shared, "name": NAME, "version": "1.0.0"}
    assert cli("verify", "--store", shared).code == 0
    assert cli("lock", f"{NAME}@stable", "-o", tmp_path / "a.lock").code == 0
    monkeypatch.delenv("FLASHRL_STORES")
    assert cli("show", tmp_path / "a.lock").code == 0, "a lock names the store"
    assert cli("list", "--store", "nowhere").code == 1


def test_every_verb_takes_the_store_that_a_reference_names(
    cli: Command, bundle: PlanBundle, other_bundle: PlanBundle, tmp_path: Path
) -> None:
    shared = f"file://{tmp_path}/shared"
    here = f"?store={shared}"
    assert cli("push", bundle.origin, f"{NAME}@1.0.0{here}").code == 0
    assert cli("push", other_bundle.origin, f"{NAME}@2.0.0{here}", "--store", shared).code == 0
    assert cli("channel", "set", f"{NAME}{here}", "stable", "1.0.0").code == 0
    assert cli("deprecate", f"{NAME}@1.0.0{here}", "--reason", "old", "--use", "2.0.0").code == 0
    refused = cli("yank", f"{NAME}@1.0.0{here}", "--reason", "wrong", "--json")
    assert refused.json["error"]["context"]["channels"] == ["stable"]
    hint = refused.json["error"]["hint"].replace("VERSION", "2.0.0").removeprefix("first: flashrl-registry ")
    assert cli(*hint.split()).code == 0, hint
    assert cli("yank", f"{NAME}@1.0.0{here}", "--reason", "wrong").code == 0
    states = [line["state"] for line in cli("versions", f"{NAME}{here}", "--json").json["versions"]]
    assert states == [["yanked"], ["stable"]]
    assert not (tmp_path / "registry" / NAME).exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("team/toy@1.0.0?store=s3://a/b", "--store", "s3://c/d"), "names another store than --store s3://c/d"),
        (("hf://team/toy@1.0.0", "--store", "local"), "is on a Hub, and local is none"),
        (("team/toy@1.0.0?store=https://hub.example",), "team/toy@1.0.0 --store https://hub.example"),
        (("team/toy?store=s3://a/b",), "write team/toy@1.0.0?store=s3://a/b"),
        (("team/toy",), "write team/toy@1.0.0"),
    ],
)
def test_a_store_that_cannot_be_meant_is_wrong_usage_and_says_what_to_write(
    published: Command, bundle: PlanBundle, arguments: tuple[str, ...], says: str
) -> None:
    for command in (("deprecate", "--reason", "old"), ("push", bundle.origin)):
        ran = published(*command, *arguments)
        assert ran.code == 2
        assert says in " ".join(ran.err.split())


@pytest.mark.parametrize("address", ["", "local", "s3:/bucket", "/mnt/plans", "file:///my plans", "https://ann:pw@hub"])
def test_a_store_whose_address_is_none_is_refused_by_every_verb_and_nothing_is_written(
    published: Command, bundle: PlanBundle, address: str, registry: Path
) -> None:
    before = sorted(registry.rglob("*"))
    there = f"{NAME}@1.0.0?store={address}"
    for command in (("show",), ("push", bundle.origin), ("deprecate", "--reason", "old"), ("yank", "--reason", "old")):
        ran = published(*command, there, "--json")
        assert (ran.code, ran.json["error"]["code"]) == (1, "invalid-ref"), command
    assert published("push", bundle.origin, "team/oops@1.0.0?store=").code == 1, "as a shell writes ?store=$UNSET"
    assert sorted(registry.rglob("*")) == before


def test_a_slash_at_the_end_of_an_address_names_no_other_store(
    cli: Command, bundle: PlanBundle, tmp_path: Path
) -> None:
    shared = f"file://{tmp_path}/shared"
    assert cli("push", bundle.origin, f"{NAME}@1.0.0?store={shared}", "--store", f"{shared}/").code == 0
    assert cli("channel", "set", f"{NAME}?store={shared}/", "stable", "1.0.0", "--store", shared).code == 0
    hub = cli("versions", f"{NAME}?store=http://127.0.0.1:9", "--store", "http://127.0.0.1:9/", "--json")
    assert hub.json["error"]["code"] == "store-unavailable", "nobody is there, but it is one Hub"


@pytest.mark.parametrize(
    ("address", "hint"),
    [
        ("file:/work/plans", "write file:///work/plans for the folder"),
        ("/work/plans", "write file:///work/plans for the folder"),
        ("bucket/plans", "SCHEME://PLACE"),
        ("nowhere", "write local, bundled, hub"),
        ("file:///my plans", "another name, or a link"),
        ("s3://", "SCHEME://PLACE"),
    ],
)
def test_an_address_that_is_none_says_what_to_write(cli: Command, address: str, hint: str, monkeypatch: Any) -> None:
    assert hint in cli("list", "--store", address).err
    if address != "nowhere":
        monkeypatch.setenv("FLASHRL_STORES", address)
        assert hint in cli("search", "x").err


def test_a_wrong_address_of_a_shared_store_stops_nothing_that_asks_no_store(
    cli: Command, bundle: PlanBundle, monkeypatch: Any
) -> None:
    monkeypatch.setenv("FLASHRL_STORES", "/mnt/plans")
    assert cli("show", bundle.origin).code == 0
    assert "is no store's address" in cli("show", NAME).err, "it could have the name"


def test_what_is_on_a_hub_is_not_looked_for_elsewhere(published: Command) -> None:
    assert published("versions", f"hf://{NAME}", "--store", "local").code == 2
    assert published("sign", f"{NAME}@1.0.0?store=s3://a/b", "--signing-key", "k.pem", "--store", "local").code in {
        1,
        2,
    }
