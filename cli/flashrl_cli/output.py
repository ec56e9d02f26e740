"""The only place that prints.

Results go to stdout, as text for people or as one JSON object; everything else goes to stderr. Whoever wrote a text,
nothing in it moves the cursor. Nothing here imports rich before a progress bar is drawn: it costs more than ``--help``
may.
"""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from flashrl_registry.documents.plain_text import escaped, escaped_json
from flashrl_registry.errors import FlashRLError

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

_SHOWN_OTHERS = 5


class Progress(Protocol):
    """Called with (done, total, name), and with the bytes that were read so far where they are counted."""

    def __call__(self, done: int, total: int, name: str, num_bytes: int = 0, /) -> None: ...  # noqa: D102


def result(data: Mapping[str, Any], text: str, *, as_json: bool, ok: bool = True) -> None:
    """Print a command's result: ``text``, or ``data`` as one JSON object with ``ok``."""
    if as_json:
        _write(sys.stdout, _json(json.dumps({"ok": ok, **data}, default=str, ensure_ascii=False)))
    elif text:
        _write(sys.stdout, text)


def stream(
    head: Mapping[str, Any], key: str, items: Iterable[Mapping[str, Any]], tail: Callable[[], Mapping[str, Any]]
) -> None:
    """Print one JSON object whose list may be long, item by item as it is made.

    Nothing is printed before the first item is there, so an error until then is an error like any other.

    Args:
        head: What is known at the beginning.
        key: Name of the list.
        items: Its items.
        tail: What is known at the end, ``ok`` among it.
    """
    encoder = json.JSONEncoder(default=str, ensure_ascii=False)

    def encode(data: Mapping[str, Any]) -> str:
        return _json(encoder.encode(data))

    before = encode({**head, key: []}).removesuffix("]}")
    for item in items:
        sys.stdout.write(before + encode(item))
        before = ", "
    sys.stdout.write(before if before != ", " else "")
    _write(sys.stdout, "], " + encode(tail()).removeprefix("{"))


def note(text: str) -> None:
    """Tell people something that is not the result."""
    _write(sys.stderr, text)


def failure(error: Mapping[str, Any], *, as_json: bool) -> None:
    """Print why a command failed: to stderr, or as one JSON object on stdout.

    Args:
        error: ``code``, ``message``, ``hint``, ``context``; see :func:`error_data`.
        as_json: Print JSON.
    """
    if as_json:
        result({"error": error}, "", as_json=True, ok=False)
        return
    message = str(error["message"])
    # Diagnostics say themselves that they are errors.
    _write(sys.stderr, message if message.startswith("error[") else f"error: {message}")
    if error["hint"]:
        _write(sys.stderr, f"hint: {error['hint']}")


def error_data(error: FlashRLError) -> dict[str, Any]:
    """An error for ``--json``."""
    return {"code": error.code, "message": error.message, "hint": error.hint, "context": error.context}


def counted_others(files: Sequence[object]) -> str:
    """What is added to a summary where files were left alone, so that nobody takes them for checked."""
    if not files:
        return ""
    shown = ", ".join(str(file) for file in files[:_SHOWN_OTHERS])
    more = f" and {len(files) - _SHOWN_OTHERS} more" if len(files) > _SHOWN_OTHERS else ""
    return f"; {len(files)} other {'file' if len(files) == 1 else 'files'}, not ours: {shown}{more}"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Aligned columns; numbers to the right."""
    cells = [[escaped(str(cell)) for cell in row] for row in rows]
    numeric = [bool(cells) and all(_is_number(row[i]) for row in cells) for i in range(len(header))]
    lines = [list(header), *cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )


def size(num_bytes: int) -> str:
    """Bytes for people: ``135.2 MB`` (powers of ten)."""
    value = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


@contextmanager
def progress(label: str, *, enabled: bool = True) -> Iterator[Progress | None]:
    """A progress bar on stderr; None where nobody watches.

    Args:
        label: What is being done.
        enabled: False for machine-readable runs.
    """
    if not enabled or not sys.stderr.isatty():
        yield None
        return
    from rich.progress import MofNCompleteColumn, TextColumn

    start = time.monotonic()
    with _bar(label, MofNCompleteColumn(), TextColumn("{task.fields[rate]}")) as draw:

        def update(done: int, total: int, name: str, num_bytes: int = 0, /) -> None:
            rate = f"{num_bytes / 1e9 / max(time.monotonic() - start, 1e-6):.2f} GB/s" if num_bytes else ""
            draw(completed=done, total=total, name=name, rate=rate)

        yield update


@contextmanager
def waiting(label: str, *, enabled: bool = True) -> Iterator[None]:
    """A moving line on stderr while a store is asked; nothing where nobody watches.

    Args:
        label: What is being done.
        enabled: False for machine-readable runs.
    """
    if not enabled or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(label):
        yield


@contextmanager
def transferring(label: str, *, enabled: bool = True) -> Iterator[None]:
    """A bar on stderr for what stores move inside the block; nothing where nobody watches.

    Args:
        label: What is being done.
        enabled: False for machine-readable runs.
    """
    if not enabled or not sys.stderr.isatty():
        yield
        return
    from rich.progress import DownloadColumn, TransferSpeedColumn

    from flashrl_registry.registry.transfer import watched

    with (
        _bar(label, DownloadColumn(), TransferSpeedColumn()) as draw,
        watched(lambda done, total, name: draw(completed=done, total=total, name=name)),
    ):
        yield


@contextmanager
def _bar(label: str, *measures: "ProgressColumn") -> Iterator[Callable[..., None]]:
    """A bar on stderr, gone at the end; it moves to and fro until its total is known.

    Args:
        label: What is being done.
        measures: Columns that say how far it is.
    """
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), *measures, TimeRemainingColumn())
    with Bar(
        *columns, TextColumn("{task.fields[name]}", style="dim"), console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task(label, total=None, name="", rate="")
        yield partial(bar.update, task)


def flush() -> None:
    """Write out what is buffered; a reader that went away is no error.

    Raises:
        BrokenPipeError: The reader went away.
    """
    sys.stdout.flush()
    sys.stderr.flush()


def discard() -> None:
    """Send what may still be buffered nowhere, so that the interpreter's own flush at exit stays quiet."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())


def _json(text: str) -> str:
    """JSON whose strings no terminal acts on, and that stdout's encoding has."""
    text = escaped_json(text)
    encodable = _encodable(sys.stdout, text) == text
    return text if encodable else re.sub(r"[^\x00-\x7f]", lambda match: json.dumps(match[0])[1:-1], text)


def _encodable(stream: TextIO, text: str) -> str:
    """Text with escapes for what a stream's encoding does not have, as an old terminal's may not."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _write(stream: TextIO, text: str) -> None:
    text = _encodable(stream, escaped(text, lines=True))
    stream.write(text if text.endswith("\n") else text + "\n")


def _is_number(text: str) -> bool:
    return text.replace(",", "").replace(".", "", 1).isdigit()
