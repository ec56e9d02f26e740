"""Faults of another tool's file, with their places, all of them before anything is refused."""

from dataclasses import dataclass, field

from flashrl_registry.documents.strict_yaml import Parsed, Path, pointer_text
from flashrl_registry.errors import Finding, SchemaError


@dataclass
class Findings:
    """Collects what is wrong with one file.

    Attributes:
        parsed: Its data, with places.
        source: Its name, for messages.
        faults: What stops the import.
        notes: What a reader should know, and does not stop it.
    """

    parsed: Parsed
    source: str
    faults: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def fault(self, path: Path, message: str) -> None:
        """Something is wrong at a key path, or cannot be said in our documents."""
        nearest = path
        while nearest and nearest not in self.parsed.places:
            nearest = nearest[:-1]
        line, column = self.parsed.keys.get(path) or self.parsed.places.get(nearest, (1, 1))
        self.faults.append(Finding(self.source, message, line, column, pointer_text(path), code="not-expressible"))

    def loss(self, path: Path, message: str, *, lossy: bool) -> None:
        """Something gets lost: a note where the user agreed to it, a fault otherwise."""
        if lossy:
            self.note(f"{pointer_text(path)}: {message}")
        else:
            self.fault(path, message)

    def note(self, message: str) -> None:
        """Something to know."""
        if message not in self.notes:
            self.notes.append(message)

    def check(self, *, hint: str | None = None) -> None:
        """Refuse the file if anything is wrong with it.

        Raises:
            SchemaError: Every fault.
        """
        if self.faults:
            raise SchemaError(self.faults, hint=hint)
