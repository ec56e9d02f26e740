"""Listing a registry folder: one look into every name's folder, one at each manifest's time, the rest from the index.

The folders decide what is there; an index in between saves reading. Where nothing changed since the last listing,
no document is read and no model of one is built: ten thousand plans take half a second.
"""

import json
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from flashrl_registry.errors import FlashRLError, IntegrityError, StoreUnavailableError
from flashrl_registry.registry.folders import HISTORY_JSON, INDEX, MANIFEST_JSON, folder_names
from flashrl_registry.registry.listed import Listed, about
from flashrl_registry.registry.ref import in_order, is_name, is_version

if TYPE_CHECKING:
    from flashrl_registry.registry.index import Index, PlanRow

_BATCH = 512  # names; what is held in memory at a time


def list_folder(root: Path) -> Iterator[Listed | FlashRLError]:
    """Lines for every version of every name in their order, or the error that reading one gives.

    Args:
        root: The registry's folder; need not exist.
    """
    namespaces = folder_names(root)
    if not namespaces:
        return
    from flashrl_registry.registry.index import Index

    with closing(Index(root / INDEX)) as index:
        for namespace in namespaces:
            try:
                names = [name for leaf in folder_names(root / namespace) if is_name(name := f"{namespace}/{leaf}")]
            except FlashRLError as exc:
                yield about(namespace, exc)
                continue
            for start in range(0, len(names), _BATCH):
                yield from _lines(index, root, names[start : start + _BATCH])
                index.commit()  # whoever reads slowly must not keep others from writing theirs


def _lines(index: "Index", root: Path, names: list[str]) -> Iterator[Listed | FlashRLError]:
    plans, histories = index.read(names[0], names[-1])
    for name in names:
        folder = f"{root}/{name}"
        try:
            inside = os.listdir(folder)  # noqa: PTH208 - ten thousand times
        except (FileNotFoundError, NotADirectoryError):  # removed meanwhile
            continue
        except OSError as exc:
            yield StoreUnavailableError(f"{folder} cannot be read: {exc.strerror}", context={"store": folder})
            continue
        states: dict[str, str] = {}
        if HISTORY_JSON in inside:
            try:
                states = _states(index, f"{folder}/{HISTORY_JSON}", name, histories.pop(name, None))
            except FlashRLError as exc:
                yield about(name, exc)
        for version in in_order([entry for entry in inside if is_version(entry)]):
            row = _row(index, f"{folder}/{version}", name, version, plans.pop((name, version), None))
            yield (
                about(f"{name}@{version}", row)
                if isinstance(row, FlashRLError)
                else _line(row, states.get(version, ""))
            )
    index.drop(plans, histories)


def _line(row: "PlanRow", state: str) -> Listed:
    return Listed(
        row.name, row.version, row.model, row.architecture, tuple(row.schemes.split()), row.vllm, row.digest,
        row.published_at, state, devices=tuple(row.devices.split()),
    )  # fmt: skip


def _row(index: "Index", folder: str, name: str, version: str, known: "PlanRow | None") -> "PlanRow | FlashRLError":
    """What the index holds of a version while its manifest is the same; else what the manifest and the plans say."""
    from flashrl_registry.registry.index import stamp_of

    stamp = stamp_of(f"{folder}/{MANIFEST_JSON}")
    if known is not None and known.stamp == stamp != "":
        return known
    try:
        row = _read(Path(folder), name, version, stamp)
    except FlashRLError as exc:
        return exc
    index.keep_plan(row)
    return row


def _read(folder: Path, name: str, version: str, stamp: str) -> "PlanRow":
    from flashrl_registry.documents.io import read_text
    from flashrl_registry.registry.index import PlanRow
    from flashrl_registry.registry.plan_facts import facts_of, plans_in
    from flashrl_registry.registry.version import read_manifest

    manifest = read_manifest(folder, name, version)
    try:
        architecture, vllm, devices = facts_of([json.loads(read_text(folder / path)) for path in plans_in(manifest)])
    except (ValueError, KeyError, TypeError):  # the bytes were changed: the listing stands, reading the plan says so
        architecture, vllm, devices = "", "", ()
    return PlanRow(
        name, version, stamp, manifest.base_model, architecture,
        " ".join(scheme.replace(" ", "_") for scheme in manifest.schemes), vllm, manifest.plan_digest,
        manifest.published_at, " ".join(devices),
    )  # fmt: skip


def _states(index: "Index", file: str, name: str, known: tuple[str, dict[str, str]] | None) -> dict[str, str]:
    """Versions about which a name's history says something, and what.

    Raises:
        DocumentError, IntegrityError: It is no history, or another name's.
    """
    from flashrl_registry.registry.index import stamp_of

    stamp = stamp_of(file)
    if known is not None and known[0] == stamp != "":
        return known[1]
    from flashrl_registry.documents import History, read_document
    from flashrl_registry.registry.standing import standing_of

    history = read_document(Path(file), History)
    if history.name != name:
        raise IntegrityError(f"{file} is the history of {history.name}, not of {name}", context={"ref": name})
    standing = standing_of(history)
    versions = {*standing.channels.values(), *standing.notices}
    states = {version: standing.state(version) for version in sorted(versions)}
    index.keep_history(name, stamp, states)
    return states
