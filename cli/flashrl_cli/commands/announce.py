"""``flashrl-registry deprecate``, ``yank`` and ``restore``: what everyone who uses a version is told."""

from typing import Annotated, Literal

import typer

from flashrl_cli import output
from flashrl_cli.arguments import Json, StoreAddress, usage, version_of
from flashrl_registry.documents.plain_text import MAX_TEXT, text_fault

Version = Annotated[
    str, typer.Argument(metavar="NAME@VERSION", help="A published version; hf://NAME@VERSION on a Hub.")
]
Reason = Annotated[
    str,
    typer.Option(
        "--reason", help=f"Why, in one line of at most {MAX_TEXT} characters; everyone who uses the version reads it."
    ),
]
Use = Annotated[str | None, typer.Option("--use", help="What to use in its place: a version, or a reference.")]


def deprecate(
    version: Version, reason: Reason, use: Use = None, store: StoreAddress = None, as_json: Json = False
) -> None:
    """Warn everyone who uses a version; it is still chosen."""
    _announce("deprecate", version, reason, use, store, as_json=as_json)


def yank(version: Version, reason: Reason, use: Use = None, store: StoreAddress = None, as_json: Json = False) -> None:
    """Withdraw a version: only its exact version still chooses it, with a warning. Locks keep working."""
    _announce("yank", version, reason, use, store, as_json=as_json)


def restore(version: Version, reason: Reason, store: StoreAddress = None, as_json: Json = False) -> None:
    """Take back a deprecation or a withdrawal."""
    _announce("restore", version, reason, None, store, as_json=as_json)


def _announce(
    kind: Literal["deprecate", "yank", "restore"], target: str, reason: str, use: str | None, store: str | None, *,
    as_json: bool,
) -> None:  # fmt: skip
    from flashrl_registry.registry.channels import announce, check_replacement

    for option, text in (("--reason", reason), ("--use", use)):
        if text is not None and (fault := text_fault(text)) is not None:
            raise typer.BadParameter(fault, param_hint=option)
    opened, plain, version = version_of(target, store)
    if use is not None:
        with usage("--use"):
            check_replacement(plain, use)
    said = announce(opened, plain, version, kind, reason=reason, replacement=use)
    done = {"deprecate": "deprecated", "yank": "withdrawn", "restore": "back in use"}[kind]
    text = f"{plain}@{version} is {done}" + ("" if said.changed else " already")
    event = said.event.model_dump(mode="json")
    output.result({"name": plain, "store": opened.place, "changed": said.changed, **event}, text, as_json=as_json)
