"""``flashrl-registry sensitivity``: which linears 8 bits would hurt, measured on text."""

from pathlib import Path
from typing import Annotated

import typer

from flashrl_cli import output
from flashrl_cli.arguments import Device, Json, NumTokens, SequenceTokens, Text, needs

SCORED_NAMES = "int8, int8_plain, fp8_tensor, fp8_channel, fp8_block"
_SHOWN = 10


def sensitivity(
    *,
    model: Annotated[
        str, typer.Option("-m", "--model", help="The bf16 model: a folder, or owner/name[@revision] on the Hub.")
    ],
    text: Text,
    destination: Annotated[Path, typer.Option("-o", "--output", help="File to write: x.yaml or x.json.")],
    profile_path: Annotated[
        Path | None, typer.Option("-p", "--profile", help="Profile whose smoothing int8 has: file or folder.")
    ] = None,
    schemes: Annotated[
        list[str] | None, typer.Option("--scheme", "--fn", help=f"One or more of {SCORED_NAMES}.  [default: all]")
    ] = None,
    num_tokens: NumTokens = 2048,
    sequence_tokens: SequenceTokens = 512,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Score every group of linears under every scheme, for compile --auto."""
    from flashrl_registry.documents import write_document
    from flashrl_registry.documents.sensitivity import SCORED_SCHEMES

    asked = [scheme for scheme in SCORED_SCHEMES if scheme in (schemes or ())]
    if unknown := sorted(set(schemes or ()) - set(asked)):
        raise typer.BadParameter(f"'{unknown[0]}' is not one of {SCORED_NAMES}", param_hint="--scheme")
    with needs("measuring sensitivity"):
        from flashrl_registry.quality import measure_sensitivity

        with output.progress("scoring", enabled=not as_json) as progress:
            document = measure_sensitivity(
                model, text, profile=profile_path, schemes=asked or None, num_tokens=num_tokens,
                sequence_tokens=sequence_tokens, device=device, progress=progress,
            )  # fmt: skip
    write_document(document, destination)
    whole = [(s.scheme, f"{s.kl:.5f}", f"{s.kl_standard_error:.5f}", f"{s.mean_abs_dlogprob:.5f}")
             for s in document.schemes]  # fmt: skip
    first = document.schemes[0].scheme
    ranked = sorted(
        ((entry.score, group.module) for group in document.groups for entry in group.scores if entry.scheme == first),
        reverse=True,
    )[:_SHOWN]
    total = sum(entry.score for group in document.groups for entry in group.scores if entry.scheme == first) or 1.0
    missing = [f"not scored, kept in bf16 by --auto: {entry.names}: {entry.reason}" for entry in document.not_scored]
    lines = [
        f"sensitivity  {destination}",
        f"digest       {document.digest}",
        f"model        {document.reference.name} ({document.reference.architecture})",
        f"text         {document.text.num_tokens} tokens",
        f"groups       {len(document.groups)}",
        *missing,
        "",
        output.table(("SCHEME", "KL", "+-", "|DLOGPROB|"), whole),
        "",
        output.table((f"MOST SENSITIVE TO {first}", "SHARE %"), [(m, f"{100 * s / total:.1f}") for s, m in ranked]),
    ]
    output.result(
        {"sensitivity": destination, "digest": document.digest, "num_groups": len(document.groups),
         "schemes": [entry.model_dump() for entry in document.schemes],
         "not_scored": [entry.model_dump() for entry in document.not_scored]},
        "\n".join(lines),
        as_json=as_json,
    )  # fmt: skip
