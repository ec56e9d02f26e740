"""Evidence beside published versions: appended as events, bound to the digest of what was measured."""

from collections.abc import Iterator, Sequence
from typing import Any

from flashrl_registry.documents import Evidence, EvidenceEvent, History
from flashrl_registry.documents.evidence import MAX_EVIDENCE_BYTES
from flashrl_registry.documents.history import Event
from flashrl_registry.documents.plain_text import escaped, text_fault
from flashrl_registry.errors import IntegrityError, NotFoundError, RegistryError
from flashrl_registry.registry.channels import Appended, append_event, author_of, now
from flashrl_registry.registry.ref import NamedRef
from flashrl_registry.registry.store import Store

MAX_HISTORY_BYTES = 512 << 10
"""A history is read with every plan of its name; evidence leaves room in it for channels, notices and signatures."""


def add_evidence(store: Store, ref: NamedRef, documents: Sequence[Evidence]) -> list[Appended]:
    """Put evidence beside the version that a reference means, after all of the version's bytes were checked.

    Args:
        store: Where it is published.
        ref: The version.
        documents: What was measured of it.

    Returns:
        One for each document; ``changed`` is False for one that was there already.

    Raises:
        IntegrityError: A document is of another plan.
        RegistryError: A document is too large, or the name has no room for more; else as :meth:`Store.open` and
            :meth:`Store.append`. What is wrong with a document is said before any is appended.
    """
    manifest = store.open(ref).manifest
    if manifest is None:
        raise NotFoundError(
            f"{ref} is no published version, and evidence lies beside those", hint="name it as namespace/name@version"
        )
    for document in documents:
        _check(document, manifest.plan_digest, f"{manifest.name}@{manifest.version}")
    return [_append(store, ref.name, manifest.version, document) for document in documents]


def evidence_of(history: History | None, version: str, plan_digest: str) -> list[EvidenceEvent]:
    """Evidence of one version, oldest first; what names another plan is not of it."""
    return [
        event
        for event in (history.events if history is not None else ())
        if isinstance(event, EvidenceEvent) and (event.version, event.evidence.plan_digest) == (version, plan_digest)
    ]


def numbers_of(evidence: Evidence) -> str:
    """Its metrics in one line."""
    return ", ".join(
        f"{name} {metric.value:g}" + ("" if metric.unit == "1" else f" {metric.unit}")
        for name, metric in evidence.metrics.items()
    )


def versions_of(evidence: Evidence) -> str:
    """The releases that took part, in one line."""
    return ", ".join(f"{name} {version}" for name, version in evidence.versions.items())


def _check(document: Evidence, plan_digest: str, ref: str) -> None:
    if document.plan_digest != plan_digest:
        raise IntegrityError(
            f"the evidence is of another plan than {ref}: expected {plan_digest}, actual {document.plan_digest}",
            hint="numbers of one plan say nothing of another; measure this one",
            context={"ref": ref, "expected": plan_digest, "actual": document.plan_digest},
        )
    for text in _texts(document.model_dump(mode="json", exclude_none=True)):
        if (fault := text_fault(text, MAX_EVIDENCE_BYTES, lines=True)) is not None:
            raise RegistryError(f"the evidence cannot be kept ('{escaped(text)[:64]}'): {fault}", context={"ref": ref})
    if (size := len(document.canonical_json())) > MAX_EVIDENCE_BYTES:
        raise RegistryError(
            f"the evidence has {size} bytes; at most {MAX_EVIDENCE_BYTES} are kept",
            hint="keep the numbers that decide, and say in 'method' where the rest lies",
            context={"ref": ref, "size": size, "limit": MAX_EVIDENCE_BYTES},
        )


def _texts(data: Any) -> Iterator[str]:
    """Every text in a document's data."""
    if isinstance(data, str):
        yield data
    elif isinstance(data, dict | list):
        for value in data.values() if isinstance(data, dict) else data:
            yield from _texts(value)


def _append(store: Store, name: str, version: str, document: Evidence) -> Appended:
    def same(event: Event) -> bool:
        return isinstance(event, EvidenceEvent) and event.version == version and event.evidence == document

    def make(history: History) -> EvidenceEvent | None:
        if any(same(event) for event in history.events):
            return None
        event = EvidenceEvent(at=now(), by=author_of(store), version=version, evidence=document)
        size = len(History(name=name, events=[*history.events, event]).json_file())
        if size > MAX_HISTORY_BYTES:
            raise RegistryError(
                f"the history of {name} would have {size} bytes; at most {MAX_HISTORY_BYTES} are kept with evidence",
                hint="publish a summary of what was measured under a new name",
                context={"name": name, "size": size, "limit": MAX_HISTORY_BYTES},
            )
        return event

    return append_event(store, name, make, same)
