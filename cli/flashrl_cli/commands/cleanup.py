"""``flashrl cleanup``: take out FlashRL's start-up hook."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from flashrl_cli import output
from flashrl_cli.arguments import Json


def cleanup(
    place: Annotated[
        Path | None,
        typer.Option("-p", "--path", help="A usercustomize.py, or the folder of one.  [default: site-packages]"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Remove the lines that FlashRL wrote into usercustomize.py; all others stay."""
    from flashrl_registry.interop.flashrl_hook import clean, default_folders

    places = [place] if place is not None else default_folders()
    files = clean(places, dry_run=dry_run, must_exist=place is not None)
    would = "would be " if dry_run else ""
    lines = []
    for file in files:
        if file.removed:
            stays = "1 other line stays" if file.kept == 1 else f"{file.kept} other lines stay"
            end = f"{would}deleted: nothing else was in it" if file.deleted else stays
            lines += [f"{file.path}: {end}", *(f"  {would}removed: {line}" for line in file.removed)]
        lines += [f"{file.path}:{number}: not FlashRL's own line, left alone: {line}" for number, line in file.unknown]
    if not lines:
        lines.append("no hook of FlashRL in " + ", ".join(map(str, places)))
    left = any(file.unknown for file in files)
    output.result(
        {"dry_run": dry_run, "searched": places, "files": [asdict(file) for file in files]},
        "\n".join(lines),
        as_json=as_json,
        ok=not left,
    )
    if left:
        raise typer.Exit(1)
