"""What a history adds up to, and which version a reference means under it.

The same rules hold in every store:

* an exact version is that version, with a warning where it is deprecated or withdrawn;
* a channel is the version that it points at; one that points at a withdrawn version is an error, because a job that
  follows a channel has not chosen that version;
* ``latest`` is the highest version that is not withdrawn, unless somebody moves a channel of that name;
* no version at all is the same highest version.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from flashrl_registry.documents import ChannelEvent, History, NoticeEvent, PublishEvent
from flashrl_registry.documents.plain_text import escaped
from flashrl_registry.errors import NotFoundError
from flashrl_registry.registry.ref import NamedRef, in_order, is_version

LATEST = "latest"


@dataclass(frozen=True)
class Standing:
    """The present state of a name.

    Attributes:
        channels: Channel to version.
        notices: Version to the last thing said against it: ``deprecate`` or ``yank``.
        digests: Version to the digest that it was published with, where the store keeps it.
    """

    channels: dict[str, str] = field(default_factory=dict)
    notices: dict[str, NoticeEvent] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    def yanked(self, version: str) -> bool:
        """Whether a version was withdrawn."""
        notice = self.notices.get(version)
        return notice is not None and notice.kind == "yank"

    def warnings(self, name: str, version: str) -> tuple[str, ...]:
        """What everyone who uses a version should read."""
        notice = self.notices.get(version)
        if notice is None:
            return ()
        what = "was withdrawn" if notice.kind == "yank" else "is deprecated"
        instead = f"; use {escaped(notice.replacement)}" if notice.replacement else ""
        said = f"by {escaped(notice.by)} on {notice.at[:10]}: {escaped(notice.reason)}{instead}"
        return (f"{name}@{version} {what} {said}",)

    def state(self, version: str) -> str:
        """For listings: channels that point at a version, and what was said against it."""
        notice = self.notices.get(version)
        words = [name for name, at in sorted(self.channels.items()) if at == version]
        if notice is not None:
            words.append("yanked" if notice.kind == "yank" else "deprecated")
        return " ".join(words)


def standing_of(history: History) -> Standing:
    """Add up the events of a history."""
    found = Standing()
    for event in history.events:
        if isinstance(event, ChannelEvent):
            found.channels[event.channel] = event.version
        elif isinstance(event, PublishEvent):
            found.digests[event.version] = event.plan_digest
        elif isinstance(event, NoticeEvent) and event.kind == "restore":
            found.notices.pop(event.version, None)
        elif isinstance(event, NoticeEvent):
            found.notices[event.version] = event
    return found


def highest(versions: Sequence[str], standing: Standing) -> str | None:
    """The highest version that is not withdrawn."""
    usable = [version for version in versions if not standing.yanked(version)]
    return in_order(usable)[-1] if usable else None


def select(ref: NamedRef, versions: Sequence[str], standing: Standing, place: str) -> tuple[str, tuple[str, ...]]:
    """The version that a reference means.

    Args:
        ref: The reference.
        versions: What is published under its name; not empty.
        standing: What its history adds up to.
        place: The store, for messages.

    Returns:
        The version, and warnings for whoever uses it.

    Raises:
        NotFoundError: No such version or channel, or only withdrawn ones are left.
    """
    wanted = ref.version
    if wanted is None or (wanted == LATEST and LATEST not in standing.channels):
        if (version := highest(versions, standing)) is None:
            raise NotFoundError(
                f"every version of {ref.name} in {place} was withdrawn",
                hint="; ".join(line for version in versions for line in standing.warnings(ref.name, version)[:1]),
                context={"ref": str(ref), "stores": [place]},
            )
    elif wanted in versions:
        version = wanted
    elif wanted in standing.channels:
        version = standing.channels[wanted]
        _check_channel(ref, version, versions, standing, place)
    else:
        raise nothing_there(ref, versions, standing, place)
    return version, standing.warnings(ref.name, version)


def _check_channel(ref: NamedRef, version: str, versions: Sequence[str], standing: Standing, place: str) -> None:
    if version not in versions:
        raise NotFoundError(
            f"channel '{ref.version}' of {ref.name} in {place} points at {version}, which is not there",
            hint=f"move it: flashrl-registry channel set {ref.name} {ref.version} VERSION{store_option(place)}",
            context={"ref": str(ref), "stores": [place]},
        )
    if standing.yanked(version):
        raise NotFoundError(
            f"channel '{ref.version}' of {ref.name} in {place} points at a version that was withdrawn: "
            + standing.warnings(ref.name, version)[0],
            hint=f"move the channel, or take the version on purpose: {ref.name}@{version}",
            context={"ref": str(ref), "stores": [place], "version": version},
        )


def store_option(place: str) -> str:
    """What a command needs beside a name to mean the store at ``place``; nothing for the local registry."""
    return f" --store {place}" if re.match(r"[a-z][a-z0-9+.-]*://", place) else ""


def nothing_there(ref: NamedRef, versions: Sequence[str], standing: Standing, place: str) -> NotFoundError:
    """The error for a version or a channel that does not exist, with what does."""
    near = difflib.get_close_matches(ref.version or "", [*versions, *standing.channels], n=3, cutoff=0.0)
    hint = f"published versions: {', '.join(versions[-8:])}"
    if ref.version is None or not is_version(ref.version):
        channels = ", ".join(f"{name} ({version})" for name, version in sorted(standing.channels.items()))
        hint += f"; channels: {channels or 'none but latest'}"
    return NotFoundError(
        f"nothing is published as {ref} in {place}",
        hint=hint,
        context={"ref": str(ref), "stores": [place], "nearest": near},
    )
