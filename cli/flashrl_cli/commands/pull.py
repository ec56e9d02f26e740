"""``flashrl-registry pull``: bring a checked plan here."""

from pathlib import Path
from typing import Annotated

import typer

from flashrl_cli import output
from flashrl_cli.arguments import (
    AllowStale,
    Json,
    RequireSignature,
    TrustedKeys,
    any_bundle,
    local_store,
    open_chain,
    warn,
)

Destination = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="Folder to copy it into; without one it only comes into the cache."),
]


def pull(  # noqa: PLR0917 - typer passes by name
    ref: Annotated[str, typer.Argument(metavar="REF", help="A plan reference, or a lock: every plan in it.")],
    destination: Destination = None,
    allow_stale: AllowStale = False,
    require_signature: RequireSignature = False,
    trusted: TrustedKeys = None,
    force: Annotated[
        bool, typer.Option("--force", help="With -o: replace a plan there that was changed, or that nobody published.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring a plan and all that belongs to it here, checked: into the cache, or a copy into a folder."""
    from flashrl_registry.registry.replacing import copy_bundle
    from flashrl_registry.resolver import lock_references_in

    entries = lock_references_in(ref)
    if entries is not None:
        if destination is not None:
            raise typer.BadParameter("a lock has several plans; name one as LOCK#REF", param_hint="--output")
        _pull_lock(
            ref, entries, allow_stale=allow_stale, require_signature=require_signature, trusted=trusted, as_json=as_json
        )
        return
    with output.transferring(f"pulling {ref}", enabled=not as_json):
        bundle = any_bundle(ref, allow_stale=allow_stale, require_signature=require_signature, trusted=trusted)
    files, plan, text = bundle.files, bundle.files[0].parent, f"{bundle.origin}\ndigest {bundle.digest}"
    if destination is not None:
        files = copy_bundle(bundle, destination, open_chain(allow_stale=allow_stale), force=force)
        plan, text = destination, f"{text}\nin {destination}"
    output.result(
        {
            "ref": ref,
            "digest": bundle.digest,
            "plan": plan,
            "files": files,
            "origin": bundle.origin,
            "source": bundle.source and bundle.source.model_dump(mode="json", exclude_none=True),
            "warnings": bundle.warnings,
            "signed_by": bundle.signed_by,
        },
        text + "".join(f"\nsigned by {key}" for key in bundle.signed_by),
        as_json=as_json,
    )
    warn(bundle.warnings, as_json=as_json)
    lock = ref.partition("#")[0]
    if lock_references_in(lock) is not None:
        _remember(lock, as_json=as_json)


def _remember(file: str, *, as_json: bool) -> None:
    """What a lock that was pulled needs is for ``gc`` to keep."""
    from flashrl_registry.documents import Lock, read_document
    from flashrl_registry.registry.keeping import keep_for

    lock = Path(file).expanduser()
    warn(keep_for(local_store().root, lock, read_document(lock, Lock)), as_json=as_json)


def _pull_lock(
    file: str, entries: list[str], *, allow_stale: bool, require_signature: bool, trusted: list[Path] | None,
    as_json: bool,
) -> None:  # fmt: skip
    pulled = []
    for entry in entries:
        with output.transferring(f"pulling {entry}", enabled=not as_json):
            bundle = any_bundle(
                f"{file}#{entry}", allow_stale=allow_stale, require_signature=require_signature, trusted=trusted
            )
        pulled.append({"ref": entry, "digest": bundle.digest, "origin": bundle.origin, "signed_by": bundle.signed_by})
        warn(bundle.warnings, as_json=as_json)
    _remember(file, as_json=as_json)
    rows = [(item["ref"], str(item["digest"])[:19], item["origin"]) for item in pulled]
    output.result({"lock": file, "plans": pulled}, output.table(("PLAN", "DIGEST", "FROM"), rows), as_json=as_json)
