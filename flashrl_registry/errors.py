"""Every error that flashrl-registry raises on purpose.

The tree::

    FlashRLError                     code, message, hint, context
    +-- DocumentError                findings: every fault of the file, each with file:line:col
    |   +-- ParseError               not YAML/JSON, or YAML that the strict door refuses
    |   +-- SchemaError              parses, but violates its schema
    |   +-- SchemaVersionError       written for another release
    +-- CompileError                 diagnostics: all of them, not the first
    +-- ProfilingError
    |   +-- CheckpointError          a checkpoint is unreadable or incomplete
    |   |   +-- CheckpointNotFoundError     no such model or revision on the Hub, or it is private
    |   |   +-- CheckpointGatedError        access to the model has to be granted first
    |   |   +-- CheckpointUnreachableError  offline, or the Hub does not answer
    |   +-- CheckpointMismatchError  the two checkpoints do not correspond
    +-- RegistryError
    |   +-- InvalidRefError          not a reference in any known form
    |   +-- NotFoundError            names the stores that were searched
    |   +-- IntegrityError           a digest differs from what was recorded
    |   +-- SignatureError           a signature is of other content, or malformed
    |   |   +-- UnsignedError        nobody signed it
    |   |   +-- UntrustedError       nobody who is trusted signed it
    |   |   +-- SigningKeyError      a key cannot be read or used
    |   +-- AlreadyPublishedError    a published version never changes
    |   +-- ConflictError            somebody published meanwhile
    |   +-- AccessDeniedError        the store wants to know who asks, or says no
    |   +-- StoreUnavailableError    the store cannot be read or written
    +-- ResolutionError              the plan cannot run here; decisions say why
    +-- InteropError                 another tool's file cannot be read or written
    |   +-- NotExpressibleError      a format cannot say it; diagnostics: everything that would be lost
    +-- RuntimeLoadError
        +-- MissingDependencyError   an extra is not installed (also an ImportError)
        +-- PluginNotActiveError     a process of the engine does not run the plan
        +-- WeightMismatchError      an update is refused; lists every name
        +-- NotServableError         generation is refused: the weights are not one whole update

A leaf exists only where a caller would handle it differently.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


class FlashRLError(Exception):
    """Base of every expected failure.

    Args:
        message: One lower-case line: what happened and where.
        hint: What to do about it.
        context: Values for machines; they appear in ``--json``.
    """

    code: ClassVar[str] = "flashrl"

    def __init__(self, message: str, *, hint: str | None = None, context: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.context = context or {}

    def __str__(self) -> str:
        hint = f"\n  hint: {self.hint}"
        # The message may quote another error with the same hint.
        return self.message if self.hint is None or hint in self.message else self.message + hint


@dataclass(frozen=True)
class Finding:
    """One fault in one document.

    Attributes:
        source: File name as the user gave it.
        line: 1-based line, or None where the fault has no place.
        column: 1-based column, or None.
        pointer: Key path such as ``rules[2].scheme``; empty for the whole document.
        message: What is wrong, and the nearest valid name where there is one.
        code: Stable slug.
    """

    source: str
    message: str
    line: int | None = None
    column: int | None = None
    pointer: str = ""
    code: str = "schema"

    def __str__(self) -> str:
        place = self.source if self.line is None else f"{self.source}:{self.line}:{self.column}"
        return f"{place}: {self.pointer}: {self.message}" if self.pointer else f"{place}: {self.message}"


class DocumentError(FlashRLError):
    """A document cannot be used; carries every finding of the file."""

    code = "document"

    def __init__(self, findings: Sequence[Finding], *, hint: str | None = None) -> None:
        self.findings = tuple(findings)
        super().__init__(
            "\n".join(str(f) for f in self.findings),
            hint=hint,
            context={"findings": [vars(f) for f in self.findings]},
        )


class ParseError(DocumentError):
    """Not YAML or JSON, or YAML that the strict door refuses."""

    code = "parse"


class SchemaError(DocumentError):
    """The document parses but violates its schema."""

    code = "schema"


class SchemaVersionError(DocumentError):
    """The document was written for another release."""

    code = "schema-version"


@dataclass(frozen=True)
class Diagnostic:
    """One finding of the compiler.

    Attributes:
        code: Stable slug, such as ``uncovered-tensor``.
        severity: ``error`` stops the compile; ``warning`` fails only ``lint --strict``; ``note`` never fails.
        where: The rule or tensor that it is about.
        message: What is wrong.
        hint: What to do, or None.
        rule: Name of the rule that it is about, or None.
    """

    code: str
    severity: str
    where: str
    message: str
    hint: str | None = None
    rule: str | None = None

    def __str__(self) -> str:
        text = f"{self.severity}[{self.code}] {self.where}: {self.message}"
        return text if self.hint is None else f"{text}; {self.hint}"


@dataclass(frozen=True)
class Decision:
    """Why a candidate was accepted or rejected when a reference was resolved."""

    candidate: str
    accepted: bool
    reason: str

    def __str__(self) -> str:
        return f"{'accepted' if self.accepted else 'rejected'} {self.candidate}: {self.reason}"


class CompileError(FlashRLError):
    """The rules do not make a plan; carries all diagnostics.

    Args:
        diagnostics: One per rule or tensor.
        lines: How people read them, alike ones together; one line for each where it is not given.
        hint: What to do about all of them.
    """

    code = "compile"

    def __init__(
        self, diagnostics: Sequence[Diagnostic], *, lines: Sequence[str] | None = None, hint: str | None = None
    ) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__(
            "\n".join(lines if lines is not None else (str(d) for d in self.diagnostics)),
            hint=hint,
            context={"diagnostics": [vars(d) for d in self.diagnostics]},
        )


class ProfilingError(FlashRLError):
    """A checkpoint pair cannot be profiled."""

    code = "profiling"


class CheckpointError(ProfilingError):
    """A checkpoint is unreadable or incomplete."""

    code = "checkpoint"


class CheckpointNotFoundError(CheckpointError):
    """No such model or revision on the Hub, or it is private."""

    code = "checkpoint-not-found"


class CheckpointGatedError(CheckpointError):
    """Access to the model has to be granted first."""

    code = "checkpoint-gated"


class CheckpointUnreachableError(CheckpointError):
    """Offline, or the Hub does not answer."""

    code = "checkpoint-unreachable"


class CheckpointMismatchError(ProfilingError):
    """The two checkpoints do not belong together."""

    code = "checkpoint-mismatch"


class RegistryError(FlashRLError):
    """A reference cannot be served."""

    code = "registry"


class InvalidRefError(RegistryError):
    """Not a reference in any known form."""

    code = "invalid-ref"


class NotFoundError(RegistryError):
    """Nothing is published under this reference."""

    code = "not-found"


class IntegrityError(RegistryError):
    """Bytes differ from the digest that was recorded for them."""

    code = "integrity"


class SignatureError(RegistryError):
    """A signature by a trusted key is of other content than this, or malformed."""

    code = "signature"


class UnsignedError(SignatureError):
    """A signature is asked for, and nobody signed it."""

    code = "unsigned"


class UntrustedError(SignatureError):
    """A signature is asked for, and nobody who is trusted for the name signed it."""

    code = "untrusted"


class SigningKeyError(SignatureError):
    """A key cannot be read or used."""

    code = "signing-key"


class AlreadyPublishedError(RegistryError):
    """A published version never changes."""

    code = "already-published"


class ConflictError(RegistryError):
    """Somebody published meanwhile: expected, actual, what changed."""

    code = "conflict"


class AccessDeniedError(RegistryError):
    """The store wants to know who asks, or says no."""

    code = "access-denied"


class StoreUnavailableError(RegistryError):
    """The store cannot be read or written."""

    code = "store-unavailable"


class ResolutionError(FlashRLError):
    """The plan cannot run in this environment."""

    code = "resolution"

    def __init__(self, message: str, *, decisions: Sequence[Decision] = (), hint: str | None = None) -> None:
        self.decisions = tuple(decisions)
        lines = [message, *(f"  {d}" for d in self.decisions)]
        super().__init__("\n".join(lines), hint=hint, context={"decisions": [vars(d) for d in self.decisions]})


class InteropError(FlashRLError):
    """Another tool's file cannot be read or written."""

    code = "interop"


class NotExpressibleError(InteropError):
    """A format cannot say what another one does; lists everything that would be lost."""

    code = "not-expressible"

    def __init__(self, message: str, diagnostics: Sequence[Diagnostic], *, hint: str | None = None) -> None:
        self.diagnostics = tuple(diagnostics)
        lines = [message, *(f"  {d.where}: {d.message}" for d in self.diagnostics)]
        super().__init__("\n".join(lines), hint=hint, context={"diagnostics": [vars(d) for d in self.diagnostics]})


class RuntimeLoadError(FlashRLError):
    """The engine cannot run the plan."""

    code = "runtime"


class MissingDependencyError(RuntimeLoadError, ImportError):
    """An extra is not installed; the hint is the exact install command."""

    code = "missing-dependency"


class PluginNotActiveError(RuntimeLoadError):
    """A process of the engine does not run the plan that the driver resolved."""

    code = "plugin-not-active"


@dataclass(frozen=True)
class WeightFault:
    """One refused tensor of a weight update."""

    name: str
    reason: str


class WeightMismatchError(RuntimeLoadError):
    """A weight update is refused as a whole; lists every name."""

    code = "weight-mismatch"

    def __init__(self, message: str, faults: Sequence[WeightFault] = (), *, hint: str | None = None) -> None:
        self.faults = tuple(faults)
        lines = [message, *(f"  {fault.name}: {fault.reason}" for fault in self.faults)]
        super().__init__("\n".join(lines), hint=hint, context={"faults": [vars(f) for f in self.faults]})


class NotServableError(RuntimeLoadError):
    """Generation is refused: the engine's weights are not one whole update."""

    code = "not-servable"
