"""``flashrl setup``: write the config file that FlashRL's own command wrote.

The same keys, defaults and rules as FlashRL 1.0.3, with what broke there mended: settings are YAML data and are
never evaluated, a value may contain ``=``, a bf16 entry can be appended, the file is checked before it is touched
and appears as a whole, comments stay, and nothing is written outside it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashrl_registry.documents.findings import did_you_mean
from flashrl_registry.documents.io import read_text
from flashrl_registry.documents.strict_yaml import parse_text
from flashrl_registry.errors import Diagnostic, DocumentError, FlashRLError, InteropError, NotExpressibleError
from flashrl_registry.interop.flashrl_append import with_entry
from flashrl_registry.interop.flashrl_config import (
    FUNCTIONS,
    NEED_NO_MODEL,
    FlashRLConfig,
    FlashRLEntry,
    default_values,
    key_warning,
    parse_config,
    quantization_fault,
    value_fault,
)
from flashrl_registry.interop.flashrl_text import config_text
from flashrl_registry.interop.own_profile import own_profile
from flashrl_registry.interop.rewriting import rewrite

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
        notes: What a reader should know.
    """

    path: Path
    entry: FlashRLEntry
    num_entries: int
    appended: bool
    notes: tuple[str, ...] = ()


def write_setup(
    *,
    function: str,
    output: Path | None = None,
    model: str | None = None,
    profile: str | None = None,
    settings: Sequence[str] = (),
    append: bool = False,
    force: bool = False,
) -> Written:
    """Write or extend a FlashRL config. A file without data, with comments or none, counts as new.

    Args:
        function: FlashRL's ``--fn``.
        output: The file; :data:`DEFAULT_OUTPUT` where None.
        model: Quantized checkpoint that FlashRL loads.
        profile: Its profile, FlashRL's or ours: a path, or ``owner/repo/path`` on the Hub.
        settings: ``key=value``; values are YAML.
        append: Add a replica to a file that exists, instead of replacing the file; what is in it stays as it is.
        force: Replace a file that is no FlashRL config.

    Returns:
        What was written.

    Raises:
        InteropError: The function is unknown or needs a model, or a setting is malformed; lists all of them. Or a
            file that is no FlashRL config would be replaced.
        ParseError, SchemaError: The file to append to is no FlashRL config; it is left as it is.
    """
    path = (output or Path(DEFAULT_OUTPUT)).expanduser()
    entry = make_entry(function=function, model=model, profile=profile, settings=settings)
    before = _text_of(path) if path.exists() else ""
    appending = append and bool(before)
    if appending:
        text, config = with_entry(before, entry, str(path))
    else:
        if before and not force:
            _refuse_other(before, path)
        config = FlashRLConfig((entry,))
        text = config_text(config)
    rewrite(path, text.encode())
    notes = [warning for key in entry.values if (warning := key_warning(key)) is not None]
    if profile is not None and (own := own_profile(profile, [path.parent])) is not None:
        notes.append(f"{own} is a profile of ours, which this project runs and FlashRL itself cannot read")
    return Written(path, entry, len(config.entries), len(config.entries) > 1, tuple(notes))


def _text_of(path: Path) -> str:
    text = read_text(path)
    return text if text.strip() else ""


def _refuse_other(text: str, path: Path) -> None:
    """Only what ``setup`` could have written is replaced."""
    try:
        if parse_text(text, str(path)).data is not None:
            parse_config(text, str(path))
    except DocumentError as exc:
        raise InteropError(
            f"{path} is there and no FlashRL config, so it is not replaced\n{exc.message}",
            hint="mend it, give another file with -o, or replace it with --force",
        ) from exc


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
    if (fault := quantization_fault(values)) is not None:
        faults.append(Diagnostic("setting", "error", "quantization", fault))
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
    if key == "configs":
        return key, None, "is the list that entries stand in, not a key of one"
    return key, value, value_fault(key, value)
