"""History: what was said about a plan's versions after they were published.

A version never changes; what moves lives here, as a list that only grows: which version a channel means, which
versions are deprecated or withdrawn and why, who signed them, and what was measured of them. The present state is what
the events add up to, so who moved ``stable``, when and from where is never lost. A store appends with a
compare-and-swap on the length of the list.
"""

import json
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from flashrl_registry.documents._base import Digest, Document, Frozen
from flashrl_registry.documents.evidence import Evidence
from flashrl_registry.documents.manifest import Instant, PlanName, SemVer
from flashrl_registry.documents.patterns import CHANNEL_PATTERN

ChannelName = Annotated[str, Field(pattern=CHANNEL_PATTERN)]
Who = Annotated[str, Field(min_length=1, max_length=128)]
Text = Annotated[str, Field(min_length=1, max_length=1024)]


class PublishEvent(Frozen):
    """A version was published; stores whose pointers to versions could move keep its digest here."""

    kind: Literal["publish"] = "publish"
    """Discriminator."""
    at: Instant
    """UTC time, ISO 8601."""
    by: Who
    """Who published it, as the store knows them."""
    version: SemVer
    """The version."""
    plan_digest: Digest
    """Digest of its plan."""


class ChannelEvent(Frozen):
    """A channel moved."""

    kind: Literal["channel"] = "channel"
    """Discriminator."""
    at: Instant
    """UTC time, ISO 8601."""
    by: Who
    """Who moved it, as the store knows them."""
    channel: ChannelName
    """The channel."""
    previous: SemVer | None = None
    """The version that it meant before; None for a new channel."""
    version: SemVer
    """The version that it means from now on."""


class NoticeEvent(Frozen):
    """A version was deprecated, withdrawn or taken back into use."""

    kind: Literal["deprecate", "yank", "restore"]
    """``deprecate``: still chosen, with a warning. ``yank``: chosen only by its exact version, with a warning.
    ``restore``: neither any more."""
    at: Instant
    """UTC time, ISO 8601."""
    by: Who
    """Who said it, as the store knows them."""
    version: SemVer
    """The version."""
    reason: Text
    """Why, for everyone who uses it."""
    replacement: Text | None = None
    """What to use in its place: a version, or a reference."""


class SignEvent(Frozen):
    """Somebody signed a version's manifest; see :mod:`flashrl_registry.registry.signing`."""

    kind: Literal["sign"] = "sign"
    """Discriminator."""
    at: Instant
    """UTC time, ISO 8601; not part of what is signed."""
    by: Who
    """Who added it, as the store knows them; the signature says whose key it is."""
    version: SemVer
    """The version."""
    key: Digest
    """Fingerprint of the public key: SHA-256 of its PEM file as OpenSSL writes it."""
    signature: Annotated[str, Field(min_length=2, max_length=8192)]
    """A Sigstore bundle (JSON), as the library model-signing writes it."""


class EvidenceEvent(Frozen):
    """Something was measured of a version."""

    kind: Literal["evidence"] = "evidence"
    """Discriminator."""
    at: Instant
    """UTC time, ISO 8601."""
    by: Who
    """Who added it, as the store knows them."""
    version: SemVer
    """The version."""
    evidence: Evidence
    """What was measured; it names the plan's digest."""


Event = Annotated[PublishEvent | ChannelEvent | NoticeEvent | SignEvent | EvidenceEvent, Field(discriminator="kind")]


def _continuous(events: list[Event]) -> list[Event]:
    channels: dict[str, str] = {}
    published: dict[str, str] = {}
    for event in events:
        if isinstance(event, ChannelEvent):
            if channels.get(event.channel) != event.previous:
                raise ValueError(
                    f"channel '{event.channel}' was at {channels.get(event.channel)}, and the next event moves it "
                    f"from {event.previous}"
                )
            channels[event.channel] = event.version
        elif isinstance(event, PublishEvent):
            if event.version in published:
                raise ValueError(f"{event.version} is published twice")
            published[event.version] = event.plan_digest
        elif (
            isinstance(event, EvidenceEvent)
            and published.get(event.version, digest := event.evidence.plan_digest) != digest
        ):
            raise ValueError(f"evidence beside {event.version} is of another plan: {digest}")
    return events


class History(Document):
    """What was said about a plan's versions after they were published."""

    KIND: ClassVar[str] = "history"
    NOT_IDENTITY: ClassVar[frozenset[str]] = frozenset({"schema_revision"})

    schema_version: Literal["flashrl.history/v1"] = "flashrl.history/v1"
    """Document kind and schema major."""
    schema_revision: Annotated[int, Field(ge=0)] = 0
    """Additive revision of the schema; not part of the identity."""
    name: PlanName
    """``namespace/name``."""
    events: Annotated[list[Event], AfterValidator(_continuous)] = []
    """Oldest first; only ever added to."""

    def json_file(self) -> bytes:
        """One value to a line, so that a review shows what was added."""
        data = self.model_dump(mode="json", exclude_none=True)
        return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()
