"""The one door through which YAML and JSON text enters.

PyYAML's safe loader keeps the last of two equal keys, reads ``no`` as false and ``1e-3`` as a string, and expands
aliases without bound. This door reads the event stream itself and refuses anything that could mean two things:
anchors, aliases, tags, merge keys, duplicate or non-string keys, several documents, NaN and infinity. Scalars
follow the YAML 1.2 core schema, of which JSON is a subset.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from flashrl_registry.errors import Finding, ParseError

MAX_BYTES = 1 << 20
MAX_NODES = 50_000
MAX_DEPTH = 32

Path = tuple[str | int, ...]
Place = tuple[int, int]

_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]{1,40}")
_OCTAL = re.compile(r"0o[0-7]{1,40}")
_HEX = re.compile(r"0x[0-9a-fA-F]{1,40}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

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


def resolve_scalar(text: str) -> Any:
    """Value of a plain scalar by the YAML 1.2 core schema.

    Raises:
        ValueError: NaN or infinity, however spelt.
    """
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        return int(text)
    if _OCTAL.fullmatch(text) or _HEX.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if number in (float("inf"), float("-inf")):
            raise ValueError(f"{text} is too large for a number")
        return number
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is not a finite number")
    return text


class _Builder:
    """Builds plain data from YAML events without recursion, collecting every fault."""

    def __init__(self, source: str, max_nodes: int) -> None:
        self.source = source
        self.max_nodes = max_nodes
        self.findings: list[Finding] = []
        self.parsed = Parsed(None)
        self.stack: list[tuple[Any, Path]] = []
        self.pending_key: list[str | None] = []
        self.nodes = 0
        self.documents = 0

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
        if not isinstance(resolved, str):
            self.fault(event.start_mark, f"keys are strings: write '{name}' in quotes", path)
        if name == "<<":
            self.fault(event.start_mark, "merge keys are not allowed; write the values out", path)
        if name in container:
            line, column = self.parsed.keys[full]
            self.fault(event.start_mark, f"duplicate key '{name}', first at {line}:{column}", path)
        else:
            self.parsed.keys[full] = (event.start_mark.line + 1, event.start_mark.column + 1)
        self.pending_key[-1] = name

    def scalar(self, event: Any) -> None:
        self.check_node(event)
        if self.awaiting_key():
            self.key(event)
            return
        value: Any = event.value
        if event.implicit[0]:  # a plain scalar; quoted ones are strings
            try:
                value = resolve_scalar(event.value)
            except ValueError as exc:
                self.fault(event.start_mark, str(exc), self.next_path())
        self.put(value, event)

    def open(self, event: Any, container: Any) -> None:
        self.check_node(event)
        if self.awaiting_key():
            self.fault(event.start_mark, "keys are strings, not lists or maps", self.stack[-1][1])
            self.pending_key[-1] = f"\0{self.nodes}"
        path = self.put(container, event)
        self.stack.append((container, path))
        self.pending_key.append(None)

    def feed(self, event: Any) -> bool:
        """Take one event; False when reading further would cost too much."""
        if isinstance(event, yaml.ScalarEvent):
            self.scalar(event)
        elif isinstance(event, yaml.MappingStartEvent):
            self.open(event, {})
        elif isinstance(event, yaml.SequenceStartEvent):
            self.open(event, [])
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self.stack.pop()
            self.pending_key.pop()
        elif isinstance(event, yaml.AliasEvent):
            self.fault(event.start_mark, f"aliases are not allowed: *{event.anchor}; write the value out")
            if self.awaiting_key():
                self.pending_key[-1] = f"\0{self.nodes}"
            else:
                self.put(None, event)
        elif isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                self.fault(event.start_mark, "one document to a file")
                return False
        if len(self.stack) > MAX_DEPTH:
            self.fault(event.start_mark, f"nested deeper than {MAX_DEPTH} levels", self.stack[-1][1])
            return False
        if self.nodes > self.max_nodes:
            self.fault(event.start_mark, f"more than {self.max_nodes} values")
            return False
        return True


def parse_text(text: str, source: str, *, max_bytes: int = MAX_BYTES, max_nodes: int = MAX_NODES) -> Parsed:
    """Parse YAML or JSON text.

    Args:
        text: The document.
        source: File name for messages.
        max_bytes: Longer text is refused.
        max_nodes: More values are refused.

    Returns:
        Plain data with places.

    Raises:
        ParseError: Lists every fault with line and column.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > max_bytes:
        raise ParseError([Finding(source, f"{size} bytes; the limit is {max_bytes}", code="parse")])
    builder = _Builder(source, max_nodes)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            if not builder.feed(event):
                break
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        place = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        builder.findings.append(Finding(source, f"not YAML: {exc.problem or exc.context}", *place, code="parse"))
    except (yaml.YAMLError, UnicodeEncodeError) as exc:
        builder.findings.append(Finding(source, f"not YAML: {exc}".replace("\n", " "), 1, 1, code="parse"))
    if builder.findings:
        raise ParseError(builder.findings)
    return builder.parsed


def pointer_text(path: Path) -> str:
    """``('rules', 2, 'scheme')`` as ``rules[2].scheme``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text


class _Dumper(yaml.SafeDumper):
    """Writes YAML that the strict door reads back as the same data."""


def _is_plain_string(text: str) -> bool:
    try:
        return isinstance(resolve_scalar(text), str)
    except ValueError:
        return False


def _represent_str(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # PyYAML quotes by YAML 1.1 rules; '1e-3' would come back from a 1.2 reader as a number.
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if _is_plain_string(text) else "'")


def _represent_list(dumper: _Dumper, items: list[Any]) -> yaml.SequenceNode:
    short = all(isinstance(item, int | float | str) for item in items) and sum(len(str(i)) + 2 for i in items) < 90
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=short)


_Dumper.add_representer(str, _represent_str)
_Dumper.add_representer(list, _represent_list)
_Dumper.ignore_aliases = lambda *_: True  # type: ignore[method-assign]


def dump_text(data: Any, header: str = "") -> str:
    """YAML text of plain data, keys in their order, after ``header`` lines."""
    return header + yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
