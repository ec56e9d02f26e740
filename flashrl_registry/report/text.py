"""Numbers for people, and the HTML around them. Whatever comes from a document is escaped here."""

import math
from collections.abc import Iterable, Sequence
from html import escape

NONE = "\N{EN DASH}"
"""In the place of a number that was not measured."""


def percent(share: float) -> str:
    """``98.43``; rounded down, so that 100 means all."""
    return "100" if share == 1 else f"{math.floor(share * 10_000) / 100:.2f}"


def significant(number: float) -> str:
    """Two digits that matter, without exponents where that is readable."""
    if number == 0:
        return "0"
    if abs(number) >= 10:
        return f"{number:.0f}"
    return f"{number:.2g}" if abs(number) < 1e-4 else f"{number:.{max(0, 1 - math.floor(math.log10(abs(number))))}f}"


def number(value: float | None, digits: int) -> str:
    """A fixed number of digits; a dash where there is no value."""
    return NONE if value is None else f"{value:.{digits}f}"


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[object]], *, words: int = 1) -> str:
    """A table whose first columns are words and whose others are numbers, in a box that scrolls sideways.

    Args:
        caption: What it shows.
        header: One per column.
        rows: Cells; each is escaped.
        words: How many columns are words.
    """
    kinds = ["word" if index < words else "count" for index in range(len(header))]
    head = "".join(
        f'<th scope="col" class="{kind}">{escape(name)}</th>' for kind, name in zip(kinds, header, strict=True)
    )
    body = "\n".join("<tr>" + _cells(row, kinds) + "</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _cells(row: Sequence[object], kinds: Sequence[str]) -> str:
    first = f'<th scope="row">{_breakable(row[0])}</th>'
    return first + "".join(
        f'<td class="{kind}">{_breakable(cell)}</td>' for kind, cell in zip(kinds[1:], row[1:], strict=True)
    )


def _breakable(cell: object) -> str:
    """Escaped; a long name may break after a dot."""
    return escape(str(cell)).replace(".", ".<wbr>") if len(str(cell)) > 24 else escape(str(cell))


def pairs(entries: Iterable[tuple[str, str]]) -> str:
    """Names and values."""
    lines = "\n".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in entries)
    return f"<dl>\n{lines}\n</dl>"


def figure(drawing: str, caption: str) -> str:
    """A drawing and what it says."""
    return (
        f'<figure><div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">{drawing}</div>\n'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def folded(summary: str, content: str) -> str:
    """Content that is opened on demand."""
    return f"<details><summary>{escape(summary)}</summary>\n{content}\n</details>"


def tabs(entries: Sequence[tuple[str, str, str]]) -> str:
    """Content of which one is shown at a time, by radio buttons and CSS alone.

    Args:
        entries: Key, title and content.
    """
    rules = "\n".join(f"#tab-{key}:checked ~ #panel-{key} {{ display: block }}" for key, _, _ in entries)
    buttons = "\n".join(
        f'<input type="radio" name="tab" id="tab-{key}"{" checked" if index == 0 else ""}>'
        f'<label for="tab-{key}">{escape(title)}</label>'
        for index, (key, title, _) in enumerate(entries)
    )
    panels = "\n".join(f'<div class="panel" id="panel-{key}">\n{content}\n</div>' for key, _, content in entries)
    return f'<style>\n{rules}\n</style>\n<div class="tabs">\n{buttons}\n{panels}\n</div>'
