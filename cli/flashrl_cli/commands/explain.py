"""``flashrl-registry explain``: which rule decided, and what happens to a tensor."""

from dataclasses import asdict
from typing import Annotated

import typer

from flashrl_cli import output
from flashrl_cli.arguments import Json, Ref, bundle_of
from flashrl_registry.documents.plain_text import escaped


def explain(
    ref: Ref,
    tensor: Annotated[
        str | None, typer.Argument(metavar="[TENSOR]", help="Tensor or module; a glob, family or re: works too.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Explain a plan's decisions, for every family or for the tensors named."""
    from flashrl_registry.compiler import explain as explain_plan

    bundle = bundle_of(ref)
    entries = explain_plan(bundle.plan, tensor)
    paragraphs = [
        f"{entry.names}" + (f"  ({entry.num_tensors} tensors)" if entry.num_tensors > 1 else "") + "\n"
        f"  {entry.dtype} {'x'.join(map(str, entry.shape))}; rule '{entry.rule}' ({entry.scheme}) by target "
        f"'{escaped(entry.target)}'\n"
        f"  {entry.treatment}: {escaped(entry.reason)}\n"
        f"  {output.size(entry.bytes_before)} in the checkpoint, {output.size(entry.bytes_after)} in the engine"
        + (", each" if entry.num_tensors > 1 else "")
        + (f"\n  {escaped(entry.chosen)}" if entry.chosen else "")
        for entry in entries
    ]
    output.result(
        {"digest": bundle.plan.digest, "tensors": [asdict(entry) for entry in entries]},
        "\n".join(paragraphs),
        as_json=as_json,
    )
