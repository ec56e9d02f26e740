"""What a file is by its looks: a document of ours, well or badly written, or somebody else's.

Bytes decide, before their number, their encoding or their syntax is looked at: a document that is broken in one of
those ways is a broken document, and not a file that a search for documents may leave out.
"""

import difflib
import json
import re
from collections.abc import Collection

KEY = "schema_version"
_ADDRESS = re.compile(rb"\$schema\"?\s{0,9}[=:]\s{0,9}\"?\S{0,200}/flashrl-registry/\S{0,200}schemas/[a-z-]+/v[0-9]")
_VERSION = re.compile(rb"flashrl\.[a-z-]+/v[0-9]")
_KEY_BEFORE = re.compile(rb"""["']?([A-Za-z_-]{1,40})["']?\s{0,20}:\s{0,20}["']?\Z""")
_NOTHING = re.compile(rb"(?:\xef\xbb\xbf)?(?:\s|#[^\n]*\n|---)*")
_TOP_KEY = re.compile(rb"""^["']?([A-Za-z_-]{1,40})["']?[ \t]{0,20}:""", re.MULTILINE)
_MAX_JSON = 1 << 20
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def is_nearly_key(text: str) -> bool:
    """``schema_version``, or what a hurried hand makes of it."""
    return difflib.SequenceMatcher(None, text.lower().replace("-", "_"), KEY).ratio() > 0.6


def is_claimed(data: bytes, names: Collection[str]) -> bool:
    """Whether a file's bytes look like a document of ours.

    True where a version of ours is the value of ``schema_version``, or of a key that is spelt nearly so, at the top;
    where the line for editors names one of our schemas; and where ``schema_version``, whatever its value, stands at
    the top beside a key of our documents.

    Args:
        data: The file, or its beginning.
        names: Keys that documents of ours have at their top and other files seldom.
    """
    if data.startswith(_UTF_16):
        data = data[2:].replace(b"\0", b"")
    if _ADDRESS.search(data) or any(_is_version(data, match.start()) for match in _VERSION.finditer(data)):
        return True
    keys = _top_keys(data)
    near = any(difflib.SequenceMatcher(None, key, KEY).ratio() > 0.85 and key.islower() for key in keys)
    return near and not keys.isdisjoint(names)


def _is_version(data: bytes, index: int) -> bool:
    """Whether the version at this index is the value of the key, at the top of the file."""
    key = _KEY_BEFORE.search(data, max(0, index - 90), index)
    if key is None or not is_nearly_key(key[1].decode()):
        return False
    start = key.start()
    at_line_start = start == 0 or data[start - 1 : start] in {b"\n", b"\r"}
    return at_line_start or _is_flow(data) or (start < 4096 and _NOTHING.fullmatch(data, 0, start) is not None)


def _is_flow(data: bytes) -> bool:
    nothing = _NOTHING.match(data, 0, 4096)
    return data[nothing.end() if nothing else 0 :][:1] == b"{"


def _top_keys(data: bytes) -> set[str]:
    if _is_flow(data) and len(data) <= _MAX_JSON:
        try:
            loaded = json.loads(data)
        except (ValueError, RecursionError):
            return set()
        return set(loaded)
    return {match[1].decode() for match in _TOP_KEY.finditer(data)}
