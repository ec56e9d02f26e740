"""Options that several commands take, and what they stand for."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flashrl_cli import output
from flashrl_registry.errors import InvalidRefError, MissingDependencyError

if TYPE_CHECKING:
    from flashrl_registry.registry import Chain, LocalStore, NamedRef, PlanBundle, Store
    from flashrl_registry.registry.hybrids import Bundle
    from flashrl_registry.registry.signing import Signer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Folder = Annotated[Path, typer.Option("-o", "--output", help="Folder to write; created where missing.")]
Ref = Annotated[
    str,
    typer.Argument(
        metavar="REF",
        help="Path of a plan, namespace/name[@version or channel][#sha256=<digest>], hf://owner/repo[@revision], or "
        "a lock.",
    ),
]
StoreAddress = Annotated[
    str | None,
    typer.Option(
        "--store", help="local, bundled, hub, a Hub's https address, or an fsspec address such as s3://bucket."
    ),
]
AllowStale = Annotated[
    bool, typer.Option("--allow-stale", help="When the Hub does not answer, take what it said last, and say so.")
]
RequireSignature = Annotated[
    bool,
    typer.Option(
        "--require-signature", help="Refuse what no trusted publisher signed (--trusted, or the file FLASHRL_TRUSTED)."
    ),
]
TrustedKeys = Annotated[
    list[Path] | None,
    typer.Option("--trusted", help="Public key (PEM) that must have signed; several: one of them."),
]
SigningKey = Annotated[
    Path | None,
    typer.Option(
        "--signing-key",
        help="Private EC key (PEM); else FLASHRL_SIGNING_KEY. Its passphrase, if any: FLASHRL_SIGNING_PASSPHRASE.",
    ),
]
Text = Annotated[
    list[Path],
    typer.Option("-t", "--text", help="UTF-8 text to measure on, such as what the model will write; several are read."),
]
NumTokens = Annotated[int, typer.Option("--tokens", min=16, help="Tokens of the text to use.")]
SequenceTokens = Annotated[int, typer.Option("--sequence", min=16, help="Tokens of one sequence.")]
Device = Annotated[
    str | None, typer.Option("--device", help="torch's name of the device.  [default: a GPU where there is one]")
]
Name = typer.Argument(metavar="NAME", help="namespace/name; hf://namespace/name on a Hub.")


class Target(StrEnum):
    """Devices that a plan may be for."""

    cpu = "cpu"
    cuda = "cuda"
    rocm = "rocm"


_EXTRA_OF = {
    "torch": "torch",
    "safetensors": "torch",
    "numpy": "torch",
    "numba": "torch",
    "vllm": "vllm",
    "transformers": "quality",
    "matplotlib": "report",
}


def local_store() -> "LocalStore":
    """The user's registry: ``FLASHRL_REGISTRY`` or the user's data folder."""
    from flashrl_registry.registry import LocalStore, default_registry_root

    return LocalStore(default_registry_root(os.environ))


def open_chain(
    *, allow_stale: bool = False, require_signature: bool = False, trusted: list[Path] | None = None
) -> "Chain":
    """The user's stores, in their order."""
    from flashrl_registry.registry import open_chain as open_stores

    return open_stores(
        os.environ, allow_stale=allow_stale, require_signature=require_signature, trusted_keys=trusted or ()
    )


def signer_of(given: Path | None) -> "Signer":
    """The private key to sign with; checked before anything else is done.

    Raises:
        SigningKeyError: It cannot be used.
    """
    from flashrl_registry.registry.signing import open_signer
    from flashrl_registry.registry.signing_keys import KEY_VARIABLE, PASSPHRASE_VARIABLE

    named = os.environ.get(KEY_VARIABLE, "").strip()
    if given is None and not named:
        raise typer.BadParameter(f"signing needs a key: --signing-key KEY.pem, or {KEY_VARIABLE}")
    return open_signer(given or Path(named).expanduser(), os.environ.get(PASSPHRASE_VARIABLE) or None)


def open_store(address: str) -> "Store":
    """One store, by the word or the address that ``--store`` takes."""
    if address == "local":
        return local_store()
    from flashrl_registry.registry.chain import store_at

    return store_at(address, os.environ)


def store_of(name: str, address: str | None) -> "tuple[Store, str]":
    """The store that answers for a name, and the name without ``hf://``."""
    from flashrl_registry.registry import NamedRef, parse_ref

    ref = parse_ref(name)
    if not isinstance(ref, NamedRef) or ref.version is not None:
        raise typer.BadParameter(f"'{name}' is not namespace/name", param_hint="NAME")
    return _store_of(ref, address), ref.name


def published_ref(text: str, address: str | None) -> "tuple[Store, NamedRef]":
    """The store that answers for a published plan, and its reference there."""
    from flashrl_registry.registry import NamedRef, parse_ref

    ref = parse_ref(text)
    if not isinstance(ref, NamedRef):
        raise typer.BadParameter(f"'{text}' is not namespace/name[@version or channel]", param_hint="REF")
    return _store_of(ref, address), ref


def version_of(target: str, address: str | None) -> "tuple[Store, str, str]":
    """The store that answers for a published version, its name there and the version."""
    place, name, version = target_of(target, address)
    opened, plain = (open_store(place), name) if place else store_of(name, None)
    return opened, plain, version


def target_of(target: str, address: str | None) -> tuple[str | None, str, str]:
    """What ``NAME@VERSION`` on the command line, and ``--store`` beside it, name.

    Returns:
        What ``--store`` takes for the store, None where none is named; name; version.

    Raises:
        InvalidRefError: A store is named, and its address is none: nothing else stands in for it.
        typer.BadParameter: There is no version, or two stores are named.
    """
    plain, elsewhere, place = target.removeprefix("hf://").partition("?store=")
    if elsewhere:
        from flashrl_registry.registry import parse_ref

        parse_ref(target)
    name, at, version = plain.partition("@")
    if not at:
        with_version = f"{plain}@1.0.0"
        raise typer.BadParameter(
            f"'{target}' has no version; write {target.replace(plain, with_version, 1)}", param_hint="NAME@VERSION"
        )
    on_a_hub = target.startswith("hf://") or place.startswith(("https://", "http://"))
    if elsewhere and not _same_place(address, place):
        if address is not None:
            raise typer.BadParameter(f"{target} names another store than --store {address}", param_hint="--store")
        if on_a_hub:  # it would get no token, because a reference may be a stranger's
            raise typer.BadParameter(
                f"to write to a Hub, name it yourself: {plain} --store {place}", param_hint="NAME@VERSION"
            )
    return _no_other_kind(target, (elsewhere and place) or address), name, version


def _store_of(ref: "NamedRef", address: str | None) -> "Store":
    """The store that a reference or ``--store`` names, or that answers for the name.

    Raises:
        typer.BadParameter: They name two.
    """
    if ref.endpoint is not None and address is not None and not _same_place(address, ref.endpoint):
        raise typer.BadParameter(f"{ref} names another store than --store {address}", param_hint="--store")
    place = _no_other_kind(str(ref), address) if address else None
    return open_store(place) if place else open_chain().store_of(ref)


def _same_place(address: str | None, other: str) -> bool:
    """Whether two addresses are of one store; a slash at the end means nothing."""
    return address is not None and address.rstrip("/") == other.rstrip("/")


def _no_other_kind(target: str, address: str | None) -> str | None:
    """Refuse a store that is no Hub for what is on one."""
    if not target.startswith("hf://") or address == "hub" or (address or "").startswith(("https://", "http://")):
        return address
    if address is None:
        return "hub"
    raise typer.BadParameter(
        f"{target} is on a Hub, and {address} is none; leave out hf://, or --store", param_hint="--store"
    )


def bundle_of(
    text: str,
    *,
    allow_stale: bool = False,
    require_signature: bool = False,
    trusted: list[Path] | None = None,
) -> "PlanBundle":
    """The plan that a reference on the command line names; a lock with one entry, or LOCK#REF, names one too."""
    from flashrl_registry.registry.hybrids import one_plan

    return one_plan(
        any_bundle(text, allow_stale=allow_stale, require_signature=require_signature, trusted=trusted), text
    )


def any_bundle(
    text: str,
    *,
    allow_stale: bool = False,
    require_signature: bool = False,
    trusted: list[Path] | None = None,
) -> "Bundle":
    """As :func:`bundle_of`; a hybrid where the reference names one."""
    from flashrl_registry.registry import parse_ref
    from flashrl_registry.registry.open import open_any
    from flashrl_registry.resolver import locked_reference

    stores = open_chain(allow_stale=allow_stale, require_signature=require_signature, trusted=trusted)
    return open_any(locked_reference(text) or parse_ref(text), stores)


def warn(warnings: tuple[str, ...], *, as_json: bool) -> None:
    """What whoever uses a plan should read; in JSON it is part of the result."""
    if not as_json:
        for warning in warnings:
            output.note(f"warning: {warning}")


@contextmanager
def usage(option: str) -> Iterator[None]:
    """Inside, what is no reference is wrong usage of an option.

    Raises:
        typer.BadParameter: It is none.
    """
    try:
        yield
    except InvalidRefError as exc:
        hint = f"; {exc.hint}" if exc.hint else ""
        raise typer.BadParameter(f"{exc.message}{hint}", param_hint=option) from exc


@contextmanager
def needs(what: str) -> Iterator[None]:
    """Turn the import error of an extra into the command that installs it.

    Args:
        what: What cannot be done without it.

    Raises:
        MissingDependencyError: An optional package is missing.
    """
    try:
        yield
    except ModuleNotFoundError as exc:
        package = (exc.name or "").partition(".")[0]
        if package not in _EXTRA_OF:
            raise
        raise MissingDependencyError(
            f"{what} needs {package}, which is not installed",
            hint=f'pip install "flashrl-registry[{_EXTRA_OF[package]}]"',
            context={"package": package, "extra": _EXTRA_OF[package]},
        ) from exc
