"""``flashrl-registry sign``: sign a version that was published, without changing it."""

from typing import Annotated

import typer

from flashrl_cli import output
from flashrl_cli.arguments import Json, SigningKey, StoreAddress, signing_key, store_of


def sign(
    target: Annotated[
        str, typer.Argument(metavar="NAME@VERSION", help="A published version; hf://NAME@VERSION on a Hub.")
    ],
    key: SigningKey = None,
    store: StoreAddress = None,
    as_json: Json = False,
) -> None:
    """Sign a published version after checking all of its bytes. The signature lies beside it."""
    from flashrl_registry.documents import SignEvent
    from flashrl_registry.registry.signing import sign_version

    name, at, version = target.rpartition("@")
    if not at:
        raise typer.BadParameter(f"'{target}' has no version; write {target}@1.0.0", param_hint="NAME@VERSION")
    signer = signing_key(key)
    opened, plain = store_of(name, store)
    with output.waiting(f"signing {target}", enabled=not as_json):
        signed = sign_version(opened, plain, version, *signer)
    assert isinstance(signed.event, SignEvent)
    text = f"{plain}@{version} is signed by {signed.event.key}" + ("" if signed.changed else " already")
    data = {"name": plain, "version": version, "store": opened.place, "changed": signed.changed}
    output.result({**data, "signed_by": signed.event.key}, text, as_json=as_json)
