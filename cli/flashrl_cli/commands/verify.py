"""``flashrl-registry verify``: hash everything that was published again."""

import os

import typer

from flashrl_cli import output
from flashrl_cli.arguments import Json, RequireSignature, StoreAddress, TrustedKeys, open_store


def verify(
    store: StoreAddress = None,
    require_signature: RequireSignature = False,
    trusted: TrustedKeys = None,
    as_json: Json = False,
) -> None:
    """Read every version of a store and compare all of its bytes with what was published; follow every channel."""
    from flashrl_registry.registry.keeping import verify as verify_store
    from flashrl_registry.registry.trust import open_trust

    trust = open_trust(os.environ, required=True, keys=trusted or ()) if require_signature or trusted else None
    opened = open_store(store or "local")
    with output.waiting(f"verifying {opened.place}", enabled=not as_json):
        found = list(verify_store(opened, trust))
    wrong = [(entry.ref, entry.error) for entry in found if entry.error is not None]
    versions = [entry for entry in found if not entry.is_channel]
    sound = sum(entry.error is None for entry in versions)
    output.result(
        {
            "store": opened.place,
            "sound": sound,
            "plans": [{"ref": entry.ref, "digest": entry.digest, "signed_by": entry.signed_by} for entry in versions],
            "damaged": [{"ref": ref, **output.error_data(error)} for ref, error in wrong],
        },
        f"{sound} of {len(versions)} versions in {opened.place} are what was published"
        + (" and signed by whom you trust" if trust is not None else ""),
        as_json=as_json,
        ok=not wrong,
    )
    if not as_json:
        for ref, error in wrong:
            output.note(f"error: {ref}: {error}")
    if wrong:
        raise typer.Exit(1)
