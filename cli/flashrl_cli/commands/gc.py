"""``flashrl-registry gc``: give back cache that nothing refers to."""

from pathlib import Path
from typing import Annotated

import typer

from flashrl_cli import output
from flashrl_cli.arguments import Json, local_store


def gc(
    locks: Annotated[
        list[Path] | None, typer.Option("--lock", help="Another lock; what it needs stays. May be given several times.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove the whole cache, also what locks need.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: Json = False,
) -> None:
    """Remove cached Hub commits that no lock, branch or tag names, and versions of shared stores that no lock pins.

    Published plans are never touched. Locks that were written or pulled on this machine are known, and so is
    ./flashrl.lock.
    """
    from flashrl_registry.documents import Lock, read_document
    from flashrl_registry.registry.keeping import collect_garbage, never_asked

    read = [read_document(file, Lock) for file in locks or []]
    root = local_store().root
    freed = collect_garbage(root, read, everything=everything, dry_run=dry_run)
    total = sum(entry.num_bytes for entry in freed)
    lines = [f"{entry.what}  {output.size(entry.num_bytes)}" for entry in freed]
    lines.append(f"{'would free' if dry_run else 'freed'} {output.size(total)}")
    unknown = [] if everything else never_asked(root)
    output.result(
        {"freed": [vars(entry) for entry in freed], "num_bytes": total, "dry_run": dry_run, "never_asked": unknown},
        "\n".join(lines),
        as_json=as_json,
    )
    if unknown and not as_json:
        output.note(
            f"note: kept what was fetched of {', '.join(unknown)}: whether a branch or a tag names it was never asked; "
            "flashrl-registry versions hf://NAME asks, gc --all removes all"
        )
