"""The one door through which YAML and JSON text enters.

PyYAML's safe loader keeps the last of two equal keys, reads ``no`` as false and ``1e-3`` as a string, and expands
aliases without bound. This door reads the event stream itself and refuses anything that could mean two things:
anchors, aliases, tags, directives, merge keys, duplicate or non-string keys, several documents, NaN, infinity,
whole numbers that JSON readers round, and characters that end a line in YAML 1.1 but not in 1.2. Scalars follow the
YAML 1.2 core schema, of which JSON is a subset.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

from flashrl_registry.documents.characters import (
    BOM,
    Spans,
    json_as_yaml,
    json_finding,
    misplaced_tabs,
    refused_characters,
    syntax_message,
)
from flashrl_registry.documents.scalars import resolve_scalar
from flashrl_registry.errors import Finding, ParseError

MAX_BYTES = 1 << 20
MAX_NODES = 50_000
MAX_DEPTH = 32
MAX_FINDINGS = 100
ENOUGH = 10_000
"""Values that are read after the first fault, to find others."""
SIZE_HINT = (
    "profiles and resolved plans may have 64 MiB and must say what they are (schema_version); other documents 1 MiB: "
    "name tensors by families and globs, not one by one"
)
_FIRST_STOP = 2000  # values

Path = tuple[str | int, ...]
Place = tuple[int, int]

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class Parsed:
    """Plain data and where each part of it stands.

    Attributes:
        data: Dicts, lists, strings, numbers, booleans, None.
        places: Key path to 1-based (line, column) of the value.
        keys: Key path to 1-based (line, column) of its key.
    """

    data: Any
    places: dict[Path, Place] = field(default_factory=dict)
    keys: dict[Path, Place] = field(default_factory=dict)


Stop = Callable[[Parsed], bool]


class _Builder:
    """Builds plain data from YAML events without recursion, collecting every fault."""

    def __init__(self, source: str, max_nodes: int, stop: Stop | None, *, is_json: bool) -> None:
        self.source = source
        self.max_nodes = max_nodes
        self.stop = stop
        self.is_json = is_json
        self.next_stop = _FIRST_STOP
        self.stopped = False
        self.num_clean = 0
        self.findings: list[Finding] = []
        self.parsed = Parsed(None)
        self.stack: list[tuple[Any, Path]] = []
        self.pending_key: list[str | None] = []
        self.refused_key_depth: int | None = None
        self.nodes = 0
        self.documents = 0
        self.spans: Spans = []  # where tabs may stand
        self.flow_start: tuple[int, int] | None = None  # depth and index of the outermost bracket that is open

    def fault(self, mark: Any, message: str, path: Path = ()) -> None:
        self.findings.append(Finding(self.source, message, mark.line + 1, mark.column + 1, pointer_text(path), "parse"))

    def next_path(self) -> Path:
        if not self.stack:
            return ()
        container, path = self.stack[-1]
        return (*path, len(container)) if isinstance(container, list) else (*path, self.pending_key[-1] or "")

    def awaiting_key(self) -> bool:
        return bool(self.stack) and isinstance(self.stack[-1][0], dict) and self.pending_key[-1] is None

    def check_node(self, event: Any) -> None:
        self.nodes += 1
        if getattr(event, "anchor", None) is not None:
            self.fault(event.start_mark, f"anchors are not allowed: &{event.anchor}; write the value out")
        if getattr(event, "tag", None) is not None:
            self.fault(event.start_mark, f"tags are not allowed: {event.tag}; documents hold plain values")

    def put(self, value: Any, event: Any) -> Path:
        path = self.next_path()
        mark = event.start_mark
        self.parsed.places[path] = (mark.line + 1, mark.column + 1)
        if not self.stack:
            self.parsed.data = value
        elif isinstance(self.stack[-1][0], list):
            self.stack[-1][0].append(value)
        else:
            key = self.pending_key[-1]
            self.stack[-1][0][key] = value
            self.pending_key[-1] = None
        return path

    def key(self, event: Any) -> None:
        container, path = self.stack[-1]
        plain = event.implicit[0]
        try:
            resolved = resolve_scalar(event.value) if plain else event.value
        except ValueError:
            resolved = None
        name = event.value
        full = (*path, name)
        if plain and name == "<<":
            self.fault(event.start_mark, "merge keys are not allowed; write the values out", path)
        elif not isinstance(resolved, str):
            self.fault(event.start_mark, f"keys are strings: write '{name}' in quotes", path)
        if name in container:
            line, column = self.parsed.keys.get(full, (0, 0))
            self.fault(event.start_mark, f"duplicate key '{name}', first at {line}:{column}", path)
        else:
            self.parsed.keys[full] = (event.start_mark.line + 1, event.start_mark.column + 1)
        self.pending_key[-1] = name

    def scalar(self, event: Any) -> None:
        self.check_node(event)
        self.span(event)
        if self.awaiting_key():
            self.key(event)
            return
        value: Any = event.value
        if event.implicit[0]:  # a plain scalar; quoted ones are strings
            try:
                value = resolve_scalar(event.value)
            except ValueError as exc:
                self.fault(event.start_mark, str(exc), self.next_path())
            if self.is_json and event.value in {"NaN", "Infinity", "-Infinity"}:
                self.fault(event.start_mark, f"{event.value} is no value of JSON", self.next_path())
        self.put(value, event)

    def span(self, scalar: Any) -> None:
        """Note where a quoted or block string lies."""
        if scalar.style and self.flow_start is None:
            self.spans.append((scalar.start_mark.index, scalar.end_mark.index))

    def open(self, event: Any, container: Any) -> None:
        self.check_node(event)
        if event.flow_style and self.flow_start is None:
            self.flow_start = (len(self.stack), event.start_mark.index)
        if self.awaiting_key():
            self.fault(event.start_mark, "keys are strings, not lists or maps", self.stack[-1][1])
            if self.refused_key_depth is None:
                self.refused_key_depth = len(self.stack)
            # Built beside the document, so that what follows is still read as the pairs that it is.
            self.stack.append((container, self.stack[-1][1]))
        else:
            self.stack.append((container, self.put(container, event)))
        self.pending_key.append(None)

    def close(self, event: Any) -> None:
        self.stack.pop()
        self.pending_key.pop()
        if self.flow_start is not None and self.flow_start[0] == len(self.stack):
            self.spans.append((self.flow_start[1], event.end_mark.index))
            self.flow_start = None
        if self.refused_key_depth == len(self.stack):
            self.refused_key_depth = None
            self.refuse_key()

    def refuse_key(self) -> None:
        """A name that no document can have, for a key that was refused."""
        self.pending_key[-1] = f"\0{self.nodes}"

    def alias(self, event: Any) -> None:
        self.nodes += 1
        self.fault(event.start_mark, f"aliases are not allowed: *{event.anchor}; write the value out")
        if self.awaiting_key():
            self.refuse_key()
        else:
            self.put(None, event)

    def feed(self, event: Any) -> bool:
        """Take one event; False when reading further would cost too much or tell nothing new."""
        if isinstance(event, yaml.ScalarEvent):
            self.scalar(event)
        elif isinstance(event, yaml.MappingStartEvent):
            self.open(event, {})
        elif isinstance(event, yaml.SequenceStartEvent):
            self.open(event, [])
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self.close(event)
        elif isinstance(event, yaml.AliasEvent):
            self.alias(event)
        elif isinstance(event, yaml.DocumentStartEvent):
            if event.version or event.tags:
                self.fault(event.start_mark, "directives are not allowed; documents are YAML 1.2 without tags")
            self.documents += 1
            if self.documents > 1:
                self.fault(event.start_mark, "one document to a file")
                return False
        return self.within_limits(event)

    def within_limits(self, event: Any) -> bool:
        if self.stop is not None and self.nodes >= self.next_stop:
            # In growing steps, so that what is looked at more than once stays a small part of all.
            self.next_stop = self.nodes + self.nodes // 4
            self.stopped = self.stop(self.parsed)
        if len(self.stack) > MAX_DEPTH:
            self.fault(event.start_mark, f"nested deeper than {MAX_DEPTH} levels", self.stack[-1][1])
            return False
        if self.nodes > self.max_nodes:
            self.fault(event.start_mark, f"more than {self.max_nodes} values")
            return False
        if not self.findings:
            self.num_clean = self.nodes
        self.stopped |= len(self.findings) >= MAX_FINDINGS or self.nodes - self.num_clean > ENOUGH
        return not self.stopped


def parse_text(
    text: str,
    source: str,
    *,
    max_bytes: int = MAX_BYTES,
    max_nodes: int = MAX_NODES,
    stop: Stop | None = None,
    is_json: bool = False,
) -> Parsed:
    """Parse YAML or JSON text.

    Args:
        text: The document.
        source: File name for messages.
        max_bytes: Longer text is refused.
        max_nodes: More values are refused.
        is_json: The text must be JSON; what only YAML admits is not looked for here, but the numbers that neither has.
        stop: Asked now and then, with what has been read, whether to stop reading.

    Returns:
        Plain data with places; its first part where ``stop`` said so.

    Raises:
        ParseError: Lists every fault with line and column.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > max_bytes:
        raise ParseError([Finding(source, f"{size} bytes; the limit is {max_bytes}", code="parse")], hint=SIZE_HINT)
    text = json_as_yaml(text.removeprefix(BOM))
    findings = refused_characters(text, source, MAX_FINDINGS)
    builder = _Builder(source, max_nodes, stop, is_json=is_json)
    if not findings:
        _build(builder, text)
        findings = builder.findings
    if not findings and "\t" in text and not (builder.stopped or is_json):
        findings = misplaced_tabs(text, source, builder.spans, MAX_FINDINGS)
    if findings and (builder.stopped or len(findings) >= MAX_FINDINGS):
        findings.append(Finding(source, "and perhaps more; not read further", code="more"))
    if findings:
        raise ParseError(findings)
    return builder.parsed


def _build(builder: _Builder, text: str) -> None:
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            if not builder.feed(event):
                break
    except yaml.MarkedYAMLError as exc:
        if builder.is_json and (finding := json_finding(text, builder.source)):
            builder.findings.append(finding)
            return
        mark = exc.problem_mark or exc.context_mark
        place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        message = syntax_message(str(exc.problem or exc.context), text, mark.index if mark else len(text))
        builder.findings.append(Finding(builder.source, message, *place, code="parse"))
    except yaml.YAMLError as exc:
        builder.findings.append(Finding(builder.source, f"not YAML: {exc}".replace("\n", " "), 1, 1, code="parse"))


def pointer_text(path: Path) -> str:
    """``('rules', 2, 'scheme')`` as ``rules[2].scheme``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text
