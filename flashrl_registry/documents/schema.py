"""Document models to JSON Schema 2020-12, one file per kind and major.

The files are generated, committed and compared with the models by a test; a released one never changes. They stay
within keywords that editors support: no ``prefixItems``, ``unevaluatedProperties`` or ``$dynamicRef``.
"""

import ast
import inspect
import json
import textwrap
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import ModelSchema

from flashrl_registry.documents._base import EDITOR_KEY, Document
from flashrl_registry.documents.io import write_atomically
from flashrl_registry.documents.kinds import KINDS
from flashrl_registry.documents.released import add_to_released, refuse_changes
from flashrl_registry.errors import Finding, SchemaError

_EDITOR_KEY = "Address of this schema, for editors of JSON; not part of the identity."
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema(model: type[Document]) -> dict[str, Any]:
    """The JSON Schema of a document class, as plain data."""
    generated = model.model_json_schema(schema_generator=_WithFieldTexts)
    body = {key: _clean(value) for key, value in generated.items()}
    head = {"$schema": DIALECT, "$id": model.schema_url(), "title": f"flashrl {model.KIND} v{model.MAJOR}"}
    schema = _require_constants({**head, **{key: value for key, value in body.items() if key != "title"}})
    return _admit_extensions(schema)


class _WithFieldTexts(GenerateJsonSchema):
    """The string below a field in the source is its description."""

    def model_schema(self, schema: ModelSchema) -> JsonSchemaValue:
        generated = super().model_schema(schema)
        for name, text in _field_texts(schema["cls"]).items():
            if name in generated.get("properties", {}):
                generated["properties"][name].setdefault("description", text)
        return generated


def _field_texts(model: type) -> dict[str, str]:
    texts: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if not cls.__module__.startswith(__package__):
            continue
        [definition] = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        assert isinstance(definition, ast.ClassDef)
        for field, text in zip(definition.body, definition.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                texts.pop(field.target.id, None)  # a field that is declared again has its own text, or none
                if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                    texts[field.target.id] = inspect.cleandoc(str(text.value.value))
    return texts


def schema_text(model: type[Document]) -> str:
    """The committed form: indented, keys in the order of the fields."""
    return json.dumps(json_schema(model), indent=2, ensure_ascii=False) + "\n"


def schema_path(folder: Path, model: type[Document]) -> Path:
    """``<folder>/<kind>/v<major>.json``; see :meth:`Document.schema_file`."""
    return folder / model.schema_file()


def write_schemas(folder: Path) -> list[Path]:
    """Write every schema; returns the files.

    Raises:
        SchemaError: A released schema would change; nothing is written.
    """
    contents = {model.schema_file(): schema_text(model).encode() for model in KINDS.values()}
    refuse_changes(folder, contents)
    for path, data in contents.items():
        write_atomically(folder / path, data)
    return [folder / path for path in contents]


def release_schemas(folder: Path, release: str) -> list[str]:
    """Freeze today's schemas, as a release ships them; returns those that were not frozen before.

    Raises:
        SchemaError: A file differs from its model, or from what was released.
    """
    check_schemas(folder)
    return add_to_released(folder, [model.schema_file() for model in KINDS.values()], release)


def check_schemas(folder: Path) -> None:
    """Compare every committed schema with its model, and released ones with what was released.

    Raises:
        SchemaError: Names each file that is missing or differs.
    """
    refuse_changes(folder)
    findings = []
    for model in KINDS.values():
        file = schema_path(folder, model)
        if not file.is_file():
            findings.append(Finding(str(file), "is missing", code="schema-drift"))
        elif file.read_bytes() != schema_text(model).encode():
            findings.append(Finding(str(file), f"differs from the {model.KIND} model", code="schema-drift"))
    if findings:
        raise SchemaError(findings, hint="write them with: flashrl-registry schema --write")


def _clean(value: Any) -> Any:
    """Drop what only adds noise: generated titles, and OpenAPI's ``discriminator``, which JSON Schema lacks."""
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "patternProperties" in value:  # of a map whose keys have a pattern: other keys are errors
        value = {"additionalProperties": False, **value}
    # In "properties" and "$defs" keys are names, not keywords; a field may be called "title".
    return {
        key: {name: _clean(inner) for name, inner in child.items()} if key in {"properties", "$defs"} else _clean(child)
        for key, child in value.items()
        if key != "discriminator" and not (key == "title" and isinstance(child, str))
    }


def _admit_extensions(schema: dict[str, Any]) -> dict[str, Any]:
    """Say that keys beyond the fields start with ``x-``; pydantic writes a schema for their values alone."""
    schema["$defs"].pop("JsonValue")
    nested = [part for part in schema["$defs"].values() if isinstance(part.get("additionalProperties"), dict)]
    if not schema["$defs"]:
        del schema["$defs"]
    for document in (schema, *nested):
        document["additionalProperties"] = False
        document["properties"][EDITOR_KEY] = {"description": _EDITOR_KEY, "type": "string"}
        document["patternProperties"] = {"^x-": {"description": "Free for notes of tools; not part of the identity."}}
    return schema


def _require_constants(schema: dict[str, Any]) -> dict[str, Any]:
    """Require every constant property: schema_version and the tag of a union, which readers require too."""
    for part in (schema, *schema.get("$defs", {}).values()):
        properties = part.get("properties", {})
        required = set(part.get("required", ()))
        required |= {name for name, inner in properties.items() if "const" in inner}
        if required:
            part["required"] = [name for name in properties if name in required]
        for inner in properties.values():
            if "const" in inner:
                inner.pop("default", None)
    return schema
