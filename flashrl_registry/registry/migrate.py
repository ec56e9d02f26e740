"""Migrate files and folders of documents: all of them are read before any is written."""

from collections.abc import Iterable
from pathlib import Path

from flashrl_registry.documents.migrations.files import Migration, plan_migration
from flashrl_registry.errors import FlashRLError
from flashrl_registry.registry.search import Found, find_documents


def plan_migrations(paths: Iterable[Path]) -> tuple[list[Migration], list[FlashRLError]]:
    """Work out what files become; writes nothing.

    Args:
        paths: Documents, and folders to search for them.

    Returns:
        One entry per document that this release can read or migrate, and one error for each of the others.
    """
    return plan_found(find_documents(paths))


def plan_found(found: Found) -> tuple[list[Migration], list[FlashRLError]]:
    """As :func:`plan_migrations`, for what was found."""
    planned: list[Migration] = []
    errors = list(found.errors.values())
    for file in found.files:
        try:
            planned.append(plan_migration(file))
        except FlashRLError as exc:
            errors.append(exc)
    return planned, errors
