"""``flashrl-registry validate``: documents, and all faults of all of them."""

from pathlib import Path
from typing import Annotated

import typer

from flashrl_cli import output
from flashrl_cli.arguments import Json


def validate(
    paths: Annotated[
        list[Path], typer.Argument(metavar="FILE_OR_DIR...", help="Documents, and folders to search for them.")
    ],
    as_json: Json = False,
) -> None:
    """Check documents: syntax, schema, digests, and that the files of a plan folder belong together."""
    from flashrl_registry.registry import validate_paths

    verdicts = validate_paths(paths)
    bad = [verdict for verdict in verdicts if verdict.error is not None]
    lines = [f"ok  {verdict.path}: {verdict.kind} {verdict.digest}" for verdict in verdicts if verdict.error is None]
    lines.append(f"{len(verdicts) - len(bad)} valid, {len(bad)} invalid")
    output.result(
        {
            "files": [
                {
                    "path": verdict.path,
                    "ok": verdict.error is None,
                    "kind": verdict.kind,
                    "digest": verdict.digest,
                    "error": verdict.error and output.error_data(verdict.error),
                }
                for verdict in verdicts
            ]
        },
        "\n".join(lines),
        as_json=as_json,
        ok=not bad,
    )
    if not as_json:
        # A fault of one file of a plan folder is the verdict of two: the file and the plan.
        for text in dict.fromkeys(str(verdict.error) for verdict in bad):
            output.note(text)
    if bad:
        raise typer.Exit(1)
