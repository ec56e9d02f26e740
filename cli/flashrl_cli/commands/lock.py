"""``flashrl-registry lock``: write down what references mean, to the byte; and check that they still do."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flashrl_cli import output
from flashrl_cli.arguments import AllowStale, Json, local_store, open_chain, warn

if TYPE_CHECKING:
    from flashrl_registry.documents import Lock


def lock(
    references: Annotated[
        list[str] | None,
        typer.Argument(metavar="[REF]...", help="References to lock; without any, the lock's own anew."),
    ] = None,
    file: Annotated[Path, typer.Option("-o", "--output", help="The lock.")] = Path("flashrl.lock"),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail where a reference means another plan.")
    ] = False,
    allow_stale: AllowStale = False,
    as_json: Json = False,
) -> None:
    """Lock references: where each plan is, at which commit or version, and its digest. FLASHRL_CONFIG may be a lock."""
    from flashrl_registry.documents import Lock, read_document
    from flashrl_registry.registry.keeping import keep_for
    from flashrl_registry.registry.lock_entries import folder_of
    from flashrl_registry.registry.locking import check_lock_name, lock_references, relock, update_lock

    old = read_document(file, Lock) if file.exists() else None
    if check:
        if references:
            raise typer.BadParameter("--check looks at what is locked; give no references", param_hint="REF")
        _check(file, old, allow_stale=allow_stale, as_json=as_json)
        return
    check_lock_name(file)  # before anything is fetched
    if not references and not (old and old.entries):
        raise typer.BadParameter(f"nothing to lock: name references; there is no {file} yet", param_hint="REF")
    with output.waiting("locking", enabled=not as_json):
        stores, folder = open_chain(allow_stale=allow_stale), folder_of(file)
        if references or old is None:
            new, bundles = lock_references(references or [], stores, folder)
        else:
            new, bundles = relock(old, stores, folder)
    locked = update_lock(file, new)
    warnings = keep_for(local_store().root, file, locked)
    rows = [(entry.requested, entry.plan_digest[:19], entry.source.kind) for entry in locked.entries]
    output.result(
        {"lock": file, "entries": [entry.model_dump(mode="json", exclude_none=True) for entry in locked.entries]},
        output.table(("REFERENCE", "DIGEST", "STORE"), rows),
        as_json=as_json,
    )
    warn(warnings, as_json=as_json)
    for bundle in bundles:
        warn(bundle.warnings, as_json=as_json)


def _check(file: Path, old: "Lock | None", *, allow_stale: bool, as_json: bool) -> None:
    from flashrl_registry.errors import NotFoundError
    from flashrl_registry.registry.lock_entries import folder_of
    from flashrl_registry.registry.locking import check_lock

    if old is None:
        raise NotFoundError(f"no lock at {file}", hint=f"write it with: flashrl-registry lock REF... -o {file}")
    checked = check_lock(old, open_chain(allow_stale=allow_stale), folder_of(file))
    wrong = [entry for entry in checked if not entry.same]
    lines = [f"{entry.locked.requested}: {'unchanged' if entry.same else entry.moved}" for entry in checked]
    output.result(
        {
            "lock": file,
            "entries": [
                {
                    "requested": entry.locked.requested,
                    "same": entry.same,
                    "locked": entry.locked.model_dump(mode="json", exclude_none=True),
                    "now": entry.now and entry.now.model_dump(mode="json", exclude_none=True),
                    "error": entry.error and output.error_data(entry.error),
                }
                for entry in checked
            ],
        },
        "\n".join(lines) or f"{file} locks nothing",
        as_json=as_json,
        ok=not wrong,
    )
    if wrong:
        raise typer.Exit(1)
