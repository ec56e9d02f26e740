"""Identity, versions and files: what a user relies on when two documents have one digest."""

import json
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashrl_registry.documents import Plan, Profile, Rules, parse_document, read_document, write_document, yaml_text
from flashrl_registry.documents._base import Document
from flashrl_registry.errors import IntegrityError, ParseError, SchemaError

RULES = "schema_version: flashrl.rules/v1\nrules:\n- {name: all, scheme: bf16, targets: ['*']}\n"


def test_spelling_does_not_change_the_digest(plan: Plan) -> None:
    data = plan.model_dump(mode="json")
    spellings = [
        yaml_text(plan),
        "# a comment\n" + yaml_text(plan),
        json.dumps(data),
        json.dumps(dict(reversed(data.items())), indent=4),
        plan.canonical_json().decode(),
    ]
    assert {parse_document(text, "p", Plan).compute_digest() for text in spellings} == {plan.digest}


def test_fields_that_are_not_identity_do_not_change_the_digest(plan: Plan) -> None:
    renamed = plan.base_model.model_copy(update={"name": "the same model in another folder"})
    noted = plan.model_copy(update={"description": "for people", "schema_revision": 9, "base_model": renamed})
    assert noted.compute_digest() == plan.digest


@pytest.mark.parametrize("change", [{"rules": []}, {"smoothing": []}, {"profile": None}, {"engine": None}])
def test_every_other_field_of_a_plan_changes_it(smoothed_plan: Plan, change: dict[str, object]) -> None:
    assert smoothed_plan.model_copy(update=change).compute_digest() != smoothed_plan.digest


def test_a_changed_document_is_refused_with_both_digests(plan: Plan, tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    write_document(plan, file)
    file.write_text(file.read_text().replace("processed_logprobs", "raw_logprobs"))
    with pytest.raises(IntegrityError, match="does not match its digest") as caught:
        read_document(file, Plan)
    assert caught.value.context["expected"] == plan.digest
    assert caught.value.context["actual"] != plan.digest


def test_yaml_starts_with_the_line_that_gives_editors_the_schema(plan: Plan) -> None:
    assert yaml_text(plan).splitlines()[0] == f"# yaml-language-server: $schema={Plan.schema_url()}"
    assert Plan.schema_url().endswith("/schemas/plan/v1.json")


def test_another_kind_is_named(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(RULES)
    with pytest.raises(SchemaError, match="this is a rules; a plan was asked for"):
        read_document(file, Plan)


def test_a_missing_file_is_a_finding(tmp_path: Path) -> None:
    with pytest.raises(ParseError, match="cannot be read: No such file"):
        read_document(tmp_path / "none.yaml", Rules)


def test_a_folder_is_a_finding(tmp_path: Path) -> None:
    with pytest.raises(ParseError, match="cannot be read: Is a directory"):
        read_document(tmp_path, Rules)


def test_large_files_are_not_read(tmp_path: Path) -> None:
    file = tmp_path / "large.yaml"
    with file.open("wb") as handle:
        handle.truncate(10 << 30)
    with pytest.raises(ParseError, match="larger than"):
        read_document(file, Profile)


def test_writing_replaces_the_file_as_a_whole(plan: Plan, tmp_path: Path) -> None:
    file = tmp_path / "sub" / "plan.json"
    write_document(plan, file)
    write_document(plan, file)
    assert file.read_bytes() == plan.canonical_json()
    assert [entry.name for entry in file.parent.iterdir()] == ["plan.json"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
RULE_NAMES = st.lists(st.from_regex(r"[a-z0-9][a-z0-9_-]{0,10}", fullmatch=True), min_size=1, max_size=4, unique=True)


@given(RULE_NAMES, TEXT, st.lists(TEXT.filter(bool), min_size=1), st.sampled_from(["bf16", "int8"]))
@settings(deadline=None)
def test_yaml_json_and_model_round_trips_keep_the_digest(
    names: list[str], description: str, targets: list[str], scheme: str
) -> None:
    rules = [{"name": name, "scheme": scheme, "targets": targets} for name in names]
    data = {"schema_version": "flashrl.rules/v1", "description": description, "rules": rules}
    try:
        document: Document = Rules.model_validate_json(json.dumps(data))
    except ValueError:  # a target that is a malformed family or regular expression
        return
    sealed = document.compute_digest()
    for text in (yaml_text(document), document.canonical_json().decode(), json.dumps(data)):
        again = parse_document(text, "f", Rules)
        assert again == document
        assert again.compute_digest() == sealed
