"""``flashrl-registry lint``: rules and plans that are valid, and not what their author would want."""

from typing import TYPE_CHECKING, Annotated

import typer

from flashrl_cli import output
from flashrl_cli.arguments import Json, bundle_of, open_chain
from flashrl_registry.documents.plain_text import escaped

if TYPE_CHECKING:
    from flashrl_registry.errors import Diagnostic
    from flashrl_registry.registry import Linted


def lint(
    *,
    references: Annotated[
        list[str], typer.Argument(metavar="REF_OR_FILE...", help="Rules files, plans, references of plans.")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "-m", "--model", help="The bf16 checkpoint that they are for: a folder, or owner/name[@revision]."
        ),
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option("--plan", metavar="REF", help="Instead: a plan for that model, which lists its tensors."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail on warnings too.")] = False,
    as_json: Json = False,
) -> None:
    """Find dead, shadowed and conflicting rules, and fields that an engine ignores."""
    from flashrl_registry.checkpoints import read_inventory
    from flashrl_registry.compiler.lint import inventory_of_plan
    from flashrl_registry.registry import lint_all

    if model is not None and plan is not None:
        raise typer.BadParameter("give --model or --plan, not both")
    store = open_chain()
    inventory = read_inventory(model) if model is not None else None
    if plan is not None:
        inventory = inventory_of_plan(bundle_of(plan).plan)
    linted, errors = lint_all(references, store, inventory)
    counts = {
        severity: sum(found.severity == severity for one in linted for found in one.diagnostics)
        for severity in ("error", "warning")
    }
    lines = [_line(one, found) for one in linted for found in one.diagnostics]
    lines.append(f"{len(linted)} linted: {counts['error']} errors, {counts['warning']} warnings")
    if errors:
        lines[-1] += f"; {len(errors)} could not be linted"
    failed = bool(errors or counts["error"] or (strict and counts["warning"]))
    output.result(
        {
            "files": [
                {
                    "source": one.source,
                    "kind": one.kind,
                    "diagnostics": [
                        {**vars(found), "line": line, "column": column}
                        for found in one.diagnostics
                        for line, column in [one.places.get(found.where, (None, None))]
                    ],
                }
                for one in linted
            ],
            "errors": [output.error_data(error) for error in errors],
            **counts,
        },
        "\n".join(lines),
        as_json=as_json,
        ok=not failed,
    )
    if not as_json:
        for error in errors:
            output.note(str(error))
    if failed:
        raise typer.Exit(1)


def _line(linted: "Linted", found: "Diagnostic") -> str:
    place, said = linted.places.get(found.where), escaped(str(found))
    return f"{linted.source}:{place[0]}:{place[1]}: {said}" if place else f"{linted.source}: {said}"
