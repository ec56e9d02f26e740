"""``flashrl_config.yaml``: which quantization each data-parallel replica of a FlashRL job runs.

FlashRL 1.0.3 writes it with ``flashrl setup`` and reads it with PyYAML (YAML 1.1): one key ``configs``, a list of
maps; replica ``r`` takes ``configs[r % len(configs)]``. It reads seven keys of a map and passes over all others.

Invariants: the file enters through the project's strict door; keys that nothing knows are kept and come out again.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flashrl_registry.documents import SYNONYMS, SchemeName, canonical_scheme
from flashrl_registry.documents.findings import describe, did_you_mean
from flashrl_registry.documents.io import read_text
from flashrl_registry.documents.strict_yaml import Parsed, parse_text, pointer_text
from flashrl_registry.documents.strict_yaml import Path as KeyPath
from flashrl_registry.errors import Finding, SchemaError

FUNCTIONS = (
    "fp8", "fp8_fast", "fp8_vllm", "fp8_vllm_fast", "fp8_channel", "fp8_tensor", "int8", "int8_fast",
    "int8_wo_prune", "int8_prune", "bf16",
)  # fmt: skip
"""FlashRL's names of what to do, in the order of its ``--fn``."""

DEFAULT_FUNCTION = "int8"
"""What an entry without ``fn`` means."""

NEED_NO_MODEL = ("bf16", "fp8_vllm", "fp8", "fp8_fast", "fp8_vllm_fast")
"""Functions that quantize without a quantized checkpoint."""

_STRINGS = ("fn", "load_format", "distributed_executor_backend", "model", "profile", "quantization")
_LISTS = ("module_attribute_to_preserve",)
_DUMMY_LOADS = ("bf16", "fp8_tensor", "fp8_channel")
# What vLLM must be told to load; the other schemes' checkpoints are compressed-tensors' and say so themselves.
_METHOD_OF = {"bf16": "", "fp8": "fp8"}
_NATIVE_FP8 = ("fp8", "fp8_vllm", "fp8_fast", "fp8_vllm_fast")


@dataclass(frozen=True)
class FlashRLEntry:
    """One replica's settings.

    Attributes:
        values: Every key as it was written, known or not.
    """

    values: Mapping[str, Any]

    @property
    def function(self) -> str:
        """FlashRL's name of what to do."""
        return str(self.values.get("fn", DEFAULT_FUNCTION))

    @property
    def scheme(self) -> SchemeName:
        """The same in our vocabulary."""
        scheme = canonical_scheme(self.function)
        assert scheme is not None, "checked when it was read"
        return scheme

    @property
    def model(self) -> str | None:
        """Checkpoint that FlashRL loads in place of the program's; None leaves the program's."""
        return self.values.get("model")

    @property
    def start_model(self) -> str | None:
        """The checkpoint whose weights the engine starts with; None for the program's, or where FlashRL reads none."""
        model = "" if self.values.get("load_format") == "dummy" else (self.model or "").strip()
        return model or None

    @property
    def profile(self) -> str | None:
        """Where the profile is, by FlashRL's rule; None where the function needs none."""
        if self.function in NEED_NO_MODEL:
            return None
        if "profile" in self.values:
            return str(self.values["profile"]).strip()
        return None if self.model is None else f"{self.model.rstrip('/')}/profile.pt"

    @property
    def unknown(self) -> list[str]:
        """Keys that FlashRL passes over."""
        return [key for key in self.values if key not in _STRINGS + _LISTS]


@dataclass(frozen=True)
class FlashRLConfig:
    """A whole file.

    Attributes:
        entries: ``configs``, at least one.
        others: Keys beside ``configs``, which FlashRL passes over.
    """

    entries: tuple[FlashRLEntry, ...]
    others: Mapping[str, Any] = field(default_factory=dict)


def default_values(function: str) -> dict[str, Any]:
    """The keys that ``flashrl setup --fn`` writes, with FlashRL's own values.

    Args:
        function: One of :data:`FUNCTIONS`.

    Source:
        FlashRL 1.0.3, ``configs/``.
    """
    values: dict[str, Any] = {
        "distributed_executor_backend": "external_launcher",
        "fn": function,
        "load_format": "dummy" if function in _DUMMY_LOADS else "auto",
    }
    if function.startswith("fp8"):
        values["module_attribute_to_preserve"] = ["workspace"]
    if function in _NATIVE_FP8:
        values["quantization"] = "fp8"
    return values


def read_config(path: Path) -> FlashRLConfig:
    """Read a file.

    Raises:
        ParseError, SchemaError: Every fault of the file, with line and column.
    """
    return parse_config(read_text(path), str(path))


def parse_config(text: str, source: str) -> FlashRLConfig:
    """Read a file's text; see :func:`read_config`."""
    return config_of(parse_text(text, source), source)


def config_of(parsed: Parsed, source: str) -> FlashRLConfig:
    """What parsed data says; see :func:`read_config`."""
    faults = config_faults(parsed, source)
    if faults:
        raise SchemaError(faults)
    data = parsed.data
    others = {key: value for key, value in data.items() if key != "configs"}
    return FlashRLConfig(tuple(FlashRLEntry(entry) for entry in data["configs"]), others)


def config_faults(parsed: Parsed, source: str) -> list[Finding]:
    """Everything for which FlashRL could not use the file."""
    data = parsed.data
    faults: list[tuple[KeyPath, str]] = []
    if not isinstance(data, dict) or "configs" not in data:
        faults.append(((), "a FlashRL config is a map with the key 'configs'"))
    elif not isinstance(data["configs"], list) or not data["configs"]:
        faults.append((("configs",), f"must be a list of at least one map, not {describe(data['configs'])}"))
    else:
        for index, entry in enumerate(data["configs"]):
            faults += _entry_faults(entry, ("configs", index))
    return [config_finding(parsed, source, path, message) for path, message in faults]


def config_finding(parsed: Parsed, source: str, path: KeyPath, message: str) -> Finding:
    """A fault at a value of a config."""
    line, column = parsed.places.get(path) or parsed.places.get((), (1, 1))
    return Finding(source, message, line, column, pointer_text(path), code="flashrl-config")


def looks_like_config(parsed: Parsed) -> bool:
    """Whether parsed data is a FlashRL config, faulty or not."""
    return isinstance(parsed.data, dict) and "configs" in parsed.data


def value_fault(key: str, value: Any) -> str | None:
    """Why FlashRL could not use a value; None where it can, or passes over the key."""
    if key in _STRINGS and not isinstance(value, str):
        return f"must be a string, not {describe(value)}"
    if key in _LISTS and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        return f"must be a list of strings, not {describe(value)}"
    if key == "fn" and value not in FUNCTIONS:
        return f"{value!r} is no function of FlashRL" + did_you_mean(value, FUNCTIONS)
    return None


def quantization_fault(values: Mapping[str, Any]) -> str | None:
    """Why a ``quantization`` contradicts ``fn``; None where both mean the same, or there is none.

    FlashRL hands it to vLLM in place of the method that ``fn`` needs, so that another model would run.
    """
    given = values.get("quantization")
    function = values.get("fn", DEFAULT_FUNCTION)
    if not isinstance(given, str) or function not in FUNCTIONS:
        return None
    fitting = _METHOD_OF.get(canonical_scheme(function) or "", "compressed-tensors")
    if given == fitting:
        return None
    only = f"only {fitting!r} means that" if fitting else "leave it out"
    return f"is {given!r}, which would make vLLM load something else than {function}; {only}"


def key_warning(key: str) -> str | None:
    """What to say of a key that FlashRL passes over and that is nearly one that it reads."""
    if key in _STRINGS + _LISTS:
        return None
    near = difflib.get_close_matches(key.lower().replace("-", "_"), _STRINGS + _LISTS, n=1, cutoff=0.8)
    return f"{key} is no key of FlashRL, which passes over it; did you mean {near[0]}?" if near else None


def _entry_faults(entry: Any, where: KeyPath) -> list[tuple[KeyPath, str]]:
    if not isinstance(entry, dict):
        return [(where, f"must be a map, not {describe(entry)}")]
    return [
        ((*where, key), message) for key, value in entry.items() if (message := value_fault(key, value)) is not None
    ]


def synonym_note(entry: FlashRLEntry) -> str | None:
    """What an entry's function is called here, where the names differ."""
    scheme = SYNONYMS.get(entry.function)
    return None if scheme is None else f"fn {entry.function} is {scheme} here"
