"""Plain data to YAML that the strict door reads back as the same data."""

import re
from typing import Any

import yaml

from flashrl_registry.documents.scalars import resolve_scalar

_NEEDS_ESCAPES = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


class _Dumper(yaml.SafeDumper):
    """PyYAML's dumper with the quoting of YAML 1.2, short lists on one line and no aliases."""


def _is_plain_string(text: str) -> bool:
    try:
        return isinstance(resolve_scalar(text), str)
    except ValueError:
        return False


def _represent_str(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # PyYAML quotes by YAML 1.1 rules; '1e-3' would come back from a 1.2 reader as a number. Only double quotes can
    # hold line breaks and control characters without folding or changing them.
    style = '"' if _NEEDS_ESCAPES.search(text) else None if _is_plain_string(text) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _represent_list(dumper: _Dumper, items: list[Any]) -> yaml.SequenceNode:
    short = all(isinstance(item, int | float | str) for item in items) and sum(len(str(i)) + 2 for i in items) < 90
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=short)


class _FastDumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """The same on libyaml, six times as fast; only for data whose text the two write alike."""


for _dumper in (_Dumper, _FastDumper):
    _dumper.add_representer(str, _represent_str)
    _dumper.add_representer(list, _represent_list)
    _dumper.ignore_aliases = lambda *_: True  # type: ignore[method-assign]


def _is_written_alike(data: Any) -> bool:
    """Short ASCII strings: libyaml escapes what lies outside the first Unicode plane, and folds lines its own way."""
    if isinstance(data, dict):
        return all(_is_written_alike(key) and _is_written_alike(value) for key, value in data.items())
    if isinstance(data, list):
        return all(_is_written_alike(item) for item in data)
    return not isinstance(data, str) or (data.isascii() and data.isprintable() and (" " not in data or len(data) < 60))


def dump_text(data: Any, header: str = "") -> str:
    """YAML text of plain data, keys in their order, after ``header`` lines."""
    dumper = _FastDumper if _is_written_alike(data) else _Dumper
    return header + yaml.dump(data, Dumper=dumper, sort_keys=False, allow_unicode=True, width=110)
