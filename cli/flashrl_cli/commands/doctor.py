"""``flashrl doctor``: whether an engine here would run a plan, and what is in the way."""

import os
from dataclasses import asdict
from typing import Annotated

import typer

from flashrl_cli import output
from flashrl_cli.arguments import Json


def doctor(
    ref: Annotated[
        str | None, typer.Argument(metavar="[REF]", help="What FLASHRL_CONFIG would be.  [default: FLASHRL_CONFIG]")
    ] = None,
    model: Annotated[
        str | None, typer.Option("-m", "--model", help="The engine's bf16 model: folder or Hub id; headers are read.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Look at the installation, the variables and a plan without starting an engine; 1 where a plan would not run."""
    from flashrl_registry.runtime import doctor as checks
    from flashrl_registry.runtime.dry_run import dry_apply

    found = [*checks.look(os.environ), *dry_apply(ref, model, checks.installed_vllm(), os.environ)]
    failed = sum(check.health == "fail" for check in found)
    warned = sum(check.health == "warn" for check in found)
    lines = []
    for check in found:
        first, *rest = check.message.splitlines()
        lines += [f"{check.health:<4}  {check.name}: {first}", *(f"      {line.strip()}" for line in rest)]
        if check.hint and check.health != "ok":
            lines.append(f"      -> {check.hint}")
    lines.append(f"{len(found) - failed - warned} ok, {warned} warnings, {failed} failures")
    output.result({"checks": [asdict(check) for check in found]}, "\n".join(lines), as_json=as_json, ok=not failed)
    if failed:
        raise typer.Exit(1)
