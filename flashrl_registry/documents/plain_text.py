"""Plain text: what people may write about a plan, and how what strangers wrote is shown.

A terminal acts on some characters: it moves the cursor, changes colours, answers, or shows text in another order. None
of them is written here, and where somebody else wrote one, it is shown as Python would write it.
"""

import json
import re

MAX_TEXT, MAX_WHO = 1024, 128

# Control characters, line breaks, marks that turn the direction of text or are not seen, and halves of characters.
_UNSAFE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
    r"|[\U000e0000-\U000e007f]"
)


def escaped(text: str, *, lines: bool = False) -> str:
    """Text on which no terminal acts.

    Args:
        text: Whoever wrote it.
        lines: Keep line breaks and tabs.
    """
    return _UNSAFE.sub(lambda match: match[0] if lines and match[0] in "\n\t" else _escape(match[0]), text)


def escaped_json(text: str) -> str:
    """JSON on one line, whose strings no terminal acts on either; it reads as the same."""
    return _UNSAFE.sub(lambda match: json.dumps(match[0])[1:-1], text)


def text_fault(text: str, limit: int = MAX_TEXT, *, lines: bool = False) -> str | None:
    """What is wrong with a text that somebody wants to write for others; None where nothing is.

    Args:
        text: As it was given.
        limit: Characters that it may have.
        lines: Line breaks and tabs are welcome.
    """
    if not text.strip():
        return "it is empty, and everyone who uses the version reads it"
    if len(text) > limit:
        return f"it has {len(text)} characters; at most {limit} are kept"
    for match in _UNSAFE.finditer(text):
        if not (lines and match[0] in "\n\t"):
            breaks = not lines and match[0] in "\r\n\u2028\u2029"
            what = "a line break" if breaks else f"{_escape(match[0])}, which terminals act on"
            return f"it contains {what}; write {'' if lines else 'one line of '}plain text"
    return None


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode()
