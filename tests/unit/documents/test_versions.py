"""Documents of other releases: what is read, what is kept, what is refused and with which advice."""

from pathlib import Path
from typing import ClassVar, Literal

import pytest

from flashrl_registry.documents import KINDS, Lock, Plan, Rules, parse_document, read_document, write_document
from flashrl_registry.documents._base import Document
from flashrl_registry.errors import SchemaError, SchemaVersionError

RULES = "schema_version: flashrl.rules/{major}\nrules:\n- {{name: all, scheme: bf16, targets: ['*']}}\n"
V1 = RULES.format(major="v1")


class NextRules(Document):
    """Rules as a later release could read them."""

    KIND: ClassVar[str] = "rules"
    MAJOR: ClassVar[int] = 3

    schema_version: Literal["flashrl.rules/v3"] = "flashrl.rules/v3"


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_a_newer_revision_and_its_notes_survive_being_written_again(tmp_path: Path, suffix: str) -> None:
    text = V1 + "schema_revision: 7\nx-later: {why: [1, null]}\n"
    rules = parse_document(text, "r", Rules)
    file = tmp_path / f"rules{suffix}"
    write_document(rules, file)
    again = read_document(file, Rules)
    assert again == rules
    assert again.schema_revision == 7
    assert again.model_dump()["x-later"] == {"why": [1, None]}


def test_notes_do_not_change_the_digest(plan: Plan) -> None:
    noted = parse_document(plan.canonical_json().decode()[:-1] + ',"x-note":"seen"}', "p", Plan)
    assert noted.digest == noted.compute_digest() == plan.digest
    assert noted.model_copy(update={"description": "copied"}).model_dump()["x-note"] == "seen"


def test_the_schema_that_a_file_names_to_editors_stays_and_is_not_identity(plan: Plan, tmp_path: Path) -> None:
    address = Plan.schema_url()
    noted = parse_document(plan.canonical_json().decode()[:-1] + f',"$schema":"{address}"}}', "p", Plan)
    assert noted.digest == noted.compute_digest() == plan.digest
    for name in ("plan.json", "plan.yaml"):
        write_document(noted, tmp_path / name)
        assert read_document(tmp_path / name, Plan).model_dump()["$schema"] == address


def test_an_unknown_key_of_a_newer_revision_is_an_error_that_says_what_to_install() -> None:
    with pytest.raises(SchemaError, match="kv: unknown key") as caught:
        parse_document(V1 + "schema_revision: 7\nkv: fp8\n", "r", Rules)
    assert caught.value.hint is not None
    assert "schema_revision 7 and this release knows 0: pip install --upgrade flashrl-registry" in caught.value.hint
    with pytest.raises(SchemaError) as caught:
        parse_document(V1 + "kv: fp8\n", "r", Rules)
    assert caught.value.hint is None


def test_a_newer_major_is_refused_with_the_release_that_is_needed() -> None:
    with pytest.raises(SchemaVersionError, match="schema v2 is newer than this release reads \\(v1\\)") as caught:
        parse_document(RULES.format(major="v2"), "r", Rules)
    assert caught.value.hint == "pip install --upgrade flashrl-registry, to a release that reads flashrl.rules/v2"


def test_an_older_major_is_refused_with_the_command_that_rewrites_it() -> None:
    with pytest.raises(SchemaVersionError, match="schema v1 is older than this release reads \\(v3\\)") as caught:
        parse_document(V1, "old.yaml", NextRules)
    assert caught.value.hint == "rewrite the file with: flashrl-registry migrate old.yaml"


@pytest.mark.parametrize("model", KINDS.values(), ids=KINDS)
def test_new_documents_have_the_revision_that_this_release_knows(model: type[Document]) -> None:
    assert model.model_fields["schema_revision"].default == model.REVISION
    assert model.model_fields["schema_version"].default == f"flashrl.{model.KIND}/v{model.MAJOR}"


def test_a_lock_is_written_one_value_to_a_line(tmp_path: Path) -> None:
    corpus = Path(__file__).parents[2] / "data" / "documents" / "valid" / "lock"
    lock = read_document(corpus / "every_store.json", Lock)
    write_document(lock, tmp_path / "lock.json")
    assert (tmp_path / "lock.json").read_bytes() == (corpus / "every_store.json").read_bytes()
    assert read_document(tmp_path / "lock.json", Lock).compute_digest() == lock.compute_digest()


def test_everything_in_a_lock_counts_in_its_digest() -> None:
    corpus = Path(__file__).parents[2] / "data" / "documents" / "valid" / "lock"
    lock = read_document(corpus / "every_store.json", Lock)
    moved = lock.entries[0].model_copy(update={"plan_digest": lock.entries[1].plan_digest})
    assert lock.model_copy(update={"entries": [moved, *lock.entries[1:]]}).compute_digest() != lock.compute_digest()
    assert lock.model_copy(update={"schema_revision": 4}).compute_digest() == lock.compute_digest()
