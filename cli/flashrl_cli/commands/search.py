"""``flashrl-registry search``: plans by what they are for."""

import os
from itertools import chain
from typing import Annotated

import typer

from flashrl_cli import output
from flashrl_cli.arguments import Json, StoreAddress, open_store
from flashrl_cli.commands.list import print_listed


def search(  # noqa: PLR0917 - typer passes by name
    text: Annotated[
        str | None, typer.Argument(metavar="[TEXT]", help="Part of the plan's or the model's name.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Base model, such as Qwen/Qwen3-8B.")] = None,
    scheme: Annotated[str | None, typer.Option("--scheme", help="Scheme of a rule, such as int8.")] = None,
    architecture: Annotated[str | None, typer.Option("--arch", help="Architecture in the model's config.json.")] = None,
    vllm: Annotated[str | None, typer.Option("--vllm", help="vLLM release that the plan must be meant for.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda or rocm: where the plan runs.")] = None,
    store: StoreAddress = None,
    as_json: Json = False,
) -> None:
    """Search the local registry, the bundled plans and shared stores; a Hub with --store hub.

    A shared store that does not answer is named, and fails the command, after what the others have.
    """
    from flashrl_registry.errors import FlashRLError
    from flashrl_registry.registry.chain import listing_stores
    from flashrl_registry.registry.finding import Criteria, find, find_in

    criteria = Criteria(text, model, scheme, architecture, vllm, device)
    asked = [open_store(store)] if store else list(listing_stores(os.environ))
    stores = [opened for opened in asked if not isinstance(opened, FlashRLError)]
    wrong = [error for error in asked if isinstance(error, FlashRLError)]
    found = find_in(stores[0], criteria) if store else chain(find(stores, criteria), wrong)
    if not as_json:
        with output.waiting("searching"):
            found = iter(list(found))
    places = ", ".join(opened.place for opened in stores)
    print_listed(found, {"stores": [opened.place for opened in stores]}, f"nothing in {places}", as_json=as_json)
