"""``flashrl profile``: measure a checkpoint pair."""

from pathlib import Path
from typing import Annotated

import typer

from flashrl_cli import output
from flashrl_cli.arguments import Json, needs


def profile(
    reference: Annotated[Path, typer.Option("-m", "--model", help="Folder of the bf16 checkpoint.")],
    quantized: Annotated[
        Path, typer.Option("-qm", "-q", "--quantized", help="Folder of the same model's int8 W8A8 checkpoint.")
    ],
    destination: Annotated[
        Path, typer.Option("-o", "--output", help="File (x.yaml) or folder to write; x.pt writes x.yaml.")
    ],
    scheme: Annotated[str, typer.Option("--fn", "--scheme", help="Scheme of the pair.")] = "int8",
    as_json: Json = False,
) -> None:
    """Measure a bf16 checkpoint and its quantized twin, tensor by tensor."""
    with needs("profiling"):
        from flashrl_registry.profiling import profile_pair

        with output.progress("profiling", enabled=not as_json) as progress:
            path, document = profile_pair(reference, quantized, destination, scheme=scheme, progress=progress)
    roles = {family.role: 0 for family in document.tensors}
    for family in document.tensors:
        roles[family.role] += family.num_members
    sidecar = path.parent / document.sidecar.file_name
    lines = [
        f"profile    {path}",
        f"vectors    {sidecar} ({output.size(document.sidecar.num_bytes)})",
        f"digest     {document.digest}",
        f"model      {document.reference.name} ({document.reference.architecture})",
        f"tensors    {document.reference.num_tensors}: " + ", ".join(f"{n} {role}" for role, n in roles.items()),
        f"smoothing  {len(document.smoothing)} factors",
    ]
    if destination.suffix in {".pt", ".pth"}:
        lines.append(f"{destination} was not written: no pickles here; compile reads {path.name} in its place")
    output.result(
        {
            "profile": path,
            "sidecar": sidecar,
            "digest": document.digest,
            "scheme": document.scheme,
            "model": document.reference.name,
            "num_tensors": roles,
            "num_smoothing": len(document.smoothing),
        },
        "\n".join(lines),
        as_json=as_json,
    )
