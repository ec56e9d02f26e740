"""``flashrl-registry compile``: rules and a model's tensor names to a plan."""

import difflib
from pathlib import Path
from typing import Annotated

import typer

from flashrl_cli import output
from flashrl_cli.arguments import Folder, Json
from flashrl_cli.render import plan_data, treatment_table

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
    from flashrl_registry.compiler import compile_plan, diagnostic_lines, preset_rules
    from flashrl_registry.documents import SCHEMES, SYNONYMS, canonical_scheme
    from flashrl_registry.registry import compile_file, read_profile, write_bundle

    if scheme is not None and rules_file is not None:
        raise typer.BadParameter("give --scheme or --rules, not both")
    wanted = canonical_scheme("int8" if scheme is None else scheme)
    if wanted is None:
        near = difflib.get_close_matches(str(scheme).lower(), (*SCHEMES, *SYNONYMS), n=1)
        meant = f"; did you mean '{near[0]}'?" if near else ""
        names = ", ".join((*SCHEMES, *SYNONYMS))
        raise typer.BadParameter(f"'{scheme}' is not one of {names}{meant}", param_hint="--scheme")
    inventory = read_inventory(model, name)
    profile, sidecar = read_profile(profile_path) if profile_path is not None else (None, None)
    if rules_file is not None:
        compiled = compile_file(rules_file, inventory, profile)
    else:
        compiled = compile_plan(preset_rules(wanted, inventory, profile), inventory, profile)
    plan = compiled.plan
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
        *(["", *notes] if notes else []),
    ]
    output.result(
        {"plan": destination, "files": files, **plan_data(plan), "notes": [vars(note) for note in compiled.notes]},
        "\n".join(lines),
        as_json=as_json,
    )
