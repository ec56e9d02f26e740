"""Adding an event to a history on a Hub: a commit onto the head that was read, and a look before every repetition."""

from pathlib import Path

from flashrl_registry.documents import History
from flashrl_registry.documents.history import Event
from flashrl_registry.errors import ConflictError, NotFoundError, StoreUnavailableError
from flashrl_registry.registry.folders import HISTORY_JSON
from flashrl_registry.registry.hub import HubStore
from flashrl_registry.registry.hub_page import page
from flashrl_registry.registry.hub_push import OUTAGES, TRIES


def append(store: HubStore, name: str, event: Event, expected: int) -> History:
    """Commit a history with one more event; see :meth:`Store.append`."""
    client = store.client
    waits = list(client.waits(OUTAGES))
    outages, sent = 0, False
    for _ in range(TRIES):
        head = store.heads.head_of(name)
        events = head.history.events
        if sent and event in events:
            return head.history
        if not head.versions:
            raise NotFoundError(f"nothing is published as {name} on {store.place}", context={"ref": name})
        if len(events) != expected:
            raise ConflictError(
                f"the history of {name} has {len(events)} events by now, not {expected}",
                context={"expected": expected, "actual": len(events)},
            )
        history = History(name=name, events=[*events, event])
        add: dict[str, bytes | Path] = {HISTORY_JSON: history.json_file(), **page(store, name, head, history)}
        try:
            sent = True
            client.commit(name, add, [], parent=head.refs.head, title=_title(event))
        except ConflictError:  # the head moved: by an event, which the next look shows, or by something else
            continue
        except StoreUnavailableError:
            wait = waits[outages]
            if wait is None:
                return _last_look(store, name, event)
            outages += 1
            client.sleep(wait)
            continue
        return history
    raise ConflictError(f"{name} on {store.place} changed {TRIES} times while this was tried", hint="try again")


def _last_look(store: HubStore, name: str, event: Event) -> History:
    history = store.heads.head_of(name).history
    if event in history.events:
        return history
    raise StoreUnavailableError(
        f"nothing was changed in {name}: {store.place} did not accept the commit", hint="try again",
        context={"endpoint": store.place, "ref": name},
    )  # fmt: skip


def _title(event: Event) -> str:
    if event.kind == "channel":
        return f"Channel {event.channel}: {event.previous or 'new'} -> {event.version}"
    what = f"Evidence of {event.evidence.what} beside" if event.kind == "evidence" else event.kind.capitalize()
    return f"{what} v{event.version}"
