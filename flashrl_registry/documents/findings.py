"""Pydantic's errors as findings: with the place in the file, in the file's words, with the nearest valid name."""

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from flashrl_registry.documents._base import EXTENSION
from flashrl_registry.documents.strict_yaml import MAX_FINDINGS, Parsed, Path, pointer_text
from flashrl_registry.errors import Finding

_NOUNS = {
    "list_type": "a list", "dict_type": "a map", "model_type": "a map", "model_attributes_type": "a map",
    "string_type": "a string", "int_type": "a whole number", "float_type": "a number", "bool_type": "true or false",
}  # fmt: skip
_SHOWN = 100


def schema_findings(exc: ValidationError, parsed: Parsed, source: str, model: type[BaseModel]) -> list[Finding]:
    """The errors of a validation, in the order of the fields; as many as anybody reads.

    Args:
        exc: What pydantic raised.
        parsed: The data that was validated, with places.
        source: File name for messages.
        model: The model that it was validated against.
    """
    errors = exc.errors(include_url=False)
    return findings_of(errors, parsed, source, model, num_more=len(errors) - MAX_FINDINGS)


def findings_of(
    errors: Sequence[ErrorDetails], parsed: Parsed, source: str, model: type[BaseModel], *, num_more: int | None
) -> list[Finding]:
    """The first of some errors.

    Args:
        errors: Pydantic's.
        parsed: The data that was validated, with places.
        source: File name for messages.
        model: The model that it was validated against.
        num_more: How many there are beyond the limit; None where nobody knows.
    """
    findings = [_finding(error, parsed, source, model) for error in errors[:MAX_FINDINGS]]
    if num_more is None:
        findings.append(Finding(source, "and perhaps more; not read further", code="more"))
    elif num_more > 0:
        findings.append(Finding(source, f"and {num_more} more", code="more"))
    return findings


def describe(value: Any) -> str:
    """A value as an error message names it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict | list):
        return "a map" if isinstance(value, dict) else "a list"
    if isinstance(value, str) and len(value) > _SHOWN:
        return f"a string of {len(value)} characters that starts with {value[:_SHOWN]!r}"
    return f"the string {value!r}" if isinstance(value, str) else f"the number {value!r}"


def did_you_mean(given: str, valid: Iterable[str]) -> str:
    """``; did you mean 'x'?``, or the whole list where nothing is near; case does not matter."""
    by_lower = {name.lower(): name for name in valid}
    near = difflib.get_close_matches(given.lower(), by_lower, n=1)
    if near:
        return f"; did you mean '{by_lower[near[0]]}'?"
    return f"; valid: {', '.join(sorted(by_lower.values()))}" if by_lower else ""


def _finding(error: ErrorDetails, parsed: Parsed, source: str, model: type[BaseModel]) -> Finding:
    path, kind, context = _data_path(error["loc"], parsed.data), error["type"], error.get("ctx", {})
    message, place = error["msg"], parsed.places.get(path)
    if kind == "string_pattern_mismatch" and _is_extra_key(path, context, model):
        kind = "extra_forbidden"
    if kind == "extra_forbidden":
        message = "unknown key" + did_you_mean(str(path[-1]), _field_names(model, path[:-1], parsed.data))
        if str(path[-1]).startswith("x-"):
            message = "unknown key; keys that start with x- stand at the top of a document, not in its parts"
        place = parsed.keys.get(path, place)
    elif kind == "missing":
        message = f"required key '{path[-1]}' is missing"
        place = parsed.places.get(path[:-1])
    elif kind == "union_tag_not_found":
        message = f"required key {context['discriminator']} is missing"
    elif kind == "union_tag_invalid":
        path = (*path, str(context["discriminator"]).strip("'"))
        message = f"must be one of {context['expected_tags']}"
        message += did_you_mean(str(context["tag"]), _quoted(str(context["expected_tags"])))
        place = parsed.places.get(path, place)
    elif kind == "literal_error":
        message = f"must be {context['expected']}, not {describe(error['input'])}"
        message += did_you_mean(str(error["input"]), _quoted(str(context["expected"])))
    elif kind in _NOUNS:
        message = f"must be {_NOUNS[kind]}, not {describe(error['input'])}"
    elif kind == "value_error":
        message = str(context["error"])
    else:
        message = _limit_message(kind, context, error["input"]) or message
    line, column = place or _nearest(parsed, path)
    return Finding(source, message, line, column, pointer_text(path), kind)


def _limit_message(kind: str, context: dict[str, Any], given: Any) -> str | None:
    """What a value that is too small, too long or of another form must be; None for any other fault."""
    if kind in {"too_short", "too_long"}:
        limit = context["min_length"] if kind == "too_short" else context["max_length"]
        what = f"at {'least' if kind == 'too_short' else 'most'} {limit} {'item' if limit == 1 else 'items'}"
        return f"must have {what}, not {len(given) if isinstance(given, list) else context['actual_length']}"
    if kind in {"string_too_short", "string_too_long"}:
        limit = f"least {context['min_length']}" if kind == "string_too_short" else f"most {context['max_length']}"
        return f"must have at {limit} characters, not {len(given)}" if given else "must not be empty"
    if kind in {"greater_than_equal", "less_than_equal"}:
        limit = f"{context['ge']} or more" if kind == "greater_than_equal" else f"{context['le']} or less"
        return f"must be {limit}, not {given!r}"
    if kind == "string_pattern_mismatch":
        form = f"must have the form {context['pattern']}"
        # What should have been an address may hold a password.
        return form if "://" in given else f"{form}, not {describe(given)}"
    return None


def _is_extra_key(path: Path, context: dict[str, Any], model: type[BaseModel]) -> bool:
    """A document's own unknown key; pydantic says only that it is no name of an extension."""
    return len(path) == 1 and path[0] not in model.model_fields and context.get("pattern") == EXTENSION


def _nearest(parsed: Parsed, path: Path) -> tuple[int, int]:
    while path and path not in parsed.places:
        path = path[:-1]
    return parsed.places.get(path, (1, 1))


def _quoted(text: str) -> list[str]:
    return re.findall(r"'([^']+)'", text)


def _data_path(loc: Iterable[str | int], data: Any) -> Path:
    """Drop the union tags that pydantic puts into ``loc`` and that the data does not have."""
    path: list[str | int] = []
    here = data
    items = list(loc)
    for index, part in enumerate(items):
        if isinstance(here, dict):
            if part not in here and index + 1 < len(items):
                continue
            path.append(part)
            here = here.get(part)
        elif isinstance(here, list):
            path.append(part)
            here = here[part] if isinstance(part, int) and part < len(here) else None
        else:
            break
    return tuple(path)


def _field_names(model: type[BaseModel], path: Path, data: Any) -> list[str]:
    """Names that are valid where ``path`` points, following nested models, lists and tagged unions."""
    models = [model]
    for part in path:
        data = data[part]
        if isinstance(part, int):
            continue
        fields = (candidate.model_fields.get(part) for candidate in models)
        models = [inner for info in fields if info is not None for inner in _models_in(info.annotation)]
    tag = data.get("kind") if isinstance(data, dict) else None
    tagged = [candidate for candidate in models if "kind" in candidate.model_fields]
    fitting = [candidate for candidate in tagged if candidate.model_fields["kind"].default == tag]
    return [name for candidate in fitting or models for name in candidate.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for arg in get_args(annotation) for model in _models_in(arg)]
