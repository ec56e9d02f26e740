"""The committed JSON Schemas: equal to the models, usable in editors, and of one opinion with the door."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from flashrl_registry.documents import KINDS, read_any
from flashrl_registry.documents.bundled import bundled
from flashrl_registry.documents.findings import _models_in
from flashrl_registry.documents.released import RELEASED, changed_since_release, read_released
from flashrl_registry.documents.schema import DIALECT, check_schemas, release_schemas, schema_path, write_schemas
from flashrl_registry.documents.strict_yaml import parse_text
from flashrl_registry.errors import SchemaError

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "tests" / "data" / "documents"
# Keywords that editors' YAML language servers do not understand.
UNSUPPORTED = {
    "prefixItems",
    "unevaluatedProperties",
    "unevaluatedItems",
    "$dynamicRef",
    "$dynamicAnchor",
    "discriminator",
}
# Findings of a parsed document that only the command line makes: see schemas/README.md.
BEYOND_SCHEMA = re.compile(r"# expect: (value_error|schema-version|integrity|int_type .* not the number)")


def schema_of(kind: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(schema_path(bundled("schemas"), KINDS[kind]).read_text())
    return data


def parts(schema: dict[str, Any]) -> list[dict[str, Any]]:
    return [schema, *schema.get("$defs", {}).values()]


def keywords(value: Any) -> set[str]:
    if isinstance(value, list):
        return {key for item in value for key in keywords(item)}
    if isinstance(value, dict):
        return set(value) | {key for item in value.values() for key in keywords(item)}
    return set()


def models(model: type[BaseModel]) -> set[type[BaseModel]]:
    found = {model}
    for field in model.model_fields.values():
        for inner in _models_in(field.annotation):
            found |= models(inner)
    return found


def test_the_committed_schemas_equal_the_models() -> None:
    check_schemas(bundled("schemas"))
    committed = {str(path.relative_to(bundled("schemas"))) for path in bundled("schemas").rglob("*.json")}
    current = {model.schema_file() for model in KINDS.values()}
    assert committed == {RELEASED, *current, *read_released(bundled("schemas"))}


def test_released_schemas_have_the_bytes_that_were_released() -> None:
    assert changed_since_release(bundled("schemas")) == []


def test_a_released_schema_that_changes_or_goes_is_noticed(tmp_path: Path) -> None:
    write_schemas(tmp_path)
    assert set(release_schemas(tmp_path, "0.1.0")) == {model.schema_file() for model in KINDS.values()}
    assert release_schemas(tmp_path, "0.2.0") == []
    assert {entry.release for entry in read_released(tmp_path).values()} == {"0.1.0"}
    check_schemas(tmp_path)
    changed, gone = tmp_path / "plan" / "v1.json", tmp_path / "rules" / "v1.json"
    changed.write_bytes(changed.read_bytes().replace(b"People", b"people").replace(b"for", b"For", 1))
    gone.unlink()
    with pytest.raises(SchemaError) as caught:
        check_schemas(tmp_path)
    assert [(finding.code, finding.source) for finding in caught.value.findings] == [
        ("schema-released", str(changed)),
        ("schema-released", str(gone)),
    ]
    assert "raise REVISION" in str(caught.value.hint)


def test_a_model_that_changes_cannot_overwrite_its_released_schema(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_schemas(tmp_path)
    release_schemas(tmp_path, "0.1.0")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json")}
    rules = KINDS["rules"]
    monkeypatch.setitem(KINDS, "rules", type("Rules", (rules,), {"__doc__": "Changed.", "__module__": __name__}))
    with pytest.raises(SchemaError, match=r"rules/v1.json: was released in 0.1.0 and must not change"):
        write_schemas(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == before
    monkeypatch.setattr(KINDS["rules"], "REVISION", 1)
    write_schemas(tmp_path)
    check_schemas(tmp_path)
    assert json.loads((tmp_path / "rules" / "v1.1.json").read_text())["$id"].endswith("/rules/v1.1.json")


@pytest.mark.parametrize("kind", KINDS)
def test_a_schema_names_its_dialect_and_itself(kind: str) -> None:
    schema = schema_of(kind)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == DIALECT
    assert schema["$id"] == KINDS[kind].schema_url()
    assert schema["description"]
    assert not keywords(schema) & UNSUPPORTED


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_described_and_no_other_is_admitted(kind: str) -> None:
    schema = schema_of(kind)
    for part in parts(schema):
        if part.get("type") != "object":
            continue
        assert part["additionalProperties"] is False
        undescribed = [name for name, field in part["properties"].items() if not field.get("description")]
        assert not undescribed, f"{part.get('title', kind)}: {undescribed}"


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_and_the_descriptions_say_what_is_not_part_of_the_identity(kind: str) -> None:
    page = (ROOT / "schemas" / "README.md").read_text()
    [row] = re.findall(rf"^\| `{kind}` \| (.*) \|$", page, re.MULTILINE)
    listed = re.findall(r"`([^`]+)`", row)
    model, schema = KINDS[kind], schema_of(kind)
    fields = set(model.model_fields)
    assert listed == sorted(name for name in model.NOT_IDENTITY if name.partition(".")[0] in fields)
    said = {name for name, field in schema["properties"].items() if "not part of" in field["description"]}
    assert said == {name for name in listed if "." not in name} | {"$schema"}
    for name in (name for name in listed if "." in name):
        part, _, leaf = name.partition(".")
        ref = schema["properties"][part]["$ref"].rpartition("/")[2]
        assert "not of a plan's" in schema["$defs"][ref]["properties"][leaf]["description"]


@pytest.mark.parametrize("kind", KINDS)
def test_fields_that_may_be_none_default_to_none(kind: str) -> None:
    """None is left out of files, so a field without that default could be written and not read."""
    for model in models(KINDS[kind]):
        for name, field in model.model_fields.items():
            if type(None) in getattr(field.annotation, "__args__", ()):
                assert not field.is_required(), f"{model.__name__}.{name}"
                assert field.default is None, f"{model.__name__}.{name}"


@pytest.mark.parametrize("path", sorted((CORPUS / "valid").glob("*/*")), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_valid_documents_pass_the_schema(path: Path) -> None:
    data = parse_text(path.read_text(encoding="utf-8"), str(path)).data
    errors = list(Draft202012Validator(schema_of(path.parent.name)).iter_errors(data))
    assert not errors
    read_any(path)


def schema_failures() -> list[Path]:
    """Invalid documents that parse, whose faults a schema can state."""
    found = []
    for path in sorted((CORPUS / "invalid").glob("*/*.yaml")):
        try:
            read_any(path)
        except SchemaError:
            announced = [line for line in path.read_text().splitlines() if line.startswith("# expect")]
            if not all(BEYOND_SCHEMA.match(line) for line in announced):
                found.append(path)
        except Exception:  # noqa: BLE001 - the corpus test reports what is wrong with it
            continue
    return found


@pytest.mark.parametrize("path", schema_failures(), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_what_a_schema_can_say_it_says(path: Path) -> None:
    data = parse_text(path.read_text(encoding="utf-8"), str(path)).data
    assert not Draft202012Validator(schema_of(path.parent.name)).is_valid(data)


def test_most_of_the_corpus_is_of_that_kind() -> None:
    assert len(schema_failures()) >= 35
