"""Characters on which readers of YAML and JSON disagree, and what the parser's words about them mean."""

import itertools
import json
import re

from flashrl_registry.errors import Finding

BOM = "\ufeff"
"""A mark of the encoding at the start of a file; no part of the text."""

_BREAKS_OF_1_1 = "\x85\u2028\u2029"
# Those, and what YAML 1.2 allows nowhere in a file.
_REFUSED = re.compile(f"[{_BREAKS_OF_1_1}]|[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# Allowed raw in a JSON string, but not in a YAML file, or not with the same meaning.
_ONLY_JSON = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_SURROGATES = re.compile(r"(?<!\\)((?:\\\\)*)\\u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})")
_COMMENT = re.compile(r"(^|[ \t])#")

_PLAIN_WORDS = {
    "mapping values are not allowed in this context":
        "a key cannot stand here: wrong indentation, or a string with ': ' in it that needs quotes",
    "found unexpected end of stream": "the file ends inside a quoted string",
    "did not find expected key": "a key was expected here; is the indentation right?",
    "did not find expected '-' indicator": "'- ' was expected here; is the indentation right?",
    "could not find expected ':'": "a key without ':' after it",
}  # fmt: skip

Spans = list[tuple[int, int]]
"""Parts of a text, from an index up to another, in order."""


def json_as_yaml(text: str) -> str:
    """JSON whose characters YAML refuses or reads otherwise, with those escaped; any other text as it is.

    YAML has no surrogate pairs (``json.dumps`` writes them for an emoji) and forbids some raw characters that JSON
    allows. Columns after such a character on the same line shift.
    """
    if not (_ONLY_JSON.search(text) or _SURROGATES.search(text)):
        return text
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    text = _SURROGATES.sub(_code_point, text)
    return _ONLY_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _code_point(match: re.Match[str]) -> str:
    high, low = int(match[2], 16), int(match[3], 16)
    return f"{match[1]}\\U{0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00):08x}"


def refused_characters(text: str, source: str, at_most: int) -> list[Finding]:
    """Characters that no document has outside its escapes; a parser would not read past them, or count other lines."""
    findings = []
    for match in itertools.islice(_REFUSED.finditer(text), at_most):
        code = f"{ord(match[0]):04x}"
        what = "ends a line in YAML 1.1 and not in 1.2" if match[0] in _BREAKS_OF_1_1 else "is not allowed in YAML"
        message = f"U+{code} {what}; write \\u{code} in double quotes"
        findings.append(Finding(source, message, *place_of(text, match.start()), code="parse"))
    return findings


def misplaced_tabs(text: str, source: str, spans: Spans, at_most: int) -> list[Finding]:
    """Tabs that separate or indent, where YAML 1.2 has spaces; some readers take them and others do not.

    Args:
        text: The document.
        source: File name for messages.
        spans: Quoted strings, block strings, and what stands in brackets or braces: tabs are nobody's trouble there.
        at_most: Findings wanted.
    """
    findings: list[Finding] = []
    # A block string begins in the line after its head.
    spans = [(text.find("\n", start) if text[start] in "|>" else start, end) for start, end in spans]
    following = iter([*spans, (len(text), len(text))])
    before, (start, end) = 0, next(following)
    comment_end = 0
    for match in re.finditer("\t", text):
        index = match.start()
        while index >= end:
            before, (start, end) = end, next(following)
        if index >= start or index < comment_end:
            continue
        if _COMMENT.search(text[max(before, text.rfind("\n", 0, index) + 1) : index]):
            comment_end = text.find("\n", index) % (len(text) + 1)
            continue
        message = "a tab outside quotes; not every reader of YAML admits that, write spaces"
        findings.append(Finding(source, message, *place_of(text, index), code="parse"))
        if len(findings) == at_most:
            break
    return findings


def syntax_message(problem: str, text: str, index: int) -> str:
    """The parser's word for a fault, in words of the file."""
    here = text[index : index + 1]
    if here == "\t" and ("cannot start" in problem or "tab character" in problem):
        return "not YAML: a tab where only spaces may stand"
    if here and "cannot start" in problem:
        return f"not YAML: {here} cannot start a value; write the string in quotes"
    if "invalid Unicode character escape" in problem:  # JSON's grammar admits it, and its readers disagree
        return "invalid Unicode character escape: half of a surrogate pair, or no character"
    return f"not YAML: {_PLAIN_WORDS.get(problem, problem)}"


def json_finding(text: str, source: str) -> Finding | None:
    """What is wrong with a file that is JSON by its name: a comma too many, a word without quotes."""
    text = text.removeprefix(BOM)
    try:
        json.loads(text)
    except json.JSONDecodeError as exc:
        message = f"not JSON, though the file's name says so: {exc.msg[:1].lower()}{exc.msg[1:]}"
        return Finding(source, message, exc.lineno, exc.colno, code="parse")
    except (ValueError, RecursionError):  # thousands of digits or of brackets: the limits of documents say so
        return None
    return None


def place_of(text: str, index: int) -> tuple[int, int]:
    """1-based line and column of an index."""
    return text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index)
