"""What somebody left in a store, or a store that is not there: the rest is told, and nothing is silently left out."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flashrl_registry.registry import PlanBundle

Command = Callable[..., Any]
NAME = "team/toy"


@pytest.fixture
def shared(cli: Command, bundle: PlanBundle, tmp_path: Path) -> Path:
    """A shared store with one version."""
    root = tmp_path / "shared"
    assert cli("push", bundle.origin, f"{NAME}@1.0.0", "--store", f"file://{root}").code == 0, "a push begins a store"
    return root


def removed(cli: Command, bundle: PlanBundle, folder: Path, *store: str) -> Path:
    """A second name, whose only version was removed and whose history is damaged."""
    assert cli("push", bundle.origin, "team/gone@1.0.0", *store).code == 0
    assert cli("channel", "set", "team/gone", "stable", "1.0.0", *store).code == 0
    shutil.rmtree(folder)
    (file,) = folder.parent.rglob("*.json")
    file.write_text("{")
    return file


def test_verify_tells_the_rest_beside_a_damaged_history_without_versions(
    cli: Command, bundle: PlanBundle, registry: Path
) -> None:
    assert cli("push", bundle.origin, f"{NAME}@1.0.0").code == 0
    removed(cli, bundle, registry / "team" / "gone" / "1.0.0")
    ran = cli("verify")
    assert ran.code == 1
    assert ran.out == f"1 of 2 versions in the local registry {registry} are what was published\n"
    assert ran.err.startswith("error: team/gone: ")
    assert ran.err.count("error:") == 1


def test_verify_tells_the_rest_beside_a_link_to_an_empty_folder(
    cli: Command, bundle: PlanBundle, registry: Path, tmp_path: Path
) -> None:
    assert cli("push", bundle.origin, f"{NAME}@1.0.0").code == 0
    (tmp_path / "empty").mkdir()
    (registry / "team" / "link").symlink_to(tmp_path / "empty")
    ran = cli("verify", "--json")
    assert (ran.code, ran.json["sound"], [bad["ref"] for bad in ran.json["damaged"]]) == (1, 1, ["team/link"])


def test_verify_of_a_shared_store_names_each_leftover_once(cli: Command, bundle: PlanBundle, shared: Path) -> None:
    store = f"file://{shared}"
    removed(cli, bundle, shared / "plans" / "team" / "gone" / "versions", "--store", store)
    (shared / "plans" / "team" / "bad name").mkdir()
    (shared / "plans" / "team" / "link").symlink_to(shared)
    ran = cli("verify", "--store", store, "--json")
    assert (ran.code, ran.json["sound"]) == (1, 1)
    assert [bad["ref"] for bad in ran.json["damaged"]] == ["team/bad name", "team/gone", "team/link"]


def test_files_among_the_folders_of_a_shared_store_disturb_nobody(cli: Command, shared: Path) -> None:
    for file in ("README", "team/notes.txt", "team/toy/todo", "team/toy/versions/old.txt"):
        (shared / "plans" / file).write_text("hello")
    store = f"file://{shared}"
    assert cli("verify", "--store", store).code == 0
    assert [plan["ref"] for plan in cli("list", "--store", store, "--json").json["plans"]] == [f"{NAME}@1.0.0"]
    assert "nothing is published as README/x" in cli("versions", "README/x", "--store", store).err


@pytest.mark.parametrize("left", ["nothing", "a file"])
def test_a_share_that_is_not_mounted_is_an_error_and_nobody_else_is_asked_for_its_plans(
    cli: Command, shared: Path, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(shared)
    if left == "a file":
        shared.write_text("")
    monkeypatch.setenv("FLASHRL_STORES", f"file://{shared}")
    for command in (("show", f"{NAME}@1.0.0"), ("list", "--store", f"file://{shared}"), ("versions", NAME)):
        ran = cli(*command, "--json")
        assert (ran.code, ran.json["error"]["code"]) == (1, "store-unavailable"), command
        assert "Hub" not in ran.json["error"]["message"]
        assert "mount it" in ran.json["error"]["hint"]
    found = cli("search", "toy")
    assert (found.code, f"file://{shared}" in found.err) == (1, True)


def test_a_folder_that_was_made_is_an_empty_store(cli: Command, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    ran = cli("list", "--store", f"file://{tmp_path}/new")
    assert (ran.code, ran.out) == (0, f"nothing is published in file://{tmp_path}/new\n")


def test_a_dry_run_for_a_new_store_says_what_the_push_would_do(
    cli: Command, bundle: PlanBundle, tmp_path: Path
) -> None:
    ran = cli("push", bundle.origin, f"{NAME}@1.0.0", "--store", f"file://{tmp_path}/new", "--dry-run")
    assert (ran.code, ran.out.startswith(f"would publish {NAME}@1.0.0")) == (0, True)
    assert not (tmp_path / "new").exists()
