"""``flashrl-registry verify``: hash everything that was published again."""

import typer

from flashrl_cli import output
from flashrl_cli.arguments import Json, StoreAddress, open_store


def verify(store: StoreAddress = None, as_json: Json = False) -> None:
    """Read every version of a store and compare all of its bytes with what was published."""
    from flashrl_registry.registry.keeping import verify as verify_store

    opened = open_store(store or "local")
    with output.waiting(f"verifying {opened.place}", enabled=not as_json):
        found = list(verify_store(opened))
    wrong = [(entry.ref, entry.error) for entry in found if entry.error is not None]
    output.result(
        {
            "store": opened.place,
            "sound": len(found) - len(wrong),
            "plans": [{"ref": entry.ref, "digest": entry.digest} for entry in found],
            "damaged": [{"ref": ref, **output.error_data(error)} for ref, error in wrong],
        },
        f"{len(found) - len(wrong)} of {len(found)} versions in {opened.place} are what was published",
        as_json=as_json,
        ok=not wrong,
    )
    if not as_json:
        for ref, error in wrong:
            output.note(f"error: {ref}: {error}")
    if wrong:
        raise typer.Exit(1)
