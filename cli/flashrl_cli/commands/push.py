"""``flashrl-registry push``: publish a plan under a version that never changes."""

from pathlib import Path
from typing import Annotated

import typer

from flashrl_cli import output
from flashrl_cli.arguments import Json, local_store


def push(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Plan folder that compile wrote.")],
    target: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="Such as my-team/qwen-int8@1.0.0.")],
    as_json: Json = False,
) -> None:
    """Publish a plan folder in the local registry."""
    from flashrl_registry.registry import read_bundle

    name, at, version = target.partition("@")
    if not at:
        raise typer.BadParameter(f"'{target}' has no version; write {target}@1.0.0", param_hint="NAME@VERSION")
    published = local_store().publish(read_bundle(bundle), name, version)
    state = "published" if published.created else "was published already with the same content:"
    output.result(
        {
            "ref": published.ref,
            "created": published.created,
            "digest": published.manifest.plan_digest,
            "folder": published.folder,
        },
        f"{state} {published.ref}\ndigest {published.manifest.plan_digest}\nin {published.folder}",
        as_json=as_json,
    )
