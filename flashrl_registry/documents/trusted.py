"""Trusted publishers: whose signature a plan needs before it is used here.

It belongs to a machine or a job and is never fetched from a registry: whoever could change it could sign for anybody.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from flashrl_registry.documents._base import Document, Frozen

GLOB_PATTERN = r"^[A-Za-z0-9._*-]{1,96}/[A-Za-z0-9._*-]{1,96}$"

KeyFile = Annotated[str, Field(min_length=1, max_length=512)]


class Publisher(Frozen):
    """Names, and the keys that may sign for them."""

    names: Annotated[str, Field(pattern=GLOB_PATTERN)]
    """``namespace/name``, where ``*`` stands for any characters of one part, as in ``team/*``. Upper and lower case are
    the same."""
    keys: Annotated[list[KeyFile], Field(min_length=1, max_length=64)]
    """Files of public keys (PEM), relative to this document. One valid signature by one of them is enough."""


class Trusted(Document):
    """Whose signature a plan needs before it is used here."""

    KIND: ClassVar[str] = "trusted"

    schema_version: Literal["flashrl.trusted/v1"] = "flashrl.trusted/v1"
    """Document kind and schema major."""
    schema_revision: Annotated[int, Field(ge=0)] = 0
    """Additive revision of the schema; not part of the identity."""
    description: str = ""
    """For people; not part of the identity."""
    publishers: list[Publisher]
    """The first whose ``names`` fit decides; a name that none fits needs no signature."""
