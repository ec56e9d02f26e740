"""Signatures of published versions, through the library ``model-signing`` and keys that need no network.

What is signed is a folder with one file: the identity of the version's manifest, which names the plan, the version, the
plan's digest and the SHA-256 of every file. A signature is therefore of one version under one name, and of all of its
bytes. It is kept as an event of the name's history, beside the version, so that signing changes neither the version nor
its digest, and can be done later.

Checks trust nothing that the registry says about a signature: which key it is, which file it covers and what that file
holds are compared here with the manifest whose files were hashed. The library and its parsers are imported only where a
signature is made or asked for.
"""

import base64
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import rfc8785

from flashrl_registry.documents import History, Manifest, SignEvent, sha256
from flashrl_registry.documents.history import Event
from flashrl_registry.errors import (
    InvalidRefError,
    SignatureError,
    UnsignedError,
    UntrustedError,
)
from flashrl_registry.registry.channels import Appended, append_event, author_of, now
from flashrl_registry.registry.hybrids import Bundle
from flashrl_registry.registry.ref import NamedRef, is_version
from flashrl_registry.registry.signing_keys import fingerprint_of, public_half, signing_library
from flashrl_registry.registry.standing import store_option
from flashrl_registry.registry.store import Store
from flashrl_registry.registry.trust import Trust

B = TypeVar("B", bound=Bundle)

_SIGNED_FILE = "flashrl-manifest.json"
"""A name that no other folder has which somebody signs with the same key."""
# Every key that a signature may have: one with more could say one thing to us and another to the library.
_SHAPE = {
    "": {"mediaType", "verificationMaterial", "dsseEnvelope"},
    "verificationMaterial": {"publicKey", "tlogEntries"},
    "dsseEnvelope": {"payload", "payloadType", "signatures"},
}


@dataclass(frozen=True)
class Signer:
    """A private EC key (PEM; P-256, P-384 or P-521) that can sign; see :func:`open_signer`.

    Attributes:
        key: Its file.
        passphrase: Of the key, where it has one.
        public: The public half, PEM.
    """

    key: Path
    passphrase: str | None = field(repr=False)
    public: bytes = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """Of the public half, as signatures and errors name it."""
        return sha256(self.public)

    def sign(self, manifest: Manifest, by: str) -> SignEvent:
        """Sign a version's manifest.

        Args:
            manifest: Of the version, from whoever wrote or checked its files.
            by: Who adds it, as the store knows them.
        """
        return SignEvent(
            at=now(), by=by, version=manifest.version, key=self.fingerprint,
            signature=_signature(manifest, self.key, self.passphrase),
        )  # fmt: skip


def open_signer(key: Path, passphrase: str | None = None) -> Signer:
    """Make sure that a key can sign, before anything is published that it should sign.

    Raises:
        MissingDependencyError: The extra ``sign`` is not installed.
        SigningKeyError: It cannot.
    """
    return Signer(key, passphrase, public_half(key, passphrase))


def sign_version(store: Store, ref: NamedRef, signer: Signer) -> Appended:
    """Sign a published version, after all of its bytes were checked.

    Args:
        store: Where it is published.
        ref: An exact version. Whoever knows what it should hold pins the digest: else what the store has is signed.
        signer: The key.

    Returns:
        The signature; ``changed`` is False when this key had signed the version already.

    Raises:
        InvalidRefError: Not an exact version: what a channel means can change while one looks.
        RegistryError: As :meth:`Store.open` and :meth:`Store.append`.
    """
    if ref.version is None or not is_version(ref.version) or ref.member is not None:
        raise InvalidRefError(f"'{ref}' is no exact version", hint=f"write {ref.name}@1.0.0", context={"ref": str(ref)})
    manifest = manifest_of(store.open(ref), ref.name)
    with tempfile.TemporaryDirectory(prefix="flashrl-sign-") as scratch:
        public = Path(scratch) / "public.pem"
        public.write_bytes(signer.public)

        def valid(event: Event) -> bool:
            if not isinstance(event, SignEvent) or (event.version, event.key) != (ref.version, signer.fingerprint):
                return False
            return _fault(manifest, event.signature, public, signer.fingerprint) is None

        def make(history: History) -> SignEvent | None:
            return None if any(map(valid, history.events)) else signer.sign(manifest, author_of(store))

        return append_event(store, ref.name, make, valid)


def check_trust(trust: Trust, store: Store, name: str, bundle: B) -> B:
    """Ask for the signatures that a name needs.

    Args:
        trust: Whose.
        store: Where the bundle was read.
        name: ``namespace/name``, as the user wrote it.
        bundle: With its manifest; all bytes were checked against it.

    Returns:
        The bundle; ``signed_by`` has the fingerprints of the keys.

    Raises:
        UnsignedError, UntrustedError, SignatureError: It may not be used.
        SigningKeyError: A trusted key cannot be read.
    """
    demands = trust.demands(name)
    if not demands:
        return bundle
    manifest = manifest_of(bundle, name)
    signers = tuple(_signer(manifest, store, name, bundle, keys) for keys in demands)
    return replace(bundle, signed_by=tuple(dict.fromkeys(signers)))


def manifest_of(bundle: Bundle, name: str) -> Manifest:
    """The manifest that a signature of a bundle is of.

    Raises:
        UnsignedError: It has none, so nothing could be signed.
        SignatureError: It is the manifest of something else.
    """
    manifest = bundle.manifest
    if manifest is None:
        raise UnsignedError(
            f"{bundle.origin} is no published version, and only those carry signatures",
            hint="name it as namespace/name@version",
            context={"name": name},
        )
    if manifest.name != name:
        raise SignatureError(
            f"{bundle.origin} holds {manifest.name}@{manifest.version}, which nobody can have signed as {name}",
            hint="its files were copied from another name, or its manifest was changed",
            context={"expected": name, "actual": manifest.name},
        )
    return manifest


def _signer(manifest: Manifest, store: Store, name: str, bundle: Bundle, keys: Sequence[Path]) -> str:
    """Fingerprint of the key, one of these, that signed; see :func:`check_trust`."""
    files = {fingerprint_of(key): key for key in keys}
    others: set[str] = set()
    fault: str | None = None
    for history in _histories(store, name, bundle):
        events = [event for event in history.events if isinstance(event, SignEvent)]
        for event in reversed([event for event in events if event.version == manifest.version]):
            if event.key not in files:
                others.add(event.key)
                continue
            found = _fault(manifest, event.signature, files[event.key], event.key)
            if found is None:
                return event.key
            fault = fault or found
    ref = f"{name}@{manifest.version}"
    context = {"ref": ref, "store": store.place, "trusted": sorted(files), "signed_by": sorted(others)}
    if fault is not None:
        message = f"a signature of {ref} in {store.place} by a trusted key is not of what is there: {fault}"
        raise SignatureError(message, hint="do not use it; ask its publisher", context=context)
    if others:
        raise UntrustedError(
            f"{ref} in {store.place} is signed by {', '.join(sorted(others))}, and none of them is trusted for {name} "
            f"(trusted: {', '.join(sorted(files))})",
            hint="ask its publisher whose key that is before you trust it",
            context=context,
        )
    command = f"flashrl-registry sign {ref} --signing-key KEY.pem{store_option(store.place)}"
    hint = f"its publisher signs it with: {command}"
    raise UnsignedError(
        f"{ref} in {store.place} is not signed, and {name} needs a signature", hint=hint, context=context
    )


def _histories(store: Store, name: str, bundle: Bundle) -> Iterator[History]:
    """What is known here first: a signature that was valid stays so, and then nobody needs to be asked."""
    if bundle.history is not None:
        yield bundle.history
    history = store.history(name)
    if history != bundle.history:
        yield history


def _signature(manifest: Manifest, key: Path, passphrase: str | None) -> str:
    with tempfile.TemporaryDirectory(prefix="flashrl-sign-") as scratch, signing_library():
        from model_signing import signing

        module: Any = signing
        config = module.Config()
        # Annotated as text, but handed on to what takes bytes only (1.1.1).
        config.use_elliptic_key_signer(private_key=key, password=passphrase.encode() if passphrase else None)
        signed, file = _statement(Path(scratch), manifest), Path(scratch) / "signature"
        config.sign(signed, file)
        return file.read_text()


def _fault(manifest: Manifest, signature: str, key: Path, fingerprint: str) -> str | None:
    """What is wrong with a signature; None where it is this key's and of this manifest."""
    from_json = _parsed(signature)
    if from_json is None:
        return "it is malformed"
    hint, resources = from_json
    if hint != fingerprint.removeprefix("sha256:"):
        return "it names another key than the history does"
    with tempfile.TemporaryDirectory(prefix="flashrl-sign-") as scratch, signing_library():
        from cryptography.exceptions import InvalidSignature
        from model_signing import hashing, verifying

        hashes_of: Any = hashing
        verifier_of: Any = verifying
        signed, file = _statement(Path(scratch), manifest), Path(scratch) / "signature"
        digest = sha256((signed / _SIGNED_FILE).read_bytes()).removeprefix("sha256:")
        # Looked at here too: the library leaves out of the comparison what a signature says to leave out.
        if resources != [{"name": _SIGNED_FILE, "digest": digest, "algorithm": "sha256"}]:
            return "it was made for another name, version or content"
        file.write_text(signature)
        config = verifier_of.Config().use_elliptic_key_verifier(public_key=key)
        config.set_hashing_config(hashes_of.Config().use_file_serialization(hashing_algorithm="sha256"))
        try:
            config.verify(signed, file)
        except InvalidSignature:
            return "its signed bytes were changed"
        except (ValueError, TypeError, KeyError, IndexError, AttributeError) as exc:
            return f"it is malformed ({type(exc).__name__})"
    return None


def _parsed(signature: str) -> tuple[str, Any] | None:
    """The key's name and the signed resources; None where a signature has another shape than the library writes."""
    try:
        bundle = json.loads(signature)
        parts = [(bundle if not key else bundle[key], wanted) for key, wanted in _SHAPE.items()]
        if any(set(part) != wanted for part, wanted in parts):
            return None
        payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"], validate=True))
        return bundle["verificationMaterial"]["publicKey"]["hint"], payload["predicate"]["resources"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _statement(scratch: Path, manifest: Manifest) -> Path:
    """The folder that is signed."""
    folder = scratch / f"{manifest.name.replace('/', '--')}@{manifest.version}"
    folder.mkdir()
    (folder / _SIGNED_FILE).write_bytes(rfc8785.dumps(manifest.identity()))
    return folder
