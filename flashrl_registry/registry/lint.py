"""Lint whatever a reference or a path leads to, with places in the file."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flashrl_registry.compiler.lint import lint_plan, lint_rules
from flashrl_registry.documents import Inventory, Plan, Rules, read_any
from flashrl_registry.documents.io import parse_as, read_text
from flashrl_registry.documents.strict_yaml import pointer_text
from flashrl_registry.errors import Diagnostic, FlashRLError, InvalidRefError
from flashrl_registry.registry.chain import PlanSource
from flashrl_registry.registry.open import open_bundle
from flashrl_registry.registry.ref import PathRef, parse_ref


@dataclass(frozen=True)
class Linted:
    """What was found in one document.

    Attributes:
        source: The file, or the reference where it is in a registry.
        kind: ``rules`` or ``plan``.
        diagnostics: In the order of the file; those without a place in it come last.
        places: 1-based (line, column) of the key paths in ``diagnostics``; empty for a plan in a registry.
    """

    source: str
    kind: str
    diagnostics: tuple[Diagnostic, ...]
    places: dict[str, tuple[int, int]]


def lint_all(
    texts: Iterable[str], store: PlanSource, inventory: Inventory | None = None
) -> tuple[list[Linted], list[FlashRLError]]:
    """Lint several, as :func:`lint_reference` does one; returns also the errors of those that cannot be."""
    linted: list[Linted] = []
    errors: list[FlashRLError] = []
    for text in texts:
        try:
            linted.append(lint_reference(text, store, inventory))
        except FlashRLError as exc:
            errors.append(exc)
    return linted, errors


def lint_reference(text: str, store: PlanSource, inventory: Inventory | None = None) -> Linted:
    """Lint a rules file, a plan file or folder, or a published plan.

    Args:
        text: Path or reference.
        store: One store, or the chain of them.
        inventory: The model that it is for.

    Raises:
        InvalidRefError: A document of another kind.
        FlashRLError: It cannot be read.
    """
    ref = parse_ref(text)
    path = ref.path if isinstance(ref, PathRef) else None
    if path is not None and path.is_file():
        document = read_any(path)
        if isinstance(document, Rules):
            return _linted(path, document.KIND, lint_rules(document, inventory))
        if not isinstance(document, Plan):
            raise InvalidRefError(
                f"{path} is a {document.KIND}, which has nothing to lint", hint="lint reads rules and plans"
            )
    bundle = open_bundle(ref, store)
    found = lint_plan(bundle.plan, bundle.profile, inventory)
    if path is None:
        return Linted(bundle.origin, bundle.plan.KIND, tuple(found), {})
    return _linted(bundle.files[0] if path.is_dir() else path, bundle.plan.KIND, found)


def _linted(path: Path, kind: str, found: list[Diagnostic]) -> Linted:
    places = parse_as(read_text(path), str(path), kind).places
    wanted = {diagnostic.where for diagnostic in found}
    by_pointer = {pointer: place for key, place in places.items() if (pointer := pointer_text(key)) in wanted}
    last = (sys.maxsize, 0)
    found = sorted(found, key=lambda diagnostic: by_pointer.get(diagnostic.where, last))
    return Linted(str(path), kind, tuple(found), by_pointer)
