"""The entries of a FlashRL config as an import takes them: checked, with their profiles found.

All faults of a file are reported at once: what FlashRL could not use, what our plans cannot say, profiles that are not
there, and what is wrong inside the profiles.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from flashrl_registry.documents.strict_yaml import Parsed
from flashrl_registry.documents.strict_yaml import Path as KeyPath
from flashrl_registry.errors import (
    DocumentError,
    Finding,
    FlashRLError,
    InteropError,
    SchemaError,
    StoreUnavailableError,
)
from flashrl_registry.interop.detect import Source
from flashrl_registry.interop.flashrl_config import (
    FlashRLConfig,
    FlashRLEntry,
    config_faults,
    config_finding,
    config_of,
    key_warning,
    quantization_fault,
    synonym_note,
)
from flashrl_registry.interop.locate import Fetch, locate
from flashrl_registry.interop.own_profile import own_profile

T = TypeVar("T")

_MEANINGLESS = (
    "load_format", "distributed_executor_backend", "quantization", "module_attribute_to_preserve",
)  # fmt: skip


@dataclass(frozen=True)
class FoundEntry:
    """An entry and its profile.

    Attributes:
        entry: The entry.
        profile: Its profile, where its function needs one: FlashRL's, or a document of ours.
    """

    entry: FlashRLEntry
    profile: Path | None


@dataclass(frozen=True)
class FoundConfig:
    """A config whose profiles have been found.

    Attributes:
        config: The config.
        entries: One per entry, in order.
        parsed: The file.
        source: Its name, for messages.
    """

    config: FlashRLConfig
    entries: tuple[FoundEntry, ...]
    parsed: Parsed
    source: str

    def each(self, make: Callable[[FoundEntry], T]) -> list[T]:
        """Make something of every entry, and tell what is wrong with all of them at once.

        Args:
            make: Raises InteropError or DocumentError where something is wrong with an entry.

        Raises:
            SchemaError: Everything that is wrong.
        """
        faults = _Faults(self.parsed, self.source)
        made = []
        for index, entry in enumerate(self.entries):
            try:
                made.append(make(entry))
            except (InteropError, DocumentError) as exc:
                faults.add(index, exc)
        faults.check()
        return made


def find_entries(source: Source, *, profile: Path | None = None, fetch: Fetch | None = None) -> FoundConfig:
    """Check a config, and find the profiles that it names.

    Args:
        source: A FlashRL config.
        profile: A profile instead of those that the entries name.
        fetch: Gets files from the Hub.

    Raises:
        SchemaError: Everything that is wrong, with its places.
        StoreUnavailableError: Nothing is wrong but that the Hub cannot be reached, or has no such file.
    """
    parsed, name = source.parsed, str(source.path)
    assert parsed is not None, "only a profile.pt is not parsed"
    faults = _Faults(parsed, name, config_faults(parsed, name))
    found: list[FoundEntry] = []
    for index, values in _maps(parsed.data):
        if (fault := quantization_fault(values)) is not None:
            faults.findings.append(config_finding(parsed, name, ("configs", index, "quantization"), fault))
        if any(finding.pointer.startswith(f"configs[{index}]") for finding in faults.findings):
            continue  # where its profile is may depend on what is wrong
        try:
            found.append(_found(FlashRLEntry(values), source.path.parent, profile, fetch))
        except (InteropError, StoreUnavailableError) as exc:
            faults.add(index, exc)
    faults.check()
    return FoundConfig(config_of(parsed, name), tuple(found), parsed, name)


def _maps(data: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """The entries that are maps, of a file that may be anything."""
    entries = data.get("configs") if isinstance(data, dict) else None
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        if isinstance(entry, dict):
            yield index, entry


def _found(entry: FlashRLEntry, folder: Path, profile: Path | None, fetch: Fetch | None) -> FoundEntry:
    if entry.scheme in {"bf16", "fp8"}:
        return FoundEntry(entry, None)
    if profile is not None:
        return FoundEntry(entry, own_profile(str(profile)) or profile)
    if entry.profile is None:
        raise InteropError(
            "names neither a profile nor the model beside which one lies", hint="give the profile with --profile"
        )
    own = own_profile(entry.profile, [folder])
    return FoundEntry(entry, own or locate(entry.profile, [folder], fetch=fetch))


@dataclass
class _Faults:
    """Collects what is wrong with entries."""

    parsed: Parsed
    source: str
    findings: list[Finding] = field(default_factory=list)
    raised: list[FlashRLError] = field(default_factory=list)

    def add(self, index: int, exc: FlashRLError) -> None:
        """An entry cannot be taken."""
        self.raised.append(exc)
        if isinstance(exc, DocumentError):
            self.findings += exc.findings
            return
        path: KeyPath = ("configs", index)
        named = next((key for key in ("profile", "model") if (*path, key) in self.parsed.places), None)
        path = path if named is None else (*path, named)
        self.findings.append(config_finding(self.parsed, self.source, path, exc.message))

    def check(self) -> None:
        """Refuse the file if anything is wrong.

        Raises:
            SchemaError: Everything.
            StoreUnavailableError: Nothing but that.
        """
        if not self.findings:
            return
        if len(self.findings) == len(self.raised) == 1 and isinstance(self.raised[0], StoreUnavailableError):
            raise self.raised[0]
        hints = dict.fromkeys(exc.hint for exc in self.raised if exc.hint is not None)
        findings = sorted(dict.fromkeys(self.findings), key=_place)
        raise SchemaError(findings, hint="; ".join(hints) or None)


def _place(finding: Finding) -> tuple[str, int, int]:
    return finding.source, finding.line or 0, finding.column or 0


def entry_notes(entry: FlashRLEntry) -> list[str]:
    """What a reader should know of an entry that becomes a plan."""
    notes = []
    if synonym := synonym_note(entry):
        notes.append(synonym)
    if entry.start_model is not None:
        notes.append(f"the engine starts with the weights of {entry.start_model} (engine.model)")
    elif entry.model is not None:
        notes.append(f"model {entry.model} is kept for export: FlashRL starts it with random weights")
    if kept := [key for key in _MEANINGLESS if key in entry.values]:
        notes.append(f"kept for export, and without meaning here: {', '.join(kept)}")
    warnings = [warning for key in entry.unknown if (warning := key_warning(key)) is not None]
    if entry.unknown:
        notes.append(f"kept for export, and unknown to FlashRL itself: {', '.join(entry.unknown)}")
    return notes + warnings
