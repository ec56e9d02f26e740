"""Identity, versions and files: what a user relies on when two documents have one digest."""

import json
import os
import stat
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashrl_registry.documents import (
    Plan,
    Profile,
    Rules,
    parse_document,
    read_any,
    read_document,
    write_document,
    yaml_text,
)
from flashrl_registry.documents._base import Document
from flashrl_registry.documents.yaml_writer import dump_text
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
    line = 1 + next(n for n, text in enumerate(file.read_text().splitlines()) if text.startswith("digest:"))
    assert caught.value.message.startswith(f"{file}:{line}:9: digest: the content does not match its digest")
    assert (caught.value.context["line"], caught.value.context["pointer"]) == (line, "digest")


def test_yaml_starts_with_the_line_that_gives_editors_the_schema(plan: Plan) -> None:
    assert yaml_text(plan).splitlines()[0] == f"# yaml-language-server: $schema={Plan.schema_url()}"
    assert Plan.schema_url().endswith("/schemas/plan/v1.json")


def test_another_kind_is_named(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(RULES)
    with pytest.raises(SchemaError, match="this is a rules document; a plan was asked for"):
        read_document(file, Plan)


def test_a_missing_file_is_a_finding(tmp_path: Path) -> None:
    with pytest.raises(ParseError, match="cannot be read: No such file"):
        read_document(tmp_path / "none.yaml", Rules)


def test_a_folder_is_a_finding(tmp_path: Path) -> None:
    with pytest.raises(ParseError, match=": is a folder"):
        read_document(tmp_path, Rules)


def test_a_pipe_is_a_finding_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ParseError, match="is not a regular file"):
        read_document(tmp_path / "pipe.yaml", Rules)


def test_large_files_are_not_read(tmp_path: Path) -> None:
    file = tmp_path / "large.yaml"
    with file.open("wb") as handle:
        handle.truncate(10 << 30)
    with pytest.raises(ParseError, match="larger than") as caught:
        read_document(file, Profile)
    assert "64 MiB" in str(caught.value.hint)


@pytest.mark.parametrize("shape", ["unknown keys", "one part", "one list", "a map of faults", "text for numbers"])
def test_a_large_file_full_of_faults_costs_little_and_says_the_first(tmp_path: Path, shape: str) -> None:
    count = 60_000
    text = {
        "unknown keys": '"tensors":[' + ",".join(['{"a":1,"b":2}'] * count) + "]",
        "one part": '"reference":{' + ",".join(f'"k{n}":1' for n in range(count)) + "}",
        "one list": '"smoothing":[{"source":"a","targets":[' + "1," * count + "1]}]",
        "a map of faults": ",".join(f'"k{n}":1' for n in range(count)),
        "text for numbers": '"tensors":[' + ",".join(['{"names":"a","shape":["1"]}'] * count) + "]",
    }[shape]
    file = tmp_path / "profile.json"
    file.write_text(f'{{"schema_version":"flashrl.profile/v1",{text}}}')
    start = time.process_time()
    for read in (lambda: read_document(file, Profile), lambda: read_any(file)):
        with pytest.raises(SchemaError) as caught:
            read()
        assert len(caught.value.findings) == 101
        assert caught.value.findings[-1].code == "more"
    assert time.process_time() - start < 2.0


def test_faults_after_many_valid_items_have_their_own_places(tmp_path: Path) -> None:
    item = '{"names":"a","shape":[1],"dtype":"int8","role":"unchanged"}'
    file = tmp_path / "profile.json"
    items = [item] * 3000 + ['{"names":1}'] * 3000
    file.write_text('{"schema_version":"flashrl.profile/v1",\n"tensors":[\n' + ",\n".join(items) + "]}")
    with pytest.raises(SchemaError) as caught:
        read_document(file, Profile)
    first, second = caught.value.findings[:2]
    assert (first.pointer, first.line) == ("tensors[3000].names", 3003)
    assert (second.pointer, second.line) == ("tensors[3000].shape", 3003)


def test_a_small_file_full_of_faults_says_how_many_more(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text(RULES + "".join(f"k{n}: 1\n" for n in range(150)))
    with pytest.raises(SchemaError, match=r"and 50 more$"):
        read_document(file, Rules)


def test_a_large_valid_profile_is_read_whole(tmp_path: Path) -> None:
    corpus = Path(__file__).parents[2] / "data" / "documents" / "valid" / "profile"
    data = json.loads(read_any(sorted(corpus.glob("*"))[0]).model_dump_json(exclude_none=True, exclude={"digest"}))
    data["tensors"] += [{"names": f"t.{n}.w", "shape": [4, 4], "dtype": "bfloat16", "role": "unchanged"}
                        for n in range(5000)]  # fmt: skip
    data["reference"]["num_tensors"] += 5000
    for name, text in (("p.json", json.dumps(data)), ("p.yaml", dump_text(data))):
        (tmp_path / name).write_text(text)
        assert len(read_document(tmp_path / name, Profile).tensors) == len(data["tensors"])


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
