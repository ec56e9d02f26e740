"""Plain scalars by the YAML 1.2 core schema, of which JSON's are a part: ``no`` is a string, ``1e-3`` a number."""

import re
from typing import Any

# RFC 8785 refuses larger ones: a reader that holds numbers as doubles would round them.
MAX_INT = 2**53 - 1

_WORDS = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_WHOLE = (
    (re.compile(r"[-+]?[0-9]+"), 10),
    (re.compile(r"0o[0-7]+"), 8),
    (re.compile(r"0x[0-9a-fA-F]+"), 16),
)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
# Strings in the core schema; markers and numbers in YAML 1.1, and for some readers of 1.2 such as ruamel's.
_TWO_MEANINGS = re.compile(
    r"=|<<|[-+]?0b[01_]+|[-+]?0[ox][0-9a-fA-F_]+"
    r"|(?=[^_]*_)(([0-9]|[-+][0-9_])[0-9_]*(\.[0-9_]*)?|[-+]?\.[0-9_]+)([eE][-+]?[0-9]+)?"
)
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def resolve_scalar(text: str) -> Any:
    """Value of a plain scalar by the YAML 1.2 core schema.

    Raises:
        ValueError: NaN or infinity, however spelt; a whole number that JSON readers round; text that one reader takes
            for a string and another for a number or a marker.
    """
    if text in _WORDS:
        return _WORDS[text]
    for pattern, radix in _WHOLE:
        if pattern.fullmatch(text):
            return _whole(text, radix)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if number in (float("inf"), float("-inf")):
            raise ValueError(f"{text} is too large for a number")
        return number
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is not a finite number")
    if "\t" in text:
        raise ValueError("a tab in a string without quotes; not every reader of YAML admits that")
    if _TWO_MEANINGS.fullmatch(text):
        raise ValueError(f"{text} is not a string for every reader of YAML; write it in quotes")
    return text


def _whole(text: str, radix: int) -> int:
    # int() refuses thousands of digits by itself; a number that long is too large in any radix.
    number = int(text, radix) if len(text) <= 64 else MAX_INT + 1
    if abs(number) > MAX_INT:
        shown = text if len(text) <= 64 else text[:61] + "..."
        raise ValueError(f"{shown} is larger than {MAX_INT}; write it in quotes if it is a name")
    return number
