"""``flashrl-registry evidence``: what was measured of a published plan."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flashrl_cli import output
from flashrl_cli.arguments import Json, StoreAddress, published_ref
from flashrl_cli.render import evidence_data, evidence_table


class Action(StrEnum):
    """What to do."""

    add = "add"
    list = "list"


def evidence(
    action: Annotated[Action, typer.Argument(metavar="add|list", help="What to do.")],
    ref: Annotated[str, typer.Argument(metavar="REF", help="namespace/name[@version or channel]; hf://... on a Hub.")],
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="For add: documents flashrl.evidence/v1.")
    ] = None,
    store: StoreAddress = None,
    as_json: Json = False,
) -> None:
    """Put measurements beside a published plan, bound to its digest, or list them. The plan stays as it is."""
    from flashrl_registry.documents import Evidence, EvidenceEvent, read_document
    from flashrl_registry.errors import NotFoundError
    from flashrl_registry.registry.evidence import add_evidence, evidence_of

    if (action is Action.add) != bool(files):
        raise typer.BadParameter("write: evidence add REF FILE..., or evidence list REF", param_hint="FILE")
    opened, named = published_ref(ref, store)
    data: dict[str, object] = {"ref": ref, "store": opened.place}
    if action is Action.add:
        documents = [read_document(file, Evidence) for file in files or ()]
        with output.waiting(f"adding evidence to {ref}", enabled=not as_json):
            added = add_evidence(opened, named, documents)
        events = [one.event for one in added if isinstance(one.event, EvidenceEvent)]
        changed = sum(one.changed for one in added)
        text = f"{changed} of {len(added)} added to {named.name}@{events[0].version}" + (
            "" if changed == len(added) else "; the others were there"
        )
        data |= {"changed": changed}
    else:
        bundle = opened.open(named)
        if bundle.manifest is None:
            raise NotFoundError(f"{ref} is no published version, and evidence lies beside those")
        history = bundle.history if bundle.history is not None else opened.history(named.name)
        events = evidence_of(history, bundle.manifest.version, bundle.manifest.plan_digest)
        text = evidence_table(events) if events else f"nothing was measured of {named.name}@{bundle.manifest.version}"
    output.result({**data, "evidence": [evidence_data(event) for event in events]}, text, as_json=as_json)
