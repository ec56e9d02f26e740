"""``flashrl-registry list``: what a store holds."""

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from flashrl_cli import output
from flashrl_cli.arguments import Json, StoreAddress, open_store

if TYPE_CHECKING:
    from flashrl_registry.errors import FlashRLError
    from flashrl_registry.registry import Listed


def list_command(
    store: StoreAddress = None,
    author: Annotated[str | None, typer.Option("--author", help="On a Hub: plans of this owner.")] = None,
    as_json: Json = False,
) -> None:
    """List the published plans of the local registry, or of another store."""
    if store in {None, "local"} and author is None:
        from flashrl_registry.registry.local_listing import list_folder
        from flashrl_registry.registry.root import default_registry_root

        root = default_registry_root(os.environ)
        print_listed(list_folder(root), {"registry": root}, f"nothing is published in {root}", as_json=as_json)
        return
    opened = open_store(store or "local")
    if author is not None and opened.kind != "hub":
        raise typer.BadParameter("only a Hub has authors", param_hint="--author")
    lines = opened.listing(author) if author is not None else opened.listing()  # type: ignore[call-arg]
    place = opened.place
    print_listed(lines, {"registry": place}, f"nothing is published in {place}", as_json=as_json)


def print_listed(
    lines: "Iterable[Listed | FlashRLError]", data: dict[str, object], nothing: str, *, as_json: bool
) -> None:
    """Print a listing, and what could not be read.

    Raises:
        typer.Exit: Something could not be read.
    """
    damaged: list[FlashRLError] = []
    found = _sound(lines, damaged)
    if as_json:
        # Written as it is read: ten thousand plans take no more memory than ten.
        output.stream(data, "plans", (_data(line) for line in found), lambda: _tail(damaged))
    else:
        rows = [
            (line.ref, line.model, ",".join(line.schemes), line.digest[:19], line.published_at, line.state)
            for line in found
        ]
        header = ("PLAN", "MODEL", "SCHEMES", "DIGEST", "PUBLISHED", "STATE")
        # What could not be read may hold something: then nobody says that there is nothing.
        text = output.table(header, rows) if rows else ("" if damaged else nothing)
        output.result({}, text, as_json=False)
        for error in damaged:
            output.note(f"error: {error}")
    if damaged:
        raise typer.Exit(1)


def _sound(lines: "Iterable[Listed | FlashRLError]", damaged: "list[FlashRLError]") -> "Iterator[Listed]":
    """Lines that could be read; the errors of the others go into ``damaged``, one that ends the listing too."""
    from flashrl_registry.errors import FlashRLError

    first = True
    try:
        for line in lines:
            if isinstance(line, FlashRLError):
                damaged.append(line)
            else:
                first = False
                yield line
    except FlashRLError as exc:
        if first:
            raise
        damaged.append(exc)


def _data(line: "Listed") -> dict[str, object]:
    return {
        "ref": line.ref,
        "name": line.name,
        "version": line.version,
        "model": line.model,
        "architecture": line.architecture,
        "schemes": line.schemes,
        "vllm": line.vllm,
        "devices": line.devices,
        "digest": line.digest,
        "published_at": line.published_at,
        "state": line.state,
        "store": line.store,
    }


def _tail(damaged: "list[FlashRLError]") -> dict[str, object]:
    return {"damaged": [output.error_data(error) for error in damaged], "ok": not damaged}
