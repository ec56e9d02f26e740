"""``flashrl-registry channel``: names that move between versions, and how they moved."""

from enum import StrEnum
from typing import Annotated

import typer

from flashrl_cli import output
from flashrl_cli.arguments import Json, Name, StoreAddress, store_of


class Action(StrEnum):
    """What to do."""

    list = "list"
    set = "set"
    history = "history"


def channel(  # noqa: PLR0917 - typer passes by name
    action: Annotated[Action, typer.Argument(metavar="list|set|history", help="What to do.")],
    name: Annotated[str, Name],
    which: Annotated[str | None, typer.Argument(metavar="[CHANNEL]", help="Such as stable.")] = None,
    version: Annotated[str | None, typer.Argument(metavar="[VERSION]", help="For set: where to.")] = None,
    expected: Annotated[
        str | None, typer.Option("--from", help="For set: refuse unless it is at this version ('none': is new).")
    ] = None,
    store: StoreAddress = None,
    as_json: Json = False,
) -> None:
    """Show where channels point, move one, or show who moved it when."""
    from flashrl_registry.documents import ChannelEvent
    from flashrl_registry.registry.channels import move_channel
    from flashrl_registry.registry.standing import standing_of

    opened, plain = store_of(name, store)
    if action is Action.set:
        if which is None or version is None:
            raise typer.BadParameter("write: channel set NAME CHANNEL VERSION", param_hint="CHANNEL VERSION")
        moved = move_channel(opened, plain, which, version, expected=expected)
        event = moved.event.model_dump(mode="json")
        before = getattr(moved.event, "previous", None) or "new"
        text = f"{plain}@{which}: {before} -> {version}" if moved.changed else f"{plain}@{which} is {version} already"
        output.result({"name": plain, "store": opened.place, "changed": moved.changed, **event}, text, as_json=as_json)
        return
    history = opened.history(plain)
    if action is Action.list:
        channels = standing_of(history).channels
        rows = [(key, at) for key, at in sorted(channels.items()) if which in {None, key}]
        text = output.table(("CHANNEL", "VERSION"), rows) if rows else f"{plain} has no channels but latest"
        output.result({"name": plain, "store": opened.place, "channels": dict(rows)}, text, as_json=as_json)
        return
    events = [event for event in history.events if which is None or getattr(event, "channel", None) == which]
    lines = [
        (event.at, event.by, event.kind if not isinstance(event, ChannelEvent) else event.channel,
         f"{event.previous or 'new'} -> {event.version}" if isinstance(event, ChannelEvent) else event.version,
         getattr(event, "reason", ""))
        for event in events
    ]  # fmt: skip
    output.result(
        {"name": plain, "store": opened.place, "events": [event.model_dump(mode="json") for event in events]},
        output.table(("WHEN", "WHO", "WHAT", "VERSION", "WHY"), lines) if lines else f"nothing was said about {plain}",
        as_json=as_json,
    )
