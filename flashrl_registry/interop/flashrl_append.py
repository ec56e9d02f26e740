"""One more entry in the text of a FlashRL config: text is inserted, and every byte of the file stays.

Where an entry may be inserted is not computed from YAML's grammar: a few places are tried, and the first counts at
which the text reads as the old config and the new entry. Nothing is written that was not read back.
"""

import re
from collections.abc import Iterator

from flashrl_registry.documents.strict_yaml import Parsed, parse_text
from flashrl_registry.errors import DocumentError, InteropError
from flashrl_registry.interop.flashrl_config import FlashRLConfig, FlashRLEntry, parse_config
from flashrl_registry.interop.flashrl_text import config_text, flow_text

# Each try parses the file.
_TRIES = 40
_DASH = re.compile(r"( *)-(\s|$)")
_IDLE_LINE = re.compile(r"\s*(#.*)?")
_END_OF_DOCUMENT = re.compile(r"\.\.\.(\s|$)")


def with_entry(text: str, entry: FlashRLEntry, source: str) -> tuple[str, FlashRLConfig]:
    """Add an entry.

    Args:
        text: A FlashRL config, or a file of comments only.
        entry: What to add.
        source: File name for messages.

    Returns:
        The new text, and what it says.

    Raises:
        ParseError, SchemaError: The text is no FlashRL config.
        InteropError: An entry can be added only by writing the file anew.
    """
    parsed = parse_text(text, source)
    before = FlashRLConfig(()) if parsed.data is None else parse_config(text, source)
    entry = FlashRLEntry({name: entry.values[name] for name in sorted(entry.values)})
    wanted = FlashRLConfig((*before.entries, entry), before.others)
    for number, candidate in enumerate(_candidates(text, parsed, entry)):
        if number == _TRIES:
            break
        try:
            read = parse_config(candidate, source)
        except DocumentError:
            continue
        if repr(read) == repr(wanted):  # 1 is True, and no NaN is itself
            return candidate, wanted
    raise InteropError(
        f"{source} cannot take another entry without being written anew, which would lose its comments",
        hint="write configs as a list with one dash per entry, at the end of the file",
    )


def _candidates(text: str, parsed: Parsed, entry: FlashRLEntry) -> Iterator[str]:
    """The text with the entry at the places where it may belong, the likeliest first."""
    ending = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines(keepends=True)
    if parsed.data is None:
        yield _inserted(lines, len(lines), config_text(FlashRLConfig((entry,))).splitlines(), ending)
        return
    first = parsed.keys["configs",][0]  # 1-based: the index of the line after the key's
    below = [line for (key, *deeper), (line, _) in parsed.keys.items() if not deeper and line > first]
    last = min(below) - 1 if below else next(
        (index for index, line in enumerate(lines) if index >= first and _END_OF_DOCUMENT.match(line)), len(lines)
    )  # fmt: skip
    dash = next((match for line in lines[first:last] if (match := _DASH.match(line))), None)
    if dash is not None:
        new = [dash[1] + line for line in config_text(FlashRLConfig((entry,))).splitlines()[1:]]
        above = last
        while below and above > first and _IDLE_LINE.fullmatch(lines[above - 1].rstrip("\r\n")):
            above -= 1  # comments above a key are that key's
        yield _inserted(lines, above, new, ending)
        yield _inserted(lines, last, new, ending)
    head, tail = "".join(lines[:last]), "".join(lines[last:])
    flow = flow_text(entry)
    for match in reversed(list(re.finditer(r"\]", head))):
        for comma in (", ", " "):
            yield head[: match.start()] + comma + flow + head[match.start() :] + tail


def _inserted(lines: list[str], index: int, new: list[str], ending: str) -> str:
    above = "".join(lines[:index])
    if above and not above.endswith(("\n", "\r")):
        above += ending
    return above + "".join(line + ending for line in new) + "".join(lines[index:])
