"""``flashrl setup``: the config file of a FlashRL job."""

from pathlib import Path
from typing import Annotated

import typer

from flashrl_cli import output
from flashrl_cli.arguments import Json


def setup(
    *,
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="More settings; values are YAML and are never evaluated."),
    ] = None,
    model: Annotated[str | None, typer.Option("-m", "--model", help="Quantized checkpoint: folder or Hub id.")] = None,
    profile: Annotated[
        str | None, typer.Option("-p", "--profile", help="Its profile: path, or place on the Hub.")
    ] = None,
    function: Annotated[
        str, typer.Option("--fn", help="bf16, int8, int8_prune, fp8, fp8_tensor or fp8_channel.")
    ] = "int8",
    destination: Annotated[
        Path | None, typer.Option("-o", "--config-output", "--output", help="File.  [default: ~/.flashrl_config.yaml]")
    ] = None,
    append: Annotated[bool, typer.Option("-a", "--append", help="Add a replica's entry to the file.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is no FlashRL config.")] = False,
    as_json: Json = False,
) -> None:
    """Write a FlashRL config, which FlashRL 1.0.3 and this project read; touches nothing else."""
    from flashrl_registry.interop.flashrl_config import FUNCTIONS
    from flashrl_registry.interop.flashrl_setup import write_setup

    if function not in FUNCTIONS:
        raise typer.BadParameter(f"'{function}' is not one of {', '.join(FUNCTIONS)}", param_hint="--fn")
    written = write_setup(
        function=function, output=destination, model=model, profile=profile, settings=settings or (), append=append,
        force=force,
    )  # fmt: skip
    entries = "1 entry" if written.num_entries == 1 else f"{written.num_entries} entries"
    lines = [
        f"{'appended to' if written.appended else 'wrote'} {written.path}: {entries}",
        f"import it with: flashrl-registry import {written.path} -m BF16_MODEL -o DIR",
        *(f"note: {note}" for note in written.notes),
    ]
    output.result(
        {
            "config": written.path,
            "entry": dict(written.entry.values),
            "num_entries": written.num_entries,
            "appended": written.appended,
            "notes": written.notes,
        },
        "\n".join(lines),
        as_json=as_json,
    )
