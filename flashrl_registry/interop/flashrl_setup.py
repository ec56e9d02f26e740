"""``flashrl setup``: write the config file that FlashRL's own command wrote.

The same keys, defaults and rules as FlashRL 1.0.3, with what broke there mended: settings are YAML data and are
never evaluated, a value may contain ``=``, a bf16 entry can be appended, the file is checked before it is touched
and appears as a whole, and nothing is written outside it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashrl_registry.documents import write_atomically
from flashrl_registry.documents.findings import did_you_mean
from flashrl_registry.documents.strict_yaml import parse_text
from flashrl_registry.errors import Diagnostic, FlashRLError, InteropError, NotExpressibleError
from flashrl_registry.interop.flashrl_config import (
    FUNCTIONS,
    NEED_NO_MODEL,
    FlashRLConfig,
    FlashRLEntry,
    config_text,
    default_values,
    read_config,
    value_fault,
)

DEFAULT_OUTPUT = "~/.flashrl_config.yaml"

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_MAY_LOAD_DUMMY = ("bf16", "fp8", "fp8_tensor", "fp8_channel")


@dataclass(frozen=True)
class Written:
    """What ``setup`` did.

    Attributes:
        path: The file.
        entry: The entry that was added.
        num_entries: Entries in the file now.
        appended: The file had entries before, and kept them.
    """

    path: Path
    entry: FlashRLEntry
    num_entries: int
    appended: bool


def write_setup(
    *,
    function: str,
    output: Path | None = None,
    model: str | None = None,
    profile: str | None = None,
    settings: Sequence[str] = (),
    append: bool = False,
) -> Written:
    """Write or extend a FlashRL config.

    Args:
        function: FlashRL's ``--fn``.
        output: The file; :data:`DEFAULT_OUTPUT` where None.
        model: Quantized checkpoint that FlashRL loads.
        profile: Its profile: a path, or ``owner/repo/path`` on the Hub.
        settings: ``key=value``; values are YAML.
        append: Add a replica to a file that exists, instead of replacing the file.

    Returns:
        What was written.

    Raises:
        InteropError: The function is unknown or needs a model, or a setting is malformed; lists all of them.
        ParseError, SchemaError: The file to append to is no FlashRL config; it is left as it is.
    """
    path = (output or Path(DEFAULT_OUTPUT)).expanduser()
    entry = make_entry(function=function, model=model, profile=profile, settings=settings)
    appending = append and path.exists()
    before = read_config(path) if appending else FlashRLConfig(())
    config = FlashRLConfig((*before.entries, entry), before.others)
    write_atomically(path, config_text(config).encode())
    return Written(path, entry, len(config.entries), appending)


def make_entry(
    *, function: str, model: str | None = None, profile: str | None = None, settings: Sequence[str] = ()
) -> FlashRLEntry:
    """One entry as ``flashrl setup`` makes it; see :func:`write_setup`."""
    if function not in FUNCTIONS:
        raise InteropError(f"{function!r} is no function of FlashRL" + did_you_mean(function, FUNCTIONS))
    values = default_values(function)
    faults: list[Diagnostic] = []
    if model is None and function not in NEED_NO_MODEL:
        message = f"is required for {function}: FlashRL loads the quantized checkpoint that the profile was made of"
        faults.append(Diagnostic("model-required", "error", "--model", message))
    values |= {name: given for name, given in (("model", model), ("profile", profile)) if given is not None}
    for text in settings:
        key, setting, fault = _setting(text)
        if fault is not None:
            faults.append(Diagnostic("setting", "error", text, fault))
        else:
            values[key] = setting
    if values.get("fn") != function:
        faults.append(Diagnostic("setting", "error", "fn", "is set by --fn, which other keys depend on"))
    if values["load_format"] != "auto" and function not in _MAY_LOAD_DUMMY:
        message = f"must be auto for {function}, not {values['load_format']!r}: the checkpoint's scales must be read"
        faults.append(Diagnostic("setting", "error", "load_format", message))
    if faults:
        raise NotExpressibleError(f"{len(faults)} of the settings cannot be used", faults)
    return FlashRLEntry(values)


def _setting(text: str) -> tuple[str, Any, str | None]:
    """Key, value, and why it cannot be used."""
    key, equals, value_text = text.partition("=")
    if not equals or not _KEY.fullmatch(key):
        return key, None, "is not key=value"
    if value_text in {"None", "True", "False"}:
        word = {"None": "null", "True": "true", "False": "false"}[value_text]
        return key, None, f"is Python; write {key}={word}"
    try:
        value = parse_text(value_text, key).data
    except FlashRLError as exc:
        return key, None, f"is not a YAML value: {exc.message}"
    return key, value, value_fault(key, value)
