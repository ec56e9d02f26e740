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
    from flashrl_registry.registry import find_documents, validate_found

    found = find_documents(paths)
    verdicts = validate_found(found)
    bad = [verdict for verdict in verdicts if verdict.error is not None]
    lines = [f"ok  {verdict.path}: {verdict.kind} {verdict.digest}" for verdict in verdicts if verdict.error is None]
    others = output.counted_others(found.others)
    lines.append(f"{len(verdicts) - len(bad)} valid, {len(bad)} invalid{others}")
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
            ],
            "not_ours": found.others,
        },
        "\n".join(lines),
        as_json=as_json,
        ok=not bad,
    )
    if not as_json:
        for verdict in bad:
            text = str(verdict.error)
            # What is said of a whole folder, or of another file beside this one, has not its name in it.
            output.note(text if text.startswith(str(verdict.path)) else f"{verdict.path}: {text}")
    if bad:
        raise typer.Exit(1)
