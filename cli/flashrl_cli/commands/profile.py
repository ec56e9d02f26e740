"""``flashrl profile``: measure a checkpoint pair."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flashrl_cli import output
from flashrl_cli.arguments import Json, needs, warn

if TYPE_CHECKING:
    from flashrl_registry.profiling.profile import Report


def profile(  # noqa: PLR0917 - typer passes by name
    reference: Annotated[
        str, typer.Option("-m", "--model", help="The bf16 checkpoint: a folder, or owner/name[@rev].")
    ],
    quantized: Annotated[
        str, typer.Option("-qm", "-q", "--quantized", help="The same model's 8-bit checkpoint, named in the same way.")
    ],
    destination: Annotated[
        Path, typer.Option("-o", "--output", help="File (x.yaml) or folder to write; x.pt writes x.yaml.")
    ],
    scheme: Annotated[
        str, typer.Option("--fn", "--scheme", help="Scheme of the pair: int8, fp8, fp8_channel, fp8_block.")
    ] = "int8",
    threads: Annotated[int, typer.Option("--threads", min=1, help="Layers that are worked on at a time.")] = 1,
    every_row: Annotated[
        bool, typer.Option("--every-row", help="Compare every row of every linear, not a sample of them.")
    ] = False,
    ray: Annotated[
        str | None, typer.Option("--ray", help="Work on Ray: local, auto, or the address of a cluster.")
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Also draw it into an HTML file beside it: x.html for x.yaml.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure a bf16 checkpoint and its quantized twin, tensor by tensor."""
    draw: Report | None = None
    if report:  # what is missing is said before the work, not after it
        with needs("a report"):
            from flashrl_registry.report import write_report

            draw = write_report
    warnings: list[str] = []
    with needs("profiling"):
        from flashrl_registry.profiling import profile_pair

        with output.progress("profiling", enabled=not as_json) as progress:
            path, document = profile_pair(
                reference, quantized, destination,
                scheme=scheme, threads=threads, every_row=every_row, ray=ray, progress=progress,
                note=warnings.append, report=draw,
            )  # fmt: skip
    warn(tuple(warnings), as_json=as_json)
    page = path.with_suffix(".html") if report else None
    roles = {family.role: 0 for family in document.tensors}
    for family in document.tensors:
        roles[family.role] += family.num_members
    sidecar = path.parent / document.sidecar.file_name
    rounding = {linear.rounding: 0 for linear in document.linears if linear.rounding}
    for linear in document.linears:
        if linear.rounding:
            rounding[linear.rounding] += 1
    limits = [f"{group.source}: {group.not_applicable}" for group in document.smoothing if group.not_applicable]
    checked, rows = document.rows_checked
    sampled = "an even sample of each linear; --every-row compares all"
    lines = [
        f"profile    {path}",
        f"vectors    {sidecar} ({output.size(document.sidecar.num_bytes)})",
        f"digest     {document.digest}",
        f"model      {document.reference.name} ({document.reference.architecture})",
        f"tensors    {document.reference.num_tensors}: " + ", ".join(f"{n} {role}" for role, n in roles.items()),
        f"smoothing  {len(document.smoothing)} factors",
        f"rows       {checked} of {rows} compared" + (f", {sampled}" if checked < rows else ""),
        f"rounding   {', '.join(f'{n} {kind}' for kind, n in rounding.items()) or 'not measured'}",
    ]
    if page is not None:
        lines.append(f"report     {page}")
    if limits:
        lines.append(f"limits     plans cannot apply {len(limits)} factors yet, such as {limits[0]}")
    if document.no_frozen_scales:
        lines.append(f"limits     plans cannot keep these scales (scales: frozen): {document.no_frozen_scales}")
    if destination.suffix in {".pt", ".pth"}:
        lines.append(f"{destination} was not written: no pickles here; compile reads {path.name} in its place")
    output.result(
        {
            "profile": path,
            "sidecar": sidecar,
            "report": page,
            "digest": document.digest,
            "scheme": document.scheme,
            "model": document.reference.name,
            "num_tensors": roles,
            "num_smoothing": len(document.smoothing),
            "rows_checked": checked,
            "num_rows": rows,
            "rounding": rounding,
            "not_applicable": limits,
            "no_frozen_scales": document.no_frozen_scales,
            "warnings": warnings,
        },
        "\n".join(lines),
        as_json=as_json,
    )
