"""``flashrl-registry export``: plans to another tool's files."""

from typing import Annotated, Literal

import typer

from flashrl_cli import output
from flashrl_cli.arguments import Folder, Json, bundle_of, needs, open_chain


def export(
    *,
    ref: Annotated[
        str, typer.Argument(metavar="REF", help="A plan, or the hybrid.yaml or folder of several (--to flashrl).")
    ],
    destination: Folder,
    to: Annotated[str, typer.Option("--to", help="flashrl, compressed-tensors or vllm.")],
    model: Annotated[
        str | None, typer.Option("-m", "--model", help="For flashrl: the quantized checkpoint that it is to load.")
    ] = None,
    vllm: Annotated[
        str | None,
        typer.Option("--vllm", help="Release to speak to.  [default: the newest that the plan admits]"),
    ] = None,
    lossy: Annotated[
        bool, typer.Option("--lossy", help="Leave out what the format cannot say, and say what that was.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a plan in another tool's format, or say all that the format cannot express."""
    from flashrl_registry.interop.exporting import EXPORT_FORMATS, export_config, export_flashrl
    from flashrl_registry.interop.members import members_of

    if to not in EXPORT_FORMATS:
        raise typer.BadParameter(f"'{to}' is not one of {', '.join(EXPORT_FORMATS)}", param_hint="--to")
    with needs("writing a FlashRL profile"):
        if to == "flashrl":
            exported = export_flashrl(members_of(ref, open_chain()), destination, model=model, lossy=lossy)
        else:
            form: Literal["compressed-tensors", "vllm"] = "vllm" if to == "vllm" else "compressed-tensors"
            exported = export_config(bundle_of(ref), destination, form, vllm=vllm, lossy=lossy)
    lines = [*(f"wrote {file}" for file in exported.files), *(f"note: {note}" for note in exported.notes)]
    output.result({"format": to, "files": exported.files, "notes": exported.notes}, "\n".join(lines), as_json=as_json)
