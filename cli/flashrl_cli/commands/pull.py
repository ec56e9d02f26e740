"""``flashrl-registry pull``: bring a checked plan here."""

from pathlib import Path
from typing import Annotated

import typer

from flashrl_cli import output
from flashrl_cli.arguments import AllowStale, Json, bundle_of, warn

Destination = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="Folder to copy it into; without one it only comes into the cache."),
]


def pull(
    ref: Annotated[str, typer.Argument(metavar="REF", help="A plan reference, or a lock: every plan in it.")],
    destination: Destination = None,
    allow_stale: AllowStale = False,
    as_json: Json = False,
) -> None:
    """Bring a plan and all that belongs to it here, checked: into the cache, or a copy into a folder."""
    from flashrl_registry.registry import read_bundle, write_bundle
    from flashrl_registry.resolver import lock_references_in

    entries = lock_references_in(ref)
    if entries is not None:
        if destination is not None:
            raise typer.BadParameter("a lock has several plans; name one as LOCK#REF", param_hint="--output")
        _pull_lock(ref, entries, allow_stale=allow_stale, as_json=as_json)
        return
    with output.waiting(f"pulling {ref}", enabled=not as_json):
        bundle = bundle_of(ref, allow_stale=allow_stale)
    files, plan, text = bundle.files, bundle.files[0].parent, f"{bundle.origin}\ndigest {bundle.plan.digest}"
    if destination is not None:
        files = write_bundle(destination, bundle.plan, profile=bundle.profile, sidecar=bundle.sidecar)
        read_bundle(destination)
        plan, text = destination, f"{text}\nin {destination}"
    output.result(
        {
            "ref": ref,
            "digest": bundle.plan.digest,
            "plan": plan,
            "files": files,
            "origin": bundle.origin,
            "source": bundle.source and bundle.source.model_dump(mode="json", exclude_none=True),
            "warnings": bundle.warnings,
        },
        text,
        as_json=as_json,
    )
    warn(bundle.warnings, as_json=as_json)


def _pull_lock(file: str, entries: list[str], *, allow_stale: bool, as_json: bool) -> None:
    pulled = []
    for entry in entries:
        with output.waiting(f"pulling {entry}", enabled=not as_json):
            bundle = bundle_of(f"{file}#{entry}", allow_stale=allow_stale)
        pulled.append({"ref": entry, "digest": bundle.plan.digest, "origin": bundle.origin})
        warn(bundle.warnings, as_json=as_json)
    rows = [(item["ref"], str(item["digest"])[:19], item["origin"]) for item in pulled]
    output.result({"lock": file, "plans": pulled}, output.table(("PLAN", "DIGEST", "FROM"), rows), as_json=as_json)
