"""``flashrl-registry report``: a profile as a page for people."""

from pathlib import Path
from typing import Annotated

import typer

from flashrl_cli import output
from flashrl_cli.arguments import Json, Target, bundle_of, needs


def report(
    profile_path: Annotated[
        Path, typer.Argument(metavar="PROFILE", help="What flashrl profile wrote: a file or its folder.")
    ],
    destination: Annotated[Path, typer.Option("-o", "--output", help="HTML file to write; it opens offline.")],
    *,
    sensitivity_path: Annotated[
        Path | None, typer.Option("--sensitivity", help="What flashrl-registry sensitivity wrote, of the same model.")
    ] = None,
    plan_ref: Annotated[
        str | None, typer.Option("--plan", metavar="REF", help="A plan for the same model, by path or by name.")
    ] = None,
    facts: Annotated[Path | None, typer.Option("--facts", help="Write the same facts to this file as JSON.")] = None,
    device: Annotated[
        Target, typer.Option("--device", help="Device whose formats the Pareto front of scores may use.")
    ] = Target.cuda,
    as_json: Json = False,
) -> None:
    """Draw a profile, and scores and a plan beside it, into one HTML file."""
    from flashrl_registry.documents import Sensitivity, read_document
    from flashrl_registry.registry import read_profile

    _check_names(destination, facts)
    profile, _ = read_profile(profile_path)
    scores = read_document(sensitivity_path, Sensitivity) if sensitivity_path is not None else None
    plan = bundle_of(plan_ref).plan if plan_ref is not None else None
    with needs("a report"):
        from flashrl_registry.report import write_report

        written = write_report(
            profile, destination, sensitivity=scores, plan=plan, facts_file=facts, device=device.value
        )
    summary = written.facts.summary
    lines = [
        f"report     {destination} ({output.size(written.num_bytes)})",
        *([f"facts      {facts}"] if facts is not None else []),
        f"model      {profile.reference.name} ({profile.reference.architecture})",
        f"linears    {summary.num_linears}, {summary.num_all_codes_equal} with all codes equal",
        f"smoothing  {summary.num_smoothing} factors",
        f"rounding   {', '.join(f'{n} {kind}' for kind, n in summary.rounding.items()) or 'not measured'}",
    ]
    output.result(
        {
            "report": destination,
            "facts": facts,
            "digest": written.facts.profile,
            "model": profile.reference.name,
            "num_bytes": written.num_bytes,
            "summary": summary.model_dump(mode="json"),
        },
        "\n".join(lines),
        as_json=as_json,
    )


def _check_names(destination: Path, facts: Path | None) -> None:
    """A slip of the hand writes over no profile."""
    if destination.suffix.lower() not in {".html", ".htm"}:
        raise typer.BadParameter(f"'{destination}' is not a file such as report.html", param_hint="--output")
    if facts is not None and facts.suffix.lower() != ".json":
        raise typer.BadParameter(f"'{facts}' is not a file such as report.json", param_hint="--facts")
