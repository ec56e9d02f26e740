"""``flashrl-registry migrate`` on today's documents, and on a major that is retired for the test."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from flashrl_registry.documents import KINDS, Rules
from flashrl_registry.documents import migrations as table
from flashrl_registry.documents.migrations import Step
from flashrl_registry.documents.migrations import files as on_disk
from flashrl_registry.registry import PlanBundle
from flashrl_registry.registry import migrate as search

Command = Callable[..., Any]
OLD = "# mine\nschema_version: flashrl.rules/v1\nrules:  # all\n- {name: all, scheme: bf16, targets: ['*']}\n"


class NextRules(Rules):
    """Rules of a later release, in which descriptions are called titles."""

    MAJOR: ClassVar[int] = 2

    schema_version: Literal["flashrl.rules/v2"] = "flashrl.rules/v2"  # type: ignore[assignment]
    title: str


@pytest.fixture
def retired(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules v1 is a major of the past."""
    steps = (Step("rules", 1, "rules have a title", lambda data: {**data, "title": "untitled"}),)
    models = {**KINDS, "rules": NextRules}
    monkeypatch.setattr(search, "plan_migration", lambda path: on_disk.plan_migration(path, models, steps))
    assert table.STEPS == ()


def test_todays_documents_are_current(cli: Command, bundle: PlanBundle) -> None:
    for options in ([], ["--check"]):
        ran = cli("migrate", bundle.origin, *options)
        assert (ran.code, ran.err) == (0, "")
        assert f"{bundle.origin}/plan.yaml: plan is already v1" in ran.out
        assert ran.out.splitlines()[-1].endswith("3 already current, 0 unreadable")


@pytest.mark.usefixtures("retired")
def test_check_fails_and_writes_nothing(cli: Command, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(OLD)
    ran = cli("migrate", "--check", file)
    assert (ran.code, file.read_text()) == (1, OLD)
    assert ran.out.splitlines() == [
        f"{file}: rules v1 -> v2",
        "  rules have a title",
        "  comments below the first key are not kept",
        "1 to migrate, 0 already current, 0 unreadable",
    ]
    data = cli("migrate", "--check", file, "--json").json
    assert (data["ok"], data["files"][0]["written"], data["files"][0]["steps"]) == (
        False,
        False,
        ["rules have a title"],
    )


@pytest.mark.usefixtures("retired")
def test_a_file_is_rewritten_and_then_current(cli: Command, tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(OLD)
    assert cli("migrate", tmp_path).out.splitlines()[-1] == "1 migrated, 0 already current, 0 unreadable"
    assert file.read_text().splitlines()[1:3] == ["# mine", "schema_version: flashrl.rules/v2"]
    assert "title: untitled" in file.read_text()
    assert "rules is already v2" in cli("migrate", "--check", file).out


@pytest.mark.usefixtures("retired")
def test_nothing_is_written_where_one_file_cannot_be_read(cli: Command, tmp_path: Path) -> None:
    file, bad = tmp_path / "rules.yaml", tmp_path / "bad.yaml"
    file.write_text(OLD)
    bad.write_text("schema_version: flashrl.rules/v1\na: [\n")
    ran = cli("migrate", file, bad)
    assert (ran.code, file.read_text()) == (1, OLD)
    assert f"{bad}:3:1: not YAML" in ran.err
    assert ran.out.splitlines()[-1] == "1 to migrate, 0 already current, 1 unreadable"


def test_files_of_others_are_counted(cli: Command, bundle: PlanBundle) -> None:
    other = Path(bundle.origin) / "values.yaml"
    other.write_text("replicas: 2\n")
    assert cli("validate", bundle.origin).out.endswith(f"3 valid, 0 invalid; 1 other file, not ours: {other}\n")
    assert cli("migrate", bundle.origin).out.endswith(
        f"3 already current, 0 unreadable; 1 other file, not ours: {other}\n"
    )
    for command in ("validate", "migrate"):
        assert cli(command, bundle.origin, "--json").json["not_ours"] == [str(other)]


def test_of_many_files_of_others_the_first_are_named(cli: Command, bundle: PlanBundle) -> None:
    for number in range(7):
        (Path(bundle.origin) / f"values{number}.yaml").write_text("rules: [\n")
    ran = cli("validate", bundle.origin)
    assert "; 7 other files, not ours: " in ran.out
    assert ran.out.endswith("values4.yaml and 2 more\n")


def test_the_same_fault_of_two_files_is_said_of_both(cli: Command, bundle: PlanBundle) -> None:
    sidecar = bundle.sidecar
    assert sidecar is not None
    sidecar.unlink()
    ran = cli("validate", bundle.origin)
    assert ran.out.endswith("1 valid, 2 invalid\n")
    assert sum(str(sidecar) in line for line in ran.err.splitlines()) == 2
    for name in ("plan.yaml", "profile.yaml"):
        assert f"{bundle.origin}/{name}: the profile's vectors are missing: {sidecar}" in ran.err


def test_a_folder_without_documents_is_an_error(cli: Command, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    (empty / "sub").mkdir(parents=True)
    (empty / "values.yaml").write_text("replicas: 2\n")
    for command in ("validate", "migrate"):
        ran = cli(command, empty)
        assert ran.code == 1
        assert f"no documents found in {empty}" in ran.err
        assert cli(command, empty, "--json").json["ok"] is False
