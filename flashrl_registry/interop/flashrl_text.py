"""The text of a FlashRL config.

It means the same in YAML 1.1 and 1.2, so that an old installation reads what this one wrote.
"""

import json
import re
from typing import Any

from flashrl_registry.documents.scalars import resolve_scalar
from flashrl_registry.interop.flashrl_config import FlashRLConfig, FlashRLEntry

# Words and shapes that YAML 1.1 reads as something else than a string.
_WORDS_OF_1_1 = {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "~", ""}
_PLAIN = re.compile(r"[A-Za-z_/.][A-Za-z0-9_./+-]*")
_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_NUMBERS_OF_1_1 = re.compile(r"[-+.0-9_:]+|0x[0-9a-fA-F_]+|[-+]?[0-9._]+([eE][-+]?[0-9]+)?|[-+]?\.(inf|nan)", re.I)


def config_text(config: FlashRLConfig, *, header: str = "") -> str:
    """YAML that PyYAML and YAML 1.2 readers read alike; keys in FlashRL's order, which is alphabetical.

    Args:
        config: What to write.
        header: Comment lines without the ``#``.
    """
    lines = [f"# {line}".rstrip() for line in header.splitlines()]
    data = {**config.others, "configs": [dict(entry.values) for entry in config.entries]}
    for key in sorted(data):
        if key != "configs":
            lines.append(f"{_scalar(key)}: {_flow(data[key])}")
            continue
        lines.append("configs:")
        for values in data["configs"]:
            body = [line for name in sorted(values) for line in _pair(name, values[name])] or ["{}"]
            lines += [("- " if index == 0 else "  ") + line for index, line in enumerate(body)]
    return "\n".join(lines) + "\n"


def flow_text(entry: FlashRLEntry) -> str:
    """An entry as a map in braces, which is JSON too."""
    return _json({name: entry.values[name] for name in sorted(entry.values)})


def _json(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_quoted(key)}: {_json(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_json, value)) + "]"
    return _quoted(value) if isinstance(value, str) else _scalar(value)


def _pair(key: str, value: Any) -> list[str]:
    """One key of an entry: lists of scalars in block style, as PyYAML writes them."""
    if isinstance(value, list) and value and not any(isinstance(item, list | dict) for item in value):
        return [f"{_scalar(key)}:", *(f"- {_flow(item)}" for item in value)]
    return [f"{_scalar(key)}: {_flow(value)}"]


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_scalar(key)}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return value if _is_plain(value) else _quoted(value)
    if isinstance(value, float):
        text = repr(value)  # YAML 1.1 knows no number with an exponent and without a point
        mantissa, exponent, power = text.partition("e")
        return text if not exponent or "." in mantissa else f"{mantissa}.0e{power}"
    return json.dumps(value)


def _quoted(text: str) -> str:
    """Double quotes, with escapes that JSON and both YAMLs share; no surrogate pairs, which YAML does not join."""
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(text, ensure_ascii=False))


def _is_plain(text: str) -> bool:
    if not _PLAIN.fullmatch(text) or text.lower() in _WORDS_OF_1_1 or _NUMBERS_OF_1_1.fullmatch(text):
        return False
    try:
        return isinstance(resolve_scalar(text), str)
    except ValueError:
        return False
