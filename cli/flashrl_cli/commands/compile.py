"""``flashrl-registry compile``: rules and a model's tensor names to a plan."""

import difflib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flashrl_cli import output
from flashrl_cli.arguments import Folder, Json, Target, needs
from flashrl_cli.render import plan_data, treatment_table

if TYPE_CHECKING:
    from flashrl_registry.compiler import Auto, Budget
    from flashrl_registry.documents import Plan, SchemeName

# Written out: the documents that define them cost 0.1 s to import, and --help should not; a test compares.
SCHEME_NAMES = "bf16, fp8, fp8_tensor, fp8_channel, fp8_block, int8, int8_prune, or FlashRL's name for one"


def compile_command(
    *,
    model: Annotated[
        str,
        typer.Option(
            "-m",
            "--model",
            help="The bf16 checkpoint: a folder, or owner/name[@revision] on the Hub. Only headers are read.",
        ),
    ],
    destination: Folder,
    scheme: Annotated[
        str | None,
        typer.Option("--scheme", "--fn", help=f"One scheme for the whole model: {SCHEME_NAMES}.  [default: int8]"),
    ] = None,
    rules_file: Annotated[Path | None, typer.Option("--rules", help="Rules document, instead of --scheme.")] = None,
    auto: Annotated[
        bool, typer.Option("--auto", help="Choose a format per group of linears, instead of --scheme.")
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option("--budget", help="For --auto: avg-bits=N of all linear weights, kl=X in nats, or bf16=SHARE."),
    ] = None,
    sensitivity_path: Annotated[
        Path | None, typer.Option("--sensitivity", help="For --auto: what flashrl-registry sensitivity wrote.")
    ] = None,
    choices: Annotated[
        list[str] | None,
        typer.Option("--choice", help="For --auto: a scored scheme that it may choose.  [default: all]"),
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option("-t", "--text", help="For --auto: UTF-8 text to measure the chosen plan on, with the weights."),
    ] = None,
    device: Annotated[
        Target, typer.Option("--device", help="For --auto: the device that the plan must run on.")
    ] = Target.cuda,
    profile_path: Annotated[
        Path | None, typer.Option("-p", "--profile", help="Profile of this model's pair: file or folder.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Model name to record.  [default: folder name or Hub id]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Decide the treatment of every tensor, or say why not."""
    from flashrl_registry.checkpoints import read_inventory
    from flashrl_registry.compiler import auto_plan, compile_plan, diagnostic_lines, preset_rules
    from flashrl_registry.compiler.notes import notes_of
    from flashrl_registry.documents import Sensitivity, read_document
    from flashrl_registry.registry import compile_file, read_profile, write_bundle

    if sum((scheme is not None, rules_file is not None, auto)) > 1:
        raise typer.BadParameter("give one of --scheme, --rules and --auto")
    limit = _budget(auto, {"--budget": budget, "--sensitivity": sensitivity_path, "--choice": choices, "--text": text})
    wanted = _scheme(scheme)
    inventory = read_inventory(model, name)
    profile, sidecar = read_profile(profile_path) if profile_path is not None else (None, None)
    chosen: Auto | None = None
    if limit is not None and sensitivity_path is not None:
        scores = read_document(sensitivity_path, Sensitivity)
        chosen = auto_plan(
            inventory, scores, limit, profile=profile, device=device.value, schemes=_choices(choices, scores)
        )
        compiled = chosen.compiled
    elif rules_file is not None:
        compiled = compile_file(rules_file, inventory, profile)
    else:
        compiled = compile_plan(preset_rules(wanted, inventory, profile), inventory, profile)
    plan = compiled.plan
    if text:
        plan = _measured(plan, sidecar, model, text, quiet=as_json)
    if plan.profile is None:  # nothing of the profile is used, so the bundle does not need it
        profile, sidecar = None, None
    files = write_bundle(destination, plan, profile=profile, sidecar=sidecar)
    notes = diagnostic_lines(compiled.notes)
    lines = [
        f"plan    {destination}",
        f"digest  {plan.digest}",
        f"model   {plan.base_model.name} ({plan.base_model.architecture})",
        "",
        treatment_table(plan),
        *(["", *_front_lines(plan)] if chosen is not None else []),
        *(["", *notes] if notes else []),
    ]
    data: dict[str, Any] = {"plan": destination, "files": files, **plan_data(plan)}
    if (why := notes_of(plan)) is not None:
        data["auto"] = why.model_dump(mode="json")
    output.result(
        {**data, "notes": [vars(note) for note in compiled.notes]},
        "\n".join(lines),
        as_json=as_json,
    )


def _scheme(scheme: str | None) -> "SchemeName":
    from flashrl_registry.documents import SCHEMES, SYNONYMS, canonical_scheme

    wanted = canonical_scheme("int8" if scheme is None else scheme)
    if wanted is None:
        near = difflib.get_close_matches(str(scheme).lower(), (*SCHEMES, *SYNONYMS), n=1)
        meant = f"; did you mean '{near[0]}'?" if near else ""
        names = ", ".join((*SCHEMES, *SYNONYMS))
        raise typer.BadParameter(f"'{scheme}' is not one of {names}{meant}", param_hint="--scheme")
    return wanted


def _budget(auto: bool, options: dict[str, Any]) -> "Budget | None":
    """What --auto may cost; None without it."""
    from flashrl_registry.compiler import parse_budget

    if not auto:
        if alone := next((option for option, value in options.items() if value), None):
            raise typer.BadParameter(f"{alone} belongs to --auto")
        return None
    if options["--budget"] is None or options["--sensitivity"] is None:
        raise typer.BadParameter("--auto needs --budget and --sensitivity")
    try:
        return parse_budget(options["--budget"])
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--budget") from exc


def _measured(plan: "Plan", sidecar: Path | None, model: str, text: list[Path], *, quiet: bool) -> "Plan":
    with needs("measuring the plan"):
        from flashrl_registry.quality import measure_plan, with_measured

        with output.progress("measuring", enabled=not quiet) as progress:
            return with_measured(plan, measure_plan(plan, sidecar, model, text, progress=progress))


def _choices(asked: list[str] | None, scores: Any) -> Any:
    scored = [entry.scheme for entry in scores.schemes]
    if unknown := sorted(set(asked or ()) - set(scored)):
        raise typer.BadParameter(f"'{unknown[0]}' was not scored; {', '.join(scored)} were", param_hint="--choice")
    return [scheme for scheme in scored if scheme in asked] if asked else None


def _front_lines(plan: "Plan") -> list[str]:
    """The choice in words, and the front as a table; the plan's own row is marked."""
    from flashrl_registry.compiler.notes import notes_of

    notes = notes_of(plan)
    assert notes is not None  # compile --auto has just written them
    counts = Counter(group.format for group in notes.groups)
    measured = notes.measured
    rows = [
        (f"{p.avg_bits:.3f}", f"{100 * p.bf16_share:.1f}", f"{p.predicted_kl:.5f}", "<- this plan" if p.chosen else "")
        for p in notes.front
    ]
    return [
        f"auto    {notes.budget}: " + ", ".join(f"{count} {name}" for name, count in sorted(counts.items())),
        f"KL      predicted {notes.predicted_kl:.5f} nat"
        + (f", measured {measured.kl:.5f} +- {measured.kl_standard_error:.5f}" if measured is not None else ""),
        "",
        output.table(("BITS/WEIGHT", "BF16 %", "PREDICTED KL", ""), rows),
    ]
