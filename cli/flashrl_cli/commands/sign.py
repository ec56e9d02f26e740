"""``flashrl-registry sign``: sign a version that was published, without changing it."""

from typing import Annotated

import typer

from flashrl_cli import output
from flashrl_cli.arguments import Json, SigningKey, StoreAddress, published_ref, signer_of


def sign(
    target: Annotated[
        str,
        typer.Argument(
            metavar="NAME@VERSION", help="A published version; hf://NAME@VERSION on a Hub. #sha256=<digest> pins it."
        ),
    ],
    key: SigningKey = None,
    store: StoreAddress = None,
    as_json: Json = False,
) -> None:
    """Sign a published version after checking all of its bytes. The signature lies beside it."""
    from flashrl_registry.registry.signing import sign_version

    signer = signer_of(key)
    opened, ref = published_ref(target, store)
    with output.waiting(f"signing {target}", enabled=not as_json):
        signed = sign_version(opened, ref, signer)
    text = f"{ref.name}@{ref.version} is signed by {signer.fingerprint}" + ("" if signed.changed else " already")
    data = {"name": ref.name, "version": ref.version, "store": opened.place, "changed": signed.changed}
    output.result({**data, "signed_by": signer.fingerprint}, text, as_json=as_json)
