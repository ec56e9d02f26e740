"""What every document is: a frozen value with one identity.

Invariants: a document never changes after it was read; unknown keys are errors; its digest is SHA-256 over
RFC 8785 canonical JSON of its identity fields, so spelling (YAML or JSON, key order, comments) does not matter.

Only at its top, keys that start with ``x-`` are free: tools and newer releases write notes under them. They are kept
when the document is written again and never count in the digest, because nothing that this or any release does to an
engine may depend on them: a field that does gets a name of its own, which older releases refuse. ``$schema``, with
which JSON names its schema to editors, is such a key too.
"""

import hashlib
from typing import Annotated, Any, ClassVar

import rfc8785
from pydantic import BaseModel, ConfigDict, Field, JsonValue

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
"""``sha256:`` and 64 lower-case hexadecimal digits."""

EDITOR_KEY = "$schema"
"""Names a JSON Schema to editors; a string."""

EXTENSION = r"^(x-|\$schema$)"
"""Pattern of the keys that a document may have beyond its fields."""

SCHEMA_BASE_URL = "https://github.com/flashrl-registry/flashrl-registry/raw/main/schemas"


class Frozen(BaseModel):
    """A part of a document."""

    # Every process of an engine imports this, so a model is built when it is first used, and the texts below its
    # fields are read for schemas only: both together cost as much as all other imports.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)


class Document(Frozen):
    """A whole document.

    Class attributes:
        KIND: The word in ``schema_version``, such as ``plan``.
        MAJOR: The schema major this release reads and writes.
        REVISION: The additive revision of it that this release knows; a file of a newer one is read, and stays one.
        NOT_IDENTITY: Fields that do not count in the digest; ``part.field`` reaches one level down.
    """

    KIND: ClassVar[str]
    MAJOR: ClassVar[int] = 1
    REVISION: ClassVar[int] = 0
    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset({"digest", "schema_revision", "description"})

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[Annotated[str, Field(pattern=EXTENSION)], JsonValue]

    @classmethod
    def schema_url(cls) -> str:
        """Address of the JSON Schema of this document."""
        return f"{SCHEMA_BASE_URL}/{cls.schema_file()}"

    @classmethod
    def schema_file(cls) -> str:
        """Path of it among the schemas: ``plan/v1.json``, and ``plan/v1.2.json`` for the second revision."""
        return f"{cls.KIND}/v{cls.MAJOR}{f'.{cls.REVISION}' if cls.REVISION else ''}.json"

    def identity(self) -> dict[str, Any]:
        """The fields that count in the digest, as plain data."""
        excluded: dict[str, Any] = dict.fromkeys(self.__pydantic_extra__ or (), True)
        for name in sorted(self.NOT_IDENTITY):
            part, _, leaf = name.partition(".")
            excluded[part] = {leaf} if leaf else True
        return self.model_dump(mode="json", exclude_none=True, exclude=excluded)

    def compute_digest(self) -> str:
        """``sha256:<hex>`` over RFC 8785 canonical JSON of :meth:`identity`."""
        return sha256(rfc8785.dumps(self.identity()))

    def sealed(self) -> "Document":
        """This document with its ``digest`` field filled in."""
        return self.model_copy(update={"digest": self.compute_digest()})

    def canonical_json(self) -> bytes:
        """The whole document as RFC 8785 canonical JSON."""
        return rfc8785.dumps(self.model_dump(mode="json", exclude_none=True))

    def json_file(self) -> bytes:
        """What a ``*.json`` file of it holds: canonical JSON, unless people review it."""
        return self.canonical_json()


def sha256(data: bytes) -> str:
    """``sha256:<hex>`` of bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()
