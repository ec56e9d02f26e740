"""``flashrl-registry import``: another tool's file to plans."""

from pathlib import Path
from typing import Annotated

import typer

from flashrl_cli import output
from flashrl_cli.arguments import Folder, Json, needs
from flashrl_cli.render import plan_data, treatment_table


def import_command(
    *,
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="flashrl_config.yaml, profile.pt, a config.json with a quantization_config (or its folder), or an "
            "llm-compressor recipe; or owner/repo/path on the Hub.",
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            "-m",
            "--model",
            help="The bf16 checkpoint: a folder, or owner/name[@revision] on the Hub. Only headers are read.",
        ),
    ],
    destination: Folder,
    kind: Annotated[
        str | None,
        typer.Option("--format", help="flashrl, flashrl-profile, compressed-tensors or llm-compressor."),
    ] = None,
    profile: Annotated[
        Path | None, typer.Option("-p", "--profile", help="Profile instead of the one that the file names.")
    ] = None,
    scheme: Annotated[
        str | None, typer.Option("--scheme", "--fn", help="For a profile.pt alone.  [default: int8 or fp8_channel]")
    ] = None,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Take int8 scales from every update, not FlashRL's fixed ones.")
    ] = False,
    lossy: Annotated[
        bool, typer.Option("--lossy", help="Note how inputs are quantized otherwise here, instead of refusing.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace plans in the folder that this import would not write.")
    ] = False,
    name: Annotated[str | None, typer.Option("--name", help="Model name to record.  [default: folder name]")] = None,
    as_json: Json = False,
) -> None:
    """Make plans of another tool's file: a plan folder, or hybrid.yaml beside one folder per member."""
    from flashrl_registry.documents import canonical_scheme
    from flashrl_registry.interop.detect import SOURCE_KINDS
    from flashrl_registry.interop.importing import ImportOptions, import_source

    if kind is not None and kind not in SOURCE_KINDS:
        raise typer.BadParameter(f"'{kind}' is not one of {', '.join(SOURCE_KINDS)}", param_hint="--format")
    if scheme is not None and canonical_scheme(scheme) is None:
        raise typer.BadParameter(f"'{scheme}' is not a scheme", param_hint="--scheme")
    options = ImportOptions(
        kind=next((known for known in SOURCE_KINDS if known == kind), None),
        profile=profile,
        scheme=canonical_scheme(scheme) if scheme is not None else None,
        recompute=recompute,
        lossy=lossy,
        name=name,
        force=force,
    )
    with needs("reading a FlashRL profile"):
        imported = import_source(source, model, destination, options)
    lines = [f"read as {imported.kind}"]
    for plan in imported.plans:
        lines += ["", f"plan    {plan.folder}", f"digest  {plan.plan.digest}", treatment_table(plan.plan)]
    if imported.hybrid is not None:
        lines += ["", f"hybrid  {imported.hybrid}: " + ", ".join(plan.name for plan in imported.plans)]
    lines += ["", *(f"note: {note}" for note in imported.notes)] if imported.notes else []
    output.result(
        {
            "format": imported.kind,
            "plans": [{"name": p.name, "plan": p.folder, **plan_data(p.plan)} for p in imported.plans],
            "hybrid": imported.hybrid,
            "notes": imported.notes,
        },
        "\n".join(lines),
        as_json=as_json,
    )
