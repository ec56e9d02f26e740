"""The door: what it reads, what it refuses, and that writing and reading are inverse."""

import json
import math
import time
from typing import Any

import pytest
import rfc8785
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flashrl_registry.documents.strict_yaml import MAX_BYTES, MAX_FINDINGS, MAX_NODES, parse_text
from flashrl_registry.documents.yaml_writer import dump_text
from flashrl_registry.errors import ParseError

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=60)
)
# Keys longer than 1024 characters are no simple keys in YAML; no document has one.
KEYS = st.text(st.characters(codec="utf-8"), max_size=40)
DATA = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


def same(a: Any, b: Any) -> bool:
    """Equal, with types and signs of zero."""
    return repr(a) == repr(b)


def refusals(text: str) -> list[str]:
    with pytest.raises(ParseError) as caught:
        parse_text(text, "f.yaml")
    return [f"{finding.line}:{finding.column} {finding.message}" for finding in caught.value.findings]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("on", "on"), ("y", "y"), ("true", True), ("True", True), ("~", None), ("null", None),
        ("1e-3", 1e-3), ("1_a", "1_a"), ("012", 12), ("0o17", 15), ("0x1F", 31), ("1:30", "1:30"), (".5", 0.5),
        ("+1", 1), ("-0.0", -0.0), ("2026-11-24", "2026-11-24"), ("'1'", "1"), ('"true"', "true"), ("NaN", "NaN"),
        ("==", "=="), ("1.0.0", "1.0.0"), ("1.", 1.0), ("9007199254740991", 2**53 - 1), ('"<<"', "<<"), ("", None),
    ],
)  # fmt: skip
def test_scalars_follow_yaml_1_2(text: str, value: Any) -> None:
    assert same(parse_text(f"k: {text}", "f").data["k"], value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "2:1 duplicate key 'a', first at 1:1"),
        ("a: &x 1\n", "1:4 anchors are not allowed: &x; write the value out"),
        ("a: !!str 1\n", "1:4 tags are not allowed: tag:yaml.org,2002:str; documents hold plain values"),
        ("1: a\n", "1:1 keys are strings: write '1' in quotes"),
        ("true: a\n", "1:1 keys are strings: write 'true' in quotes"),
        ("a: .nan\n", "1:4 .nan is not a finite number"),
        ("a: -.inf\n", "1:4 -.inf is not a finite number"),
        ("a: 1_0\n", "1:4 1_0 is not a string for every reader of YAML; write it in quotes"),
        ("a: =\n", "1:4 = is not a string for every reader of YAML; write it in quotes"),
        ("a: 1e999\n", "1:4 1e999 is too large for a number"),
        ("a: 9007199254740992\n", "1:4 9007199254740992 is larger than 9007199254740991; write it in quotes if it is a name"),  # noqa: E501
        ("%YAML 1.1\n---\na: 1\n", "1:1 directives are not allowed; documents are YAML 1.2 without tags"),
        ("a: 1\n---\nb: 1\n", "2:1 one document to a file"),
        ("? [a, b]\n: 1\nc: 2\n", "1:3 keys are strings, not lists or maps"),
        ("a: [1\n", "2:1 not YAML: did not find expected ',' or ']'"),
        ("a:\n\t- 1\n", "2:1 not YAML: a tab where only spaces may stand"),
        ("a:\tb\n", "1:3 a tab outside quotes; not every reader of YAML admits that, write spaces"),
        ("a: |\t\n  b\tc # \td\n", "1:5 a tab outside quotes; not every reader of YAML admits that, write spaces"),
        ("a: '\t' # \tx\nb: [\t1]\t\n", "2:8 a tab outside quotes; not every reader of YAML admits that, write spaces"),
        ("a: 'b\n", "2:1 not YAML: the file ends inside a quoted string"),
        ("a: b: c\n", "1:5 not YAML: a key cannot stand here: wrong indentation, or a string with ': ' in it that needs quotes"),  # noqa: E501
        ("a: @b\n", "1:4 not YAML: @ cannot start a value; write the string in quotes"),
        ("a: 1\nb: x\0y\n", "2:5 U+0000 is not allowed in YAML; write \\u0000 in double quotes"),
        ("a: x\u2028y\n", "1:5 U+2028 ends a line in YAML 1.1 and not in 1.2; write \\u2028 in double quotes"),
    ],
)  # fmt: skip
def test_one_fault_is_one_finding_with_its_place(text: str, message: str) -> None:
    assert refusals(text) == [message]


def test_merge_keys_are_refused() -> None:
    assert any("merge keys are not allowed" in line for line in refusals("a:\n  <<: {b: 1}\n"))


def test_all_faults_of_a_file_at_once() -> None:
    text = "a: &x 1\nb: *x\nb: .nan\n2: c\n"
    assert [line.split(" ")[0] for line in refusals(text)] == ["1:4", "2:4", "3:1", "3:4", "4:1"]


def test_keys_after_a_refused_key_are_still_read_as_keys() -> None:
    assert len(refusals("? {x: 1, x: 2}\n: 1\nb: 1\nb: 2\n")) == 3


@pytest.mark.parametrize(
    "text",
    [
        "- " * 40 + "a", "[" * 3000, "{a: " * 200, "a: " + "[" * 33 + "]" * 33,
        "x: [" + "1," * MAX_NODES + "1]", "a" * (MAX_BYTES + 1), "[" + "*a," * 300_000 + "]",
        "a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b]\nd: [*c,*c,*c,*c]",
    ],
)  # fmt: skip
def test_bombs_are_refused_quickly(text: str) -> None:
    start = time.process_time()
    assert 1 <= len(refusals(text)) <= MAX_FINDINGS + 1
    assert time.process_time() - start < 1.0


def test_json_is_read_as_json_reads_it() -> None:
    data = {
        "emoji": "\U0001f600",
        "sep": "a\u2028b\x85c\x7fd",
        "back": "\\ud83d\\ude00",
        "url": "a/b",
        "n": [1, 2.5e-7],
    }
    for text in (json.dumps(data), json.dumps(data, ensure_ascii=False, indent="\t"), rfc8785.dumps(data).decode()):
        assert parse_text(text, "f.json").data == data
    assert parse_text('{"a":"\\/"}', "f.json").data == {"a": "/"}


@given(DATA)
@example({"<<": "<<", "1e-3": "1e-3", "": ""})
@example(["a\x85b", "a\u2028b", "\ufeff", "\x7f", "a\nb ", " a", "\t", "'", "#", "- a", "? a", "%a", "...", "---"])
@settings(deadline=None, max_examples=300)
def test_what_is_written_is_read_back(data: Any) -> None:
    assert same(parse_text(dump_text(data), "f.yaml").data, data)


@given(st.dictionaries(KEYS, DATA, max_size=4))
@settings(deadline=None, max_examples=200)
def test_json_text_and_yaml_text_mean_the_same(data: dict[str, Any]) -> None:
    from_json = parse_text(json.dumps(data), "f.json").data
    raw_json = parse_text(json.dumps(data, ensure_ascii=False), "f.json").data
    assert same(from_json, data)
    assert same(raw_json, data)
    assert rfc8785.dumps(from_json) == rfc8785.dumps(parse_text(dump_text(data), "f.yaml").data)


YAMLISH = st.lists(
    st.sampled_from(
        ["a", ": ", "\n", "  ", "- ", "[", "]", "{", "}", ",", "&a ", "*a", "!!int ", "? ", "| ", "> ", "'", '"', "#",
         "%YAML 1.1\n", "---\n", "...\n", "\\", "\\ud83d", "\x00", "\u2028", "\ufeff", "1", ".nan", "<<", "\t", "\r"]
    ),
    max_size=40,
).map("".join)  # fmt: skip


@given(YAMLISH | st.text(max_size=80) | st.binary(max_size=80).map(lambda b: b.decode("latin-1")))
@example("\ud800")
@example("%YAML 99999999999999999999.1\n---\na")
@example("%TAG ! tag:x,2000:\n--- !a")
@settings(deadline=None, max_examples=600)
def test_any_text_is_read_or_refused_with_places(text: str) -> None:
    try:
        parsed = parse_text(text, "f.yaml")
    except ParseError as exc:
        error = exc
    else:
        error = None
    if error is not None:
        assert error.findings
        assert all((finding.line or 0) >= 1 and (finding.column or 0) >= 1 for finding in error.findings)
        return
    json.dumps(parsed.data, allow_nan=False)
    assert all(math.isfinite(number) for number in floats(parsed.data))


def floats(data: Any) -> list[float]:
    if isinstance(data, dict):
        return [number for value in data.values() for number in floats(value)]
    if isinstance(data, list):
        return [number for value in data for number in floats(value)]
    return [data] if isinstance(data, float) else []
