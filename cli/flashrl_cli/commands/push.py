"""``flashrl-registry push``: publish a plan under a version that never changes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flashrl_cli import output
from flashrl_cli.arguments import Json, SigningKey, StoreAddress, open_store, signer_of, target_of
from flashrl_registry.documents.plain_text import escaped

if TYPE_CHECKING:
    from flashrl_registry.registry import Published, Store
    from flashrl_registry.registry.hybrids import Bundle
    from flashrl_registry.registry.signing import Signer


def push(  # noqa: PLR0917 - typer passes by name
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Plan folder, or a folder with a hybrid.")],
    target: Annotated[
        str,
        typer.Argument(
            metavar="NAME@VERSION", help="Such as my-team/qwen-int8@1.0.0; hf://my-team/qwen-int8@1.0.0 on the Hub."
        ),
    ],
    store: StoreAddress = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be published, and publish nothing.")
    ] = False,
    pr: Annotated[bool, typer.Option("--pr", help="On a Hub: propose it, for those who may not write there.")] = False,
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="On a Hub: who may read a repository that is made.")
    ] = None,
    sign: Annotated[bool, typer.Option("--sign", help="Sign what was published; --signing-key says so too.")] = False,
    key: SigningKey = None,
    as_json: Json = False,
) -> None:
    """Publish a plan folder: in the local registry, in a shared store, or on a Hugging Face Hub."""
    from flashrl_registry.registry.hybrids import read_any_bundle

    place, name, version = target_of(target, store)
    opened = open_store(place or "local")
    if (pr or private is not None) and opened.kind != "hub":
        raise typer.BadParameter("only a Hub has proposals and private repositories; write hf://NAME@VERSION")
    signer = signer_of(key) if sign or key is not None else None
    read = read_any_bundle(bundle)
    if dry_run:
        _preview(opened, read, name, version, as_json=as_json)
        return
    with output.transferring(f"publishing {name}@{version}", enabled=not as_json):
        published = _publish(opened, read, name, version, pr=pr, private=private, signer=signer)
    state = "published" if published.created else "was published already with the same content:"
    if pr and published.created:
        state = "proposed"
    output.result(
        {
            "ref": published.ref,
            "created": published.created,
            "digest": published.manifest.plan_digest,
            "store": opened.place,
            "folder": published.folder,
            "notes": published.notes,
            "signed_by": signer and signer.fingerprint,
        },
        f"{state} {published.ref}\ndigest {published.manifest.plan_digest}\nin {published.folder or opened.place}"
        + (f"\nsigned by {signer.fingerprint}" if signer else ""),
        as_json=as_json,
    )
    if not as_json:
        for note in published.notes:
            output.note(f"note: {note}")


def _publish(
    store: "Store", bundle: "Bundle", name: str, version: str, *, pr: bool, private: bool | None,
    signer: "Signer | None",
) -> "Published":  # fmt: skip
    from flashrl_registry.registry.ref import NamedRef

    if store.kind == "hub":
        from flashrl_registry.registry.hub import HubStore

        assert isinstance(store, HubStore)
        published = store.publish(bundle, name, version, propose=pr, private=private, signer=signer)
    else:
        published = store.publish(bundle, name, version)
    if signer is not None and not pr:
        from flashrl_registry.registry.signing import sign_version

        # What was read here is signed, and nothing that somebody put in its place meanwhile. A push that dies before
        # is healed by the same push again; until then nobody who asks for a signature uses it.
        sign_version(store, NamedRef(name, version, bundle.digest), signer)
    return published


def _preview(store: "Store", bundle: "Bundle", name: str, version: str, *, as_json: bool) -> None:
    from flashrl_registry.registry.preview import preview

    found = preview(store, bundle, name, version)
    what = {
        "new": f"would publish {name}@{version}",
        "same": f"{name}@{version} is there with the same content: nothing would change",
        "taken": f"{name}@{version} holds another plan: the push would be refused",
    }[found.state]
    lines = [f"{what} in {store.place}", f"digest {bundle.digest}"]
    lines += [f"{file.name}  {output.size(file.stat().st_size)}" for file in bundle.files]
    if found.changes is not None and found.state != "same":
        lines.append(f"against {found.base}:")
        said = [(change.where, change.before, change.after) for change in found.changes.settings]
        said += [(change.names, change.before, change.after) for change in found.changes.tensors]
        lines += [escaped(f"  {what}: {was} -> {now}") for what, was, now in said]
    if found.lower:
        lines.append(f"note: {', '.join(found.lower)} are higher and stay what a name without a version means")
    changed = [] if found.changes is None else [*found.changes.settings, *found.changes.tensors]
    output.result(
        {"ref": f"{name}@{version}", "state": found.state, "base": found.base, "digest": bundle.digest,
         "store": store.place, "changes": [vars(change) for change in changed]},
        "\n".join(lines), as_json=as_json, ok=found.state != "taken",
    )  # fmt: skip
    if found.state == "taken":
        raise typer.Exit(1)
