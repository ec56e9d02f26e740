"""Keys that sign and are trusted: elliptic curve keys in PEM files, and what is wrong with one, in words.

No error says anything of what a key's file holds. The libraries are imported only where a key is used.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flashrl_registry.documents import sha256
from flashrl_registry.errors import MissingDependencyError, SigningKeyError

KEY_VARIABLE = "FLASHRL_SIGNING_KEY"
PASSPHRASE_VARIABLE = "FLASHRL_SIGNING_PASSPHRASE"  # noqa: S105 - the name of a variable

_MAX_KEY_BYTES = 64 << 10


def fingerprint_of(key: Path) -> str:
    """Fingerprint of a public key's file: ``sha256:<hex>`` of its PEM as OpenSSL writes it.

    Raises:
        SigningKeyError: It is no public EC key.
    """
    with signing_library(), _reading(key, "public"):
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        return sha256(_pem(load_pem_public_key(_bytes(key))))


def public_half(key: Path, passphrase: str | None) -> bytes:
    """The public half, PEM, of a private key's file.

    Raises:
        SigningKeyError: It is no private EC key, or its passphrase is another.
    """
    with signing_library(), _reading(key, "private"):
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        return _pem(load_pem_private_key(_bytes(key), passphrase.encode() if passphrase else None).public_key())


def _pem(public_key: Any) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    curves = {"secp256r1", "secp384r1", "secp521r1"}
    if not isinstance(public_key, EllipticCurvePublicKey) or public_key.curve.name not in curves:
        raise ValueError("not an elliptic curve key on P-256, P-384 or P-521")
    return public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _bytes(key: Path) -> bytes:
    with key.open("rb") as file:
        return file.read(_MAX_KEY_BYTES)


@contextmanager
def _reading(key: Path, kind: str) -> Iterator[None]:
    """What is wrong with a key's file, in words that hold nothing of it."""
    make = "openssl ecparam -genkey -name prime256v1 -noout -out key.pem; openssl ec -in key.pem -pubout -out key.pub"
    try:
        yield
    except OSError as exc:
        raise SigningKeyError(
            f"the {kind} key {key} cannot be read: {exc.strerror}", context={"key": str(key)}
        ) from None
    except TypeError:  # a passphrase where none is needed, or none where one is
        hint = f"a key with a passphrase takes it from {PASSPHRASE_VARIABLE}, one without takes none"
        raise SigningKeyError(f"the {kind} key {key} does not fit its passphrase", hint=hint) from None
    except ValueError:
        raise SigningKeyError(
            f"{key} holds no {kind} EC key in PEM (P-256, P-384 or P-521), or its passphrase is wrong",
            hint=f"make a pair with: {make}",
            context={"key": str(key)},
        ) from None


@contextmanager
def signing_library() -> Iterator[None]:
    """What needs the libraries of the extra ``sign``.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        importlib.import_module("cryptography")
        importlib.import_module("model_signing.verifying")  # the package's own errors of import are its parts', too
    except ModuleNotFoundError as exc:
        package = (exc.name or "").partition(".")[0]
        raise MissingDependencyError(
            f"signatures need {package}, which is not installed",
            hint='pip install "flashrl-registry[sign]"',
            context={"package": package, "extra": "sign"},
        ) from exc
    yield
