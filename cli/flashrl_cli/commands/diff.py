"""``flashrl-registry diff``: two plans, by meaning."""

from dataclasses import asdict
from typing import Annotated

import typer

from flashrl_cli import output
from flashrl_cli.arguments import AllowStale, Json, bundle_of, warn
from flashrl_registry.documents.plain_text import escaped


def diff(
    before: Annotated[str, typer.Argument(metavar="A", help="Reference of a plan.")],
    after: Annotated[str, typer.Argument(metavar="B", help="Reference of another.")],
    allow_stale: AllowStale = False,
    as_json: Json = False,
) -> None:
    """Compare two plans by meaning: settings, decisions per family, predicted weight bytes."""
    from flashrl_registry.compiler import diff_plans

    bundles = [bundle_of(text, allow_stale=allow_stale) for text in (before, after)]
    old, new = (bundle.plan for bundle in bundles)
    found = diff_plans(old, new)
    lines = [f"A {old.digest}", f"B {new.digest}"]
    if found.same:
        lines.append("the plans are the same")
    elif not found.settings and not found.tensors:
        lines.append("the plans decide the same; they group tensor names differently")
    said = [(setting.where, setting.before, setting.after) for setting in found.settings]
    said += [(f"{change.names} ({change.num_tensors})", change.before, change.after) for change in found.tensors]
    for what, was, now in said:
        lines += [escaped(line) for line in (f"{what}:", f"  - {was}", f"  + {now}")]
    delta = found.bytes_after - found.bytes_before
    lines.append(
        f"weights: {output.size(found.bytes_before)} -> {output.size(found.bytes_after)} "
        f"({'+' if delta >= 0 else '-'}{output.size(abs(delta))})"
    )
    output.result({"before": old.digest, "after": new.digest, **asdict(found)}, "\n".join(lines), as_json=as_json)
    for bundle in bundles:
        warn(bundle.warnings, as_json=as_json)
