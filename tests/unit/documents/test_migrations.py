"""Migrations: golden files, no gaps, nothing half-written, and the command that people run."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashrl_registry.documents import KINDS, Digest, parse_document
from flashrl_registry.documents._base import Document, Frozen
from flashrl_registry.documents.io import yaml_text
from flashrl_registry.documents.migrations import STEPS, Step, migrate
from flashrl_registry.documents.migrations.files import Migration, plan_migration, write_migration
from flashrl_registry.errors import IntegrityError, ParseError, SchemaError, SchemaVersionError

GOLDEN = Path(__file__).parents[2] / "data" / "migrations"


class Entry(Frozen):
    """Of the third major."""

    scheme: Literal["int8", "fp8"]
    targets: list[str]


class Specimen(Document):
    """A kind that only these tests have; majors 1 and 2 are retired."""

    KIND: ClassVar[str] = "specimen"
    MAJOR: ClassVar[int] = 3

    schema_version: Literal["flashrl.specimen/v3"] = "flashrl.specimen/v3"
    schema_revision: int = 0
    digest: Digest | None = None
    rules: list[Entry]


def rename_schemes(data: dict[str, Any]) -> dict[str, Any]:
    """Version 1 to 2."""
    names = {"fp8_vllm": "fp8"}
    entries = [{"scheme": names.get(entry["fn"], entry["fn"]), "on": entry["on"]} for entry in data["entries"]]
    return {"entries": entries}


def list_targets(data: dict[str, Any]) -> dict[str, Any]:
    """Version 2 to 3; changes its argument, which must not be the caller's."""
    entries = data.pop("entries")
    return {"rules": [{"scheme": entry["scheme"], "targets": [entry["on"]]} for entry in entries]}


SPECIMEN_STEPS = (
    Step("specimen", 1, "'fn' is called 'scheme'", rename_schemes),
    Step("specimen", 2, "'on' is a list, 'targets'; 'entries' is called 'rules'", list_targets),
)
ALL_STEPS = (*SPECIMEN_STEPS, *STEPS)


def planned(path: Path, steps: tuple[Step, ...] = SPECIMEN_STEPS) -> Migration:
    return plan_migration(path, {"specimen": Specimen}, steps)


def golden_cases() -> Iterator[tuple[Step, Path]]:
    for step in ALL_STEPS:
        for path in sorted((GOLDEN / step.kind / f"v{step.from_major}").glob("*.yaml")):
            yield step, path


def data_of(path: Path) -> dict[str, Any]:
    from flashrl_registry.documents.strict_yaml import parse_text

    data: dict[str, Any] = parse_text(path.read_text(), str(path)).data
    return data


@pytest.mark.parametrize(("step", "path"), list(golden_cases()), ids=lambda value: getattr(value, "name", ""))
def test_a_step_makes_its_golden_file(step: Step, path: Path) -> None:
    before = data_of(path)
    after, ran = migrate(before, step.kind, major=step.from_major, target=step.to_major, steps=ALL_STEPS)
    expected = data_of(GOLDEN / step.kind / f"v{step.to_major}" / path.name)
    expected.pop("digest", None)
    assert (after, ran) == (expected, (step,))
    assert before == data_of(path), "a step must not change its argument"


def test_every_step_has_golden_files_and_no_kind_has_a_gap() -> None:
    with_files = {step for step, _ in golden_cases()}
    assert with_files == set(ALL_STEPS)
    majors = {kind: model.MAJOR for kind, model in KINDS.items()} | {"specimen": Specimen.MAJOR}
    for kind, major in majors.items():
        assert [step.from_major for step in ALL_STEPS if step.kind == kind] == list(range(1, major))


@pytest.mark.parametrize("name", ["full.yaml", "minimal.yaml"])
def test_a_file_is_rewritten_to_what_the_newest_golden_file_holds(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    shutil.copy(GOLDEN / "specimen" / "v1" / name, file)
    write_migration(planned(file))
    assert file.read_text() == (GOLDEN / "specimen" / "v3" / name).read_text()
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    again = planned(file)
    assert (again.content, again.from_major) == (None, 3)


def test_the_schema_that_a_file_names_to_editors_is_renewed() -> None:
    address = "https://example.org/specimen/v1.json"
    before: dict[str, Any] = {"$schema": address, "schema_version": "flashrl.specimen/v2", "entries": [], "x-a": 1}
    after, ran = migrate(before, "specimen", major=2, target=3, steps=SPECIMEN_STEPS)
    assert len(ran) == 1
    assert after["$schema"].endswith("/schemas/specimen/v3.json")
    assert after["x-a"] == 1


def test_what_changes_is_said_before_it_is_done(tmp_path: Path) -> None:
    file = tmp_path / "full.yaml"
    shutil.copy(GOLDEN / "specimen" / "v1" / "full.yaml", file)
    found = planned(file)
    assert [step.what for step in found.steps] == [step.what for step in SPECIMEN_STEPS]
    assert (found.from_major, found.to_major, found.loses_comments) == (1, 3, True)
    assert found.old_digest == "sha256:" + "1" * 64
    assert found.new_digest not in {None, found.old_digest}
    assert file.read_bytes() == (GOLDEN / "specimen" / "v1" / "full.yaml").read_bytes()
    assert not planned(GOLDEN / "specimen" / "v1" / "minimal.yaml").loses_comments


def test_json_stays_json(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"schema_version": "flashrl.specimen/v2", "entries": [{"scheme": "int8", "on": "*"}], "x-a": 1}')
    write_migration(planned(file))
    assert parse_document(file.read_text(), "a", Specimen).rules[0].targets == ["*"]
    assert file.read_bytes() == parse_document(file.read_text(), "a", Specimen).canonical_json()


def test_a_file_that_would_not_be_valid_afterwards_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("schema_version: flashrl.specimen/v2\nentries:\n- {scheme: int4, on: '*'}\n")
    with pytest.raises(SchemaError, match=r"a.yaml, migrated to v3:1:.*rules\[0\].scheme: must be 'int8' or 'fp8'"):
        planned(file)


def test_a_major_that_no_step_takes_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("schema_version: flashrl.specimen/v1\nentries: []\n")
    with pytest.raises(SchemaVersionError, match="no release migrates specimen v1"):
        planned(file, SPECIMEN_STEPS[1:])
    file.write_text("schema_version: flashrl.specimen/v9\nentries: []\n")
    with pytest.raises(SchemaVersionError, match="newer than this release reads"):
        planned(file)
    file.write_text("- 1\n")
    with pytest.raises(SchemaError, match="a document is a map"):
        planned(file)
    with pytest.raises(ParseError, match="No such file"):
        planned(tmp_path / "none.yaml")


def test_a_published_version_is_not_rewritten(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "specimen" / "v1" / "minimal.yaml", tmp_path / "plan.yaml")
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(IntegrityError, match="part of a published version, which never changes"):
        planned(tmp_path / "plan.yaml")


@given(st.lists(st.tuples(st.sampled_from(["int8", "fp8_vllm"]), st.text(max_size=8)), max_size=5))
def test_whatever_the_old_document_holds_the_new_one_reads(entries: list[tuple[str, str]]) -> None:
    data = {
        "schema_version": "flashrl.specimen/v1",
        "entries": [{"fn": scheme, "on": target} for scheme, target in entries],
    }
    after, _ = migrate(data, "specimen", major=1, target=3, steps=SPECIMEN_STEPS)
    document = Specimen.model_validate(after)
    assert [rule.targets for rule in document.rules] == [[target] for _, target in entries]
    assert parse_document(yaml_text(document), "again", Specimen) == document
