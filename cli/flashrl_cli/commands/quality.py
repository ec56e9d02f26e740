"""``flashrl-registry quality``: how far a plan moves a model's distributions, measured on text."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from flashrl_cli import output
from flashrl_cli.arguments import Device, Json, NumTokens, Ref, SequenceTokens, Text, bundle_of, needs


def quality(
    ref: Ref,
    *,
    model: Annotated[
        str, typer.Option("-m", "--model", help="The bf16 model: a folder, or owner/name[@revision] on the Hub.")
    ],
    text: Text,
    destination: Annotated[
        Path | None, typer.Option("-o", "--output", help="Evidence to write, for flashrl-registry evidence add.")
    ] = None,
    num_tokens: NumTokens = 4096,
    sequence_tokens: SequenceTokens = 512,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Measure KL and log-probabilities of a model under a plan against the model itself; needs no engine."""
    from flashrl_registry.compiler.notes import notes_of
    from flashrl_registry.documents import write_document

    bundle = bundle_of(ref)
    with needs("measuring quality"):
        from flashrl_registry.quality import evidence_of, measure_plan

        with output.progress("measuring", enabled=not as_json) as progress:
            measured = measure_plan(
                bundle.plan, bundle.sidecar, model, text, num_tokens=num_tokens, sequence_tokens=sequence_tokens,
                device=device, progress=progress,
            )  # fmt: skip
    if destination is not None:
        write_document(evidence_of(bundle.plan, measured), destination)
    found, notes = measured.divergence, notes_of(bundle.plan)
    predicted = None if notes is None else notes.predicted_kl
    lines = [
        f"plan          {bundle.digest}",
        f"text          {measured.text.num_tokens} tokens",
        f"KL            {found.kl:.5f} +- {found.kl_standard_error:.5f} nat per token"
        + (f"; compile --auto predicted {predicted:.5f}" if predicted is not None else ""),
        f"|dlogprob|    {found.mean_abs_dlogprob:.5f} +- {found.dlogprob_standard_error:.5f} nat",
        *([f"evidence      {destination}"] if destination is not None else []),
    ]
    output.result(
        {"digest": bundle.digest, **asdict(found), "predicted_kl": predicted, "text": measured.text.model_dump(),
         "device": measured.device, "versions": measured.versions, "evidence": destination},
        "\n".join(lines),
        as_json=as_json,
    )  # fmt: skip
