"""Channels, deprecations and withdrawals: the same in every store, over its compare-and-swap.

Signatures and evidence are appended the same way.
"""

import getpass
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, TypeVar

from flashrl_registry.documents import ChannelEvent, EvidenceEvent, History, NoticeEvent, SignEvent
from flashrl_registry.documents.history import Event
from flashrl_registry.documents.plain_text import MAX_WHO, escaped, text_fault
from flashrl_registry.errors import ConflictError, InvalidRefError, NotFoundError, RegistryError
from flashrl_registry.registry.folders import check_version
from flashrl_registry.registry.ref import NamedRef, PathRef, in_order, is_channel, is_version, parse_ref
from flashrl_registry.registry.standing import Standing, nothing_there, standing_of, store_option
from flashrl_registry.registry.store import Store

NOBODY = "none"
"""For ``expected``: the channel must not exist yet."""

_ATTEMPTS = 64
E = TypeVar("E", ChannelEvent, NoticeEvent, SignEvent, EvidenceEvent)


@dataclass(frozen=True)
class Appended:
    """What came of appending an event.

    Attributes:
        event: What the history says now.
        changed: False when it said so already.
    """

    event: Event
    changed: bool


def now() -> str:
    """This instant, fine enough to tell two events of one person apart."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def author_of(store: Store) -> str:
    """Who appends to a store's histories, as it knows them.

    Raises:
        RegistryError: That is no name to show to others.
    """
    name = store.whoami()
    if (fault := text_fault(name, MAX_WHO)) is not None:
        raise RegistryError(
            f"who you are to {store.place} cannot be written into a history ('{escaped(name)[:MAX_WHO]}'): {fault}",
            hint="set LOGNAME to your name" if store.kind != "hub" else None,
            context={"store": store.place},
        )
    return name


def local_user() -> str:
    """Who runs this process; stores without accounts have no better name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container without a passwd entry
        return "unknown"


def move_channel(store: Store, name: str, channel: str, version: str, *, expected: str | None = None) -> Appended:
    """Point a channel at a version.

    Args:
        store: The store.
        name: ``namespace/name``.
        channel: The channel; made where it does not exist.
        version: A published version that was not withdrawn.
        expected: The version that the channel must be at, or :data:`NOBODY`; None moves it from wherever it is when
            this is called.

    Returns:
        The move; ``changed`` is False when the channel was there already.

    Raises:
        InvalidRefError: The channel's name or the version is malformed.
        NotFoundError: No such version.
        ConflictError: The channel is somewhere else, or somebody moved it meanwhile.
    """
    if not is_channel(channel):
        raise InvalidRefError(
            f"'{channel}' is not a channel name",
            hint="write a lower-case letter, then up to 31 letters, digits and hyphens, as in 'stable'",
            context={"channel": channel},
        )
    versions = _versions(store, name, version)
    first = standing_of(store.history(name)).channels.get(channel)
    wanted = first if expected is None else (None if expected == NOBODY else expected)

    def make(history: History) -> ChannelEvent | None:
        standing = standing_of(history)
        at = standing.channels.get(channel)
        if at == version:
            return None
        if at != wanted:
            raise ConflictError(
                f"channel '{channel}' of {name} in {store.place} is at {at or 'no version'}, not at "
                f"{wanted or 'no version'}",
                hint="move it again when you have seen who moved it: flashrl-registry channel history "
                f"{name}{store_option(store.place)}",
                context={"channel": channel, "expected": wanted, "actual": at, "wanted": version},
            )
        if standing.yanked(version):
            usable = [other for other in versions if not standing.yanked(other)]
            hint = f"choose one of {', '.join(usable)}" if usable else "every version was withdrawn; publish another"
            raise NotFoundError(standing.warnings(name, version)[0], hint=hint)
        return ChannelEvent(at=now(), by=author_of(store), channel=channel, previous=at, version=version)

    return append_event(store, name, make, lambda event: isinstance(event, ChannelEvent) and event.channel == channel)


def announce(
    store: Store,
    name: str,
    version: str,
    kind: Literal["deprecate", "yank", "restore"],
    *,
    reason: str,
    replacement: str | None = None,
) -> Appended:
    """Say something about a version: everyone who uses it reads it.

    Args:
        store: The store.
        name: ``namespace/name``.
        version: A published version.
        kind: See :class:`NoticeEvent`.
        reason: Why.
        replacement: What to use in its place.

    Raises:
        InvalidRefError: Malformed; or the reason or the replacement is nothing that others can read or follow.
        NotFoundError: No such version.
        RegistryError: A channel points at the version that is to be withdrawn.
        ConflictError: Other events kept coming.
    """
    _versions(store, name, version)
    if (fault := text_fault(reason)) is not None:
        raise InvalidRefError(f"the reason cannot be kept: {fault}", context={"ref": f"{name}@{version}"})
    if replacement is not None:
        check_replacement(name, replacement)

    def make(history: History) -> NoticeEvent | None:
        standing = standing_of(history)
        there = standing.notices.get(version)
        said = (there.kind, there.reason, there.replacement) if there else None
        if said == (kind, reason, replacement) or (there is None and kind == "restore"):
            return None
        at = [channel for channel, at in sorted(standing.channels.items()) if at == version]
        if kind == "yank" and at:
            raise RegistryError(
                f"{name}@{version} cannot be withdrawn while {' and '.join(repr(channel) for channel in at)} "
                f"point{'s' if len(at) == 1 else ''} at it: jobs that follow the channel would stop",
                hint=f"first: flashrl-registry channel set {name} {at[0]} VERSION{store_option(store.place)}",
                context={"channels": at},
            )
        return NoticeEvent(
            kind=kind, at=now(), by=author_of(store), version=version, reason=reason, replacement=replacement
        )

    return append_event(store, name, make, lambda event: isinstance(event, NoticeEvent) and event.version == version)


def check_replacement(name: str, replacement: str) -> None:
    """Refuse what others could not follow, such as a path of this machine. A version may be one that is yet to come.

    Args:
        name: ``namespace/name`` of what is to be replaced.
        replacement: As it was given.

    Raises:
        InvalidRefError: It is that.
    """
    hint = "name one of its versions, or another plan as namespace/name[@version]"
    context = {"ref": name, "replacement": escaped(replacement)}
    if (fault := text_fault(replacement)) is not None:
        raise InvalidRefError(f"what to use instead cannot be kept: {fault}", hint=hint, context=context)
    if is_version(replacement):
        return
    try:
        is_path = isinstance(parse_ref(replacement), PathRef)
    except InvalidRefError as exc:
        if is_channel(replacement):
            hint = f"write {name}@{replacement} for the channel, or one of its versions"
            raise InvalidRefError(f"'{replacement}' is no version", hint=hint, context=context) from exc
        raise InvalidRefError(exc.message, hint=hint, context=context) from exc
    if is_path:
        message = f"'{replacement}' is a path here, and whoever reads it is elsewhere"
        raise InvalidRefError(message, hint=hint, context=context)


def append_event(
    store: Store, name: str, make: Callable[[History], E | None], about: Callable[[Event], bool]
) -> Appended:
    """Append what ``make`` decides from the present history; when another event got in between, decide again.

    Args:
        store: The store.
        name: ``namespace/name``.
        make: The event; None where the history says it already.
        about: Finds what says it already.

    Raises:
        ConflictError: Other events kept coming.
        RegistryError: As :meth:`Store.append`.
    """
    for _ in range(_ATTEMPTS):
        history = store.history(name)
        event = make(history)
        if event is None:
            return Appended(_last(history, about), changed=False)
        try:
            store.append(name, event, len(history.events))
        except ConflictError:
            continue
        return Appended(event, changed=True)
    raise ConflictError(
        f"{name} in {store.place} changed {_ATTEMPTS} times while this was tried",
        hint="try again when others are done",
        context={"store": store.place},
    )


def _last(history: History, about: Callable[[Event], bool]) -> Event:
    found = [event for event in history.events if about(event)]
    if not found:
        raise NotFoundError(f"nothing was said against it in the history of {history.name}")
    return found[-1]


def _versions(store: Store, name: str, version: str) -> list[str]:
    check_version(version, name)
    versions = in_order(store.versions(name))
    if version not in versions:
        ref = NamedRef(name, version)
        if versions:
            raise nothing_there(ref, versions, Standing(), store.place)
        raise NotFoundError(f"nothing is published as {name} in {store.place}", context={"ref": str(ref)})
    return versions
