"""``pull -o`` into a folder that holds a plan: what the store has still is replaced wholly, and nothing else is."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flashrl_registry.registry import PlanBundle, read_bundle
from flashrl_registry.registry.hybrids import read_any_bundle

Command = Callable[..., Any]
NAME = "team/toy"


@pytest.fixture(params=["local", "shared"])
def there(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options that publish in a store which ``pull`` asks."""
    if request.param == "local":
        return []
    monkeypatch.setenv("FLASHRL_STORES", f"file://{tmp_path}/shared")
    return ["--store", f"file://{tmp_path}/shared"]


@pytest.fixture
def published(cli: Command, bundle: PlanBundle, other_bundle: PlanBundle, there: list[str]) -> Command:
    """Version 1.0.0 with a profile, 2.0.0 without one."""
    assert cli("push", bundle.origin, f"{NAME}@1.0.0", *there).code == 0
    assert cli("push", other_bundle.origin, f"{NAME}@2.0.0", *there).code == 0
    return cli


def names(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize("options", [(), ("--force",)])
def test_a_version_with_a_profile_is_replaced_by_one_without_and_back(
    published: Command, bundle: PlanBundle, tmp_path: Path, options: tuple[str, ...]
) -> None:
    copy = tmp_path / "copy"
    assert published("pull", f"{NAME}@1.0.0", "-o", copy).code == 0
    (copy / "notes.txt").write_text("mine")
    with_profile = names(copy)
    assert published("pull", f"{NAME}@2.0.0", "-o", copy, *options).code == 0
    assert names(copy) == ["notes.txt", "plan.json", "plan.yaml"]
    assert published("pull", f"{NAME}@1.0.0", "-o", copy, *options).code == 0
    assert names(copy) == with_profile
    assert read_bundle(copy).digest == bundle.digest


def test_a_profile_that_was_changed_is_not_lost_with_the_plan(published: Command, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    published("pull", f"{NAME}@1.0.0", "-o", copy)
    (copy / "profile.yaml").write_text((copy / "profile.yaml").read_text() + "x-mine: keep this\n")
    refused = published("pull", f"{NAME}@2.0.0", "-o", copy, "--json")
    assert (refused.code, refused.json["error"]["context"]["files"]) == (1, ["profile.yaml"])
    assert published("pull", f"{NAME}@2.0.0", "-o", copy, "--force").code == 0
    assert names(copy) == ["plan.json", "plan.yaml"]


def test_a_profile_that_lies_beside_the_plan_and_is_not_its_own_is_not_lost_either(
    published: Command, bundle: PlanBundle, other_bundle: PlanBundle
) -> None:
    folder = Path(other_bundle.origin)
    shutil.copy(Path(bundle.origin) / "profile.yaml", folder)
    before = names(folder)
    for options in ((), ("--force",)):
        refused = published("pull", f"{NAME}@2.0.0", "-o", folder, *options)
        assert (refused.code, names(folder)) == (1, before)
        assert "it may be the only copy" in refused.err


@pytest.mark.parametrize(("before", "after"), [("1.0.0", "2.0.0"), ("2.0.0", "1.0.0")])
@pytest.mark.parametrize("written", ["plan.json", "profile.yaml"])
def test_a_pull_that_was_killed_in_between_is_finished_by_the_next(
    published: Command, tmp_path: Path, before: str, after: str, written: str
) -> None:
    copy, new = tmp_path / "copy", tmp_path / "new"
    published("pull", f"{NAME}@{before}", "-o", copy)
    published("pull", f"{NAME}@{after}", "-o", new)
    if (new / written).exists():
        shutil.copy(new / written, copy)
    else:
        (copy / "profile.yaml").unlink()
    assert published("pull", f"{NAME}@{after}", "-o", copy).code == 0
    assert [(copy / name).read_bytes() for name in names(copy)] == [(new / name).read_bytes() for name in names(new)]
    shutil.copy(new / "plan.json", copy)
    assert published("pull", f"{NAME}@{before}", "-o", copy).code == 0


def test_only_the_version_that_lies_there_is_fetched_to_compare(
    published: Command, there: list[str], bundle: PlanBundle, tmp_path: Path, registry: Path
) -> None:
    published("pull", f"{NAME}@2.0.0", "-o", tmp_path / "copy")
    shutil.rmtree(registry / ".cache", ignore_errors=True)
    mine = (tmp_path / "copy" / "plan.yaml").read_text().replace("plan/v1", "plan/v1\nx-mine: keep this", 1)
    (tmp_path / "copy" / "plan.yaml").write_text(mine)
    assert published("pull", f"{NAME}@2.0.0", "-o", tmp_path / "copy").code == 1
    cached = [file.name for file in (registry / ".cache" / "versions").rglob("*")] if there else []
    assert bundle.sidecar is not None
    assert bundle.sidecar.name not in cached
    assert "profile.yaml" not in cached


def damage(there: list[str], registry: Path, version: str) -> None:
    """Of a version, the manifest."""
    file = registry / NAME / version / "manifest.json"
    if there:
        file = Path(there[-1].removeprefix("file://")) / "plans" / NAME / "versions" / f"{version}.json"
    file.chmod(0o644)
    file.write_text("{")


def test_a_damaged_version_does_not_hide_another_that_lies_there(
    published: Command, there: list[str], bundle: PlanBundle, tmp_path: Path, registry: Path
) -> None:
    published("pull", f"{NAME}@1.0.0", "-o", tmp_path / "copy")
    assert published("push", bundle.origin, f"{NAME}@3.0.0", *there).code == 0
    damage(there, registry, "3.0.0")
    assert published("pull", f"{NAME}@2.0.0", "-o", tmp_path / "copy").code == 0


def test_a_store_that_cannot_tell_what_was_published_is_the_reason_that_is_given(
    published: Command, there: list[str], tmp_path: Path, registry: Path
) -> None:
    published("pull", f"{NAME}@2.0.0", "-o", tmp_path / "copy")
    damage(there, registry, "2.0.0")
    refused = published("pull", f"{NAME}@1.0.0", "-o", tmp_path / "copy")
    assert refused.code == 1
    assert "what was published cannot be told" in refused.err
    assert "was changed since" not in refused.err
    assert published("pull", f"{NAME}@1.0.0", "-o", tmp_path / "copy", "--force").code == 0


def test_a_member_that_a_hybrid_has_no_more_goes(
    cli: Command, there: list[str], bundle: PlanBundle, other_bundle: PlanBundle, tmp_path: Path
) -> None:
    job, copy = tmp_path / "job", tmp_path / "copy"
    job.mkdir()
    members = ["- {name: eight, plan: ../bundle}\n", "- {name: full, plan: ../other}\n"]
    for version, lines in (("1.0.0", members), ("2.0.0", members[1:])):
        (job / "hybrid.yaml").write_text(f"schema_version: flashrl.hybrid/v1\nmembers:\n{''.join(lines)}")
        assert cli("push", job, f"team/mix@{version}", *there).code == 0
        assert cli("pull", f"team/mix@{version}", "-o", copy).code == 0
    assert names(copy) == ["full/plan.json", "full/plan.yaml", "hybrid.yaml"]
    assert not (copy / "eight").exists()
    assert cli("pull", "team/mix@1.0.0", "-o", copy).code == 0
    (copy / "eight" / "notes.txt").write_text("mine")
    assert cli("pull", "team/mix@2.0.0", "-o", copy).code == 0
    assert names(copy / "eight") == ["notes.txt"]
    assert cli("pull", "team/mix@1.0.0", "-o", copy).code == 0
    (copy / "eight" / "plan.yaml").write_text((copy / "eight" / "plan.yaml").read_text() + "x-mine: keep this\n")
    assert cli("pull", "team/mix@2.0.0", "-o", copy).code == 1
    assert read_any_bundle(copy).digest == cli("pull", "team/mix@1.0.0", "--json").json["digest"]


def test_a_member_over_another_version_of_it(
    cli: Command, there: list[str], bundle: PlanBundle, other_bundle: PlanBundle, tmp_path: Path
) -> None:
    job, copy = tmp_path / "job", tmp_path / "copy"
    job.mkdir()
    for version, plan in (("1.0.0", bundle), ("2.0.0", other_bundle)):
        text = f"schema_version: flashrl.hybrid/v1\nmembers:\n- {{name: one, plan: ../{Path(plan.origin).name}}}\n"
        (job / "hybrid.yaml").write_text(text)
        assert cli("push", job, f"team/mix@{version}", *there).code == 0
    for version, plan in (("1.0.0", bundle), ("2.0.0", other_bundle), ("1.0.0", bundle)):
        assert cli("pull", f"team/mix@{version}:one", "-o", copy).code == 0
        assert read_bundle(copy).digest == plan.digest
