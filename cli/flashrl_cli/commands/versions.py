"""``flashrl-registry versions``: every version of a plan, and what stands against it."""

from typing import Annotated

from flashrl_cli import output
from flashrl_cli.arguments import Json, Name, StoreAddress, store_of


def versions(name: Annotated[str, Name], store: StoreAddress = None, as_json: Json = False) -> None:
    """List the versions of a plan, the channels that point at them, deprecations and withdrawals."""
    from flashrl_registry.errors import NotFoundError
    from flashrl_registry.registry.standing import standing_of

    opened, plain = store_of(name, store)
    found = opened.versions(plain)
    if not found:
        raise NotFoundError(f"nothing is published as {plain} in {opened.place}", context={"ref": plain})
    standing = standing_of(opened.history(plain))
    rows = [(version, standing.state(version), "; ".join(standing.warnings(plain, version))) for version in found]
    output.result(
        {
            "name": plain,
            "store": opened.place,
            "versions": [
                {"version": version, "state": state.split(), "digest": standing.digests.get(version), "warning": text}
                for version, state, text in rows
            ],
            "channels": standing.channels,
        },
        output.table(("VERSION", "STATE", "SAID OF IT"), rows),
        as_json=as_json,
    )
