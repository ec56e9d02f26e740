"""``flashrl-registry pull``: copy a checked plan into a folder."""

from flashrl_cli import output
from flashrl_cli.arguments import Folder, Json, Ref, bundle_of


def pull(ref: Ref, destination: Folder, as_json: Json = False) -> None:
    """Copy a plan and all that belongs to it into a folder, checked before and after."""
    from flashrl_registry.registry import read_bundle, write_bundle

    bundle = bundle_of(ref)
    files = write_bundle(destination, bundle.plan, profile=bundle.profile, sidecar=bundle.sidecar)
    copied = read_bundle(destination)
    output.result(
        {"ref": ref, "digest": copied.plan.digest, "plan": destination, "files": files},
        f"{bundle.origin}\ndigest {copied.plan.digest}\nin {destination}",
        as_json=as_json,
    )
