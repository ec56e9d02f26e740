"""``flashrl-registry schema``: the JSON Schemas of all documents."""

from pathlib import Path
from typing import Annotated

import typer

from flashrl_cli import output
from flashrl_cli.arguments import Json


def schema(
    *,
    kind: Annotated[
        str | None, typer.Argument(metavar="[KIND]", help="Print this document's schema: plan, rules, profile ...")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Write all schemas.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Fail where a file differs from its model.")] = False,
    release: Annotated[
        str | None, typer.Option("--release", metavar="VERSION", help="Freeze today's schemas as this release's.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Folder of the schemas.  [default: the one that comes with us]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print, write, check or freeze the JSON Schemas of the documents."""
    from flashrl_registry.documents.bundled import bundled
    from flashrl_registry.documents.kinds import KINDS
    from flashrl_registry.documents.schema import check_schemas, release_schemas, schema_text, write_schemas

    if write + check + (release is not None) > 1:
        raise typer.BadParameter("give one of --write, --check and --release")
    if kind is not None and kind not in KINDS:
        raise typer.BadParameter(f"'{kind}' is not one of {', '.join(KINDS)}", param_hint="KIND")
    if kind is not None:
        output.result({"kind": kind, "schema": schema_text(KINDS[kind])}, schema_text(KINDS[kind]), as_json=as_json)
        return
    folder = folder or bundled("schemas")
    if check:
        check_schemas(folder)
        output.result({"checked": list(KINDS)}, f"{len(KINDS)} schemas in {folder} equal their models", as_json=as_json)
        return
    if release is not None:
        added = release_schemas(folder, release)
        text = "\n".join(f"{path} is frozen from {release} on" for path in added) or "every schema was frozen before"
        output.result({"release": release, "frozen": added}, text, as_json=as_json)
        return
    if write:
        files = write_schemas(folder)
        output.result({"written": files}, "\n".join(f"wrote {file}" for file in files), as_json=as_json)
        return
    rows = [(name, model.schema_url()) for name, model in KINDS.items()]
    output.result({"schemas": dict(rows)}, output.table(("KIND", "$id"), rows), as_json=as_json)
