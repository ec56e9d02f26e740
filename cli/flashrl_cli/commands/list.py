"""``flashrl-registry list``: what the local registry holds."""

import typer

from flashrl_cli import output
from flashrl_cli.arguments import Json, local_store


def list_command(as_json: Json = False) -> None:
    """List the published plans of the local registry."""
    store = local_store()
    found, damaged = store.scan()
    rows = [
        (entry.ref, entry.manifest.base_model, ",".join(entry.manifest.schemes), entry.manifest.plan_digest[:19],
         entry.manifest.published_at)
        for entry in found
    ]  # fmt: skip
    text = output.table(("PLAN", "MODEL", "SCHEMES", "DIGEST", "PUBLISHED"), rows)
    output.result(
        {
            "registry": store.root,
            "plans": [
                {
                    "ref": entry.ref,
                    "name": entry.name,
                    "version": entry.version,
                    "model": entry.manifest.base_model,
                    "schemes": entry.manifest.schemes,
                    "digest": entry.manifest.plan_digest,
                    "published_at": entry.manifest.published_at,
                }
                for entry in found
            ],
            "damaged": [output.error_data(error) for error in damaged],
        },
        text if rows else f"nothing is published in {store.root}",
        as_json=as_json,
        ok=not damaged,
    )
    if not as_json:
        for error in damaged:
            output.note(f"error: {error}")
    if damaged:
        raise typer.Exit(1)
