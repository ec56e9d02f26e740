"""An index of a registry folder: what ``list`` and ``search`` show, without reading ten thousand documents.

It is a cache and nothing else: the folders decide what is published, and a row counts only while the manifest that it
was made from has the same size and time. Without a writable folder everything works, only slower.
"""

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from flashrl_registry.documents import History, Manifest, read_document
from flashrl_registry.documents.io import read_text
from flashrl_registry.errors import FlashRLError
from flashrl_registry.registry.bundle import PLAN_JSON
from flashrl_registry.registry.folders import entries
from flashrl_registry.registry.ref import is_name, is_version
from flashrl_registry.registry.standing import Standing, in_order, standing_of
from flashrl_registry.registry.store import Listed
from flashrl_registry.registry.version import MANIFEST_JSON, read_manifest

HISTORY_JSON = "history.json"

_NOTHING_SAID = Standing()
_LAYOUT = 2  # of the table; another one is made anew
_COLUMNS = "version, stamp, model, architecture, schemes, vllm, digest, published_at, devices"
_READ = f"SELECT {_COLUMNS} FROM plans WHERE name = ?"  # noqa: S608 - a constant
_WRITE = "INSERT OR REPLACE INTO plans VALUES (?,?,?,?,?,?,?,?,?,?)"


def indexed(root: Path, file_name: str) -> Iterator[Listed | FlashRLError]:
    """Lines for every version of every name in their order, or the error that reading one gives.

    Args:
        root: The registry's folder.
        file_name: The index in it.
    """
    with closing(_open(root / file_name)) as rows:
        for namespace in entries(root):
            for folder in entries(namespace):
                if is_name(name := f"{namespace.name}/{folder.name}"):
                    yield from _lines(rows, folder, name)
        try:
            rows.commit()
        except sqlite3.Error:  # another process holds the index, or the folder is read-only: the next listing tries
            rows.rollback()


def _lines(rows: sqlite3.Connection, folder: Path, name: str) -> Iterator[Listed | FlashRLError]:
    """One look into the name's folder, one at the index, one at each manifest's time."""
    with os.scandir(folder) as found:
        inside = {entry.name for entry in found}
    versions = in_order([entry for entry in inside if is_version(entry)])
    known = {row[0]: row[1:] for row in rows.execute(_READ, (name,))}
    standing = _NOTHING_SAID
    if HISTORY_JSON in inside:
        try:
            standing = _standing(folder / HISTORY_JSON, name)
        except FlashRLError as exc:
            yield exc
    for version in versions:
        line = _line(rows, folder / version, name, version, known.get(version))
        said = "" if standing is _NOTHING_SAID else standing.state(version)
        yield replace(line, state=said) if said and isinstance(line, Listed) else line
    for gone in known.keys() - set(versions):
        rows.execute("DELETE FROM plans WHERE name = ? AND version = ?", (name, gone))


def _open(file: Path) -> sqlite3.Connection:
    for place in (file, file, None):
        try:
            rows = sqlite3.connect(place or ":memory:", timeout=0.2)
            if rows.execute("PRAGMA user_version").fetchone()[0] != _LAYOUT:
                rows.executescript(
                    "DROP TABLE IF EXISTS plans; CREATE TABLE plans (name TEXT, version TEXT, stamp TEXT, model TEXT, "
                    "architecture TEXT, schemes TEXT, vllm TEXT, digest TEXT, published_at TEXT, devices TEXT, "
                    f"PRIMARY KEY (name, version)) WITHOUT ROWID; PRAGMA user_version = {_LAYOUT};"
                )
            else:
                rows.execute("SELECT name FROM plans LIMIT 1").fetchone()
        except sqlite3.DatabaseError:  # not there and not writable, busy, or not an index: made anew, else in memory
            _drop(file)
        else:
            return rows
    raise AssertionError("a database in memory cannot be opened")


def _drop(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError:  # a read-only registry keeps whatever lies there
        return


def _line(
    rows: sqlite3.Connection, folder: Path, name: str, version: str, known: tuple[Any, ...] | None
) -> Listed | FlashRLError:
    try:
        facts = os.stat(f"{folder}/{MANIFEST_JSON}")  # noqa: PTH116 - ten thousand times
        stamp = f"{facts.st_mtime_ns} {facts.st_size}"
    except OSError:
        stamp = ""
    if known is not None and stamp and known[0] == stamp:
        _, model, architecture, schemes, vllm, digest, published_at, devices = known
        return Listed(
            name, version, model, architecture, tuple(schemes.split()), vllm, digest, published_at,
            devices=tuple(devices.split()),
        )  # fmt: skip
    try:
        manifest = read_manifest(folder, name, version)
    except FlashRLError as exc:
        return exc
    try:
        architecture, vllm, devices = facts_of([json.loads(read_text(folder / path)) for path in plans_in(manifest)])
    except FlashRLError as exc:
        return exc
    except (ValueError, KeyError, TypeError):  # the bytes were changed: the listing stands, reading the plan says so
        architecture, vllm, devices = "", "", ()
    line = Listed(
        name, version, manifest.base_model, architecture, tuple(s.replace(" ", "_") for s in manifest.schemes), vllm,
        manifest.plan_digest, manifest.published_at, devices=devices,
    )  # fmt: skip
    values = (name, version, stamp, line.model, architecture, " ".join(line.schemes), vllm, line.digest,
              line.published_at, " ".join(line.devices))  # fmt: skip
    try:
        rows.execute(_WRITE, values)
    except sqlite3.Error:  # read-only, or busy
        return line
    return line


def plans_in(manifest: Manifest) -> list[str]:
    """Paths of a version's plans: one, or those of a hybrid's members."""
    return [entry.path for entry in manifest.files if entry.path.rpartition("/")[2] == PLAN_JSON]


def facts_of(plans: Sequence[dict[str, Any]]) -> tuple[str, str, tuple[str, ...]]:
    """Architecture, vLLM range and devices of a version's plans, from their data; the first speaks for the rest."""
    from flashrl_registry.compiler.devices import devices_of

    plan = plans[0]
    treated = [[(str(family["names"]), str(family["treatment"])) for family in each["tensors"]] for each in plans]
    return str(plan["base_model"]["architecture"]), str(plan["engine"]["vllm"]), devices_of(treated)


def _standing(file: Path, name: str) -> Standing:
    history = read_document(file, History)
    return standing_of(history) if history.name == name else Standing()
