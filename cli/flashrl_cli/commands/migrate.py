"""``flashrl-registry migrate``: documents of an older schema major to the one that this release reads."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashrl_cli import output
from flashrl_cli.arguments import Json

if TYPE_CHECKING:
    from flashrl_registry.documents.migrations.files import Migration


def migrate(
    paths: Annotated[
        list[Path], typer.Argument(metavar="FILE_OR_DIR...", help="Documents, and folders to search for them.")
    ],
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail where a file has to be migrated.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Rewrite documents of an older schema major; all files are read before any is written."""
    from flashrl_registry.documents.migrations.files import write_migration
    from flashrl_registry.registry import find_documents, plan_found

    found = find_documents(paths)
    planned, errors = plan_found(found)
    due = [migration for migration in planned if migration.content is not None]
    write = not check and not errors
    if write:
        for migration in due:
            write_migration(migration)
    lines = [line for migration in planned for line in _lines(migration)]
    state = "migrated" if write else "to migrate"
    current = f"{len(planned) - len(due)} already current, {len(errors)} unreadable"
    lines.append(f"{len(due)} {state}, {current}{output.counted_others(found.others)}")
    failed = bool(errors) or (check and bool(due))
    output.result(
        {
            "files": [_data(migration, write=write) for migration in planned],
            "errors": [output.error_data(error) for error in errors],
            "not_ours": found.others,
        },
        "\n".join(lines),
        as_json=as_json,
        ok=not failed,
    )
    if not as_json:
        for error in errors:
            output.note(str(error))
    if failed:
        raise typer.Exit(1)


def _lines(migration: "Migration") -> list[str]:
    head = f"{migration.path}: {migration.kind}"
    if migration.content is None:
        return [f"{head} is already v{migration.to_major}"]
    lines = [f"{head} v{migration.from_major} -> v{migration.to_major}", *(f"  {s.what}" for s in migration.steps)]
    if migration.new_digest is not None:
        lines.append(f"  digest {migration.old_digest} -> {migration.new_digest}")
    if migration.loses_comments:
        lines.append("  comments below the first key are not kept")
    return lines


def _data(migration: "Migration", *, write: bool) -> dict[str, Any]:
    return {
        "path": migration.path,
        "kind": migration.kind,
        "from": migration.from_major,
        "to": migration.to_major,
        "steps": [step.what for step in migration.steps],
        "old_digest": migration.old_digest,
        "new_digest": migration.new_digest,
        "written": write and migration.content is not None,
    }
