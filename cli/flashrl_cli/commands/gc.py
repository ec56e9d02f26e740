"""``flashrl-registry gc``: give back cache that nothing refers to."""

from pathlib import Path
from typing import Annotated

import typer

from flashrl_cli import output
from flashrl_cli.arguments import Json, local_store


def gc(
    locks: Annotated[
        list[Path] | None, typer.Option("--lock", help="Another lock whose commits stay; may be given several times.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove the whole cache, also what locks need.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: Json = False,
) -> None:
    """Remove cached Hub commits that no lock, branch or tag names; published plans are never touched.

    Locks that were written or pulled on this machine are known, and so is ./flashrl.lock.
    """
    from flashrl_registry.documents import Lock, read_document
    from flashrl_registry.registry.keeping import collect_garbage

    read = [read_document(file, Lock) for file in locks or []]
    freed = collect_garbage(local_store().root, read, everything=everything, dry_run=dry_run)
    total = sum(entry.num_bytes for entry in freed)
    lines = [f"{entry.what}  {output.size(entry.num_bytes)}" for entry in freed]
    lines.append(f"{'would free' if dry_run else 'freed'} {output.size(total)}")
    output.result(
        {"freed": [vars(entry) for entry in freed], "num_bytes": total, "dry_run": dry_run},
        "\n".join(lines),
        as_json=as_json,
    )
