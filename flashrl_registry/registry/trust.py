"""Whom this machine trusts: the keys that a plan must be signed with before it is used.

A file of the machine or the job (``FLASHRL_TRUSTED``, or ``trusted.yaml`` in the user's config folder). Where it is
named or lies there and cannot be read, that is an error and not "nobody is asked for": everything here fails closed.
"""

import fnmatch
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flashrl_registry.documents import Trusted, read_document
from flashrl_registry.errors import UntrustedError

TRUSTED_VARIABLE = "FLASHRL_TRUSTED"
TRUSTED_YAML = "trusted.yaml"


@dataclass(frozen=True)
class Trust:
    """Whose signatures are asked for.

    Attributes:
        publishers: Patterns of names and the files of the keys that may sign for them; the first that fits decides.
        required: Every plan needs a signature, also of a name that no pattern fits.
        keys: Keys that the user named for this one command. They add a demand and never loosen one of ``publishers``.
        source: The document, for messages.
    """

    publishers: tuple[tuple[str, tuple[Path, ...]], ...] = ()
    required: bool = False
    keys: tuple[Path, ...] = ()
    source: str = ""

    def demands(self, name: str) -> list[tuple[Path, ...]]:
        """Sets of keys; a plan needs a valid signature by one key of each. Empty: it needs none.

        Upper and lower case are the same: a Hub and some file systems take ``Team/x`` for ``team/x``.

        Args:
            name: ``namespace/name``, as the user wrote it.

        Raises:
            UntrustedError: A signature is required, and nobody's would do.
        """
        entry = next((keys for pattern, keys in self.publishers if _fits(pattern, name)), None)
        demands = [keys for keys in (entry, self.keys or None) if keys is not None]
        if self.required and not demands:
            raise UntrustedError(
                f"a signature is required, and nobody is trusted to sign for {name}"
                + (f" ({self.source} has no entry for it)" if self.source else ""),
                hint=f"name the publisher's key with --trusted KEY, or in the file that {TRUSTED_VARIABLE} names",
                context={"name": name, "trusted": self.source or None},
            )
        return demands


NOBODY_ASKED = Trust()
"""No signature is asked for."""


def open_trust(environ: Mapping[str, str], *, required: bool = False, keys: Sequence[Path] = ()) -> Trust:
    """The user's trusted publishers.

    Args:
        environ: Environment variables, as the program's edge read them.
        required: As :attr:`Trust.required`.
        keys: As :attr:`Trust.keys`; naming one requires a signature.

    Raises:
        DocumentError: The document is malformed, or it was named and is not there.
    """
    file = _file(environ)
    required = required or bool(keys)
    if file is None:
        return Trust(required=required, keys=tuple(keys))
    found = read_document(file, Trusted)
    publishers = tuple(
        (publisher.names, tuple(file.parent / Path(key).expanduser() for key in publisher.keys))
        for publisher in found.publishers
    )
    return Trust(publishers, required, tuple(keys), str(file))


def _file(environ: Mapping[str, str]) -> Path | None:
    given = environ.get(TRUSTED_VARIABLE, "").strip()
    if given:
        return Path(given).expanduser()
    from platformdirs import user_config_path

    file = user_config_path("flashrl-registry", appauthor=False) / TRUSTED_YAML
    # A link that leads nowhere is there: reading it says so.
    return file if os.path.lexists(file) else None


def _fits(pattern: str, name: str) -> bool:
    """Whether a name fits, part by part; the documents' pattern admits no other wildcard than ``*``."""
    wanted, given = pattern.casefold().split("/"), name.casefold().split("/")
    return len(wanted) == len(given) and all(map(fnmatch.fnmatchcase, given, wanted))
