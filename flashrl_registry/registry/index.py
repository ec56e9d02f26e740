"""An index of a registry folder: what ``list`` and ``search`` show, without reading ten thousand documents.

It is a cache and nothing else: the folders decide what is published, and what it holds of a file counts only while that
file has the same stamp. Without a writable folder everything works, only slower.
"""

import json
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_LAYOUT = 3  # of the tables; others are made anew
_TABLES = f"""
DROP TABLE IF EXISTS plans;
DROP TABLE IF EXISTS histories;
CREATE TABLE plans (
    name TEXT, version TEXT, stamp TEXT, model TEXT, architecture TEXT, schemes TEXT, vllm TEXT, digest TEXT,
    published_at TEXT, devices TEXT, PRIMARY KEY (name, version)
) WITHOUT ROWID;
CREATE TABLE histories (name TEXT PRIMARY KEY, stamp TEXT, states TEXT) WITHOUT ROWID;
PRAGMA user_version = {_LAYOUT};
"""
_RANGE = "WHERE name BETWEEN ? AND ?"


class PlanRow(NamedTuple):
    """What the index holds of one version; ``schemes`` and ``devices`` are words."""

    name: str
    version: str
    stamp: str
    model: str
    architecture: str
    schemes: str
    vllm: str
    digest: str
    published_at: str
    devices: str


class Kept(NamedTuple):
    """What the index holds of a range of names.

    Attributes:
        plans: Name and version to the row.
        histories: Name to the stamp of its history and the state of each version about which something was said.
    """

    plans: dict[tuple[str, str], PlanRow]
    histories: dict[str, tuple[str, dict[str, str]]]


class Index:
    """The tables.

    Args:
        file: Made where it does not exist, and made anew where it is no index.
    """

    def __init__(self, file: Path) -> None:
        self._rows = _open(file)
        self._writable = True

    def read(self, first: str, last: str) -> Kept:
        """Everything from one name to another, both included."""
        plans = map(PlanRow._make, self._rows.execute(f"SELECT * FROM plans {_RANGE}", (first, last)))  # noqa: S608 - constants
        histories = self._rows.execute(f"SELECT * FROM histories {_RANGE}", (first, last))  # noqa: S608 - constants
        return Kept(
            {(row.name, row.version): row for row in plans},
            {name: (stamp, json.loads(states)) for name, stamp, states in histories},
        )

    def keep_plan(self, row: PlanRow) -> None:
        """Add or replace what is known of a version."""
        self._write("INSERT OR REPLACE INTO plans VALUES (?,?,?,?,?,?,?,?,?,?)", [row])

    def keep_history(self, name: str, stamp: str, states: dict[str, str]) -> None:
        """Add or replace what is known of a history."""
        self._write("INSERT OR REPLACE INTO histories VALUES (?,?,?)", [(name, stamp, json.dumps(states))])

    def drop(self, plans: Iterable[tuple[str, str]], histories: Iterable[str]) -> None:
        """Forget what is no longer there."""
        self._write("DELETE FROM plans WHERE name = ? AND version = ?", plans)
        self._write("DELETE FROM histories WHERE name = ?", ((name,) for name in histories))

    def commit(self) -> None:
        """Keep what was written."""
        try:
            self._rows.commit()
        except sqlite3.Error:  # another process holds the index, or the folder is read-only: the next listing tries
            self._rows.rollback()
            self._writable = False

    def close(self) -> None:
        """Give the file back."""
        self.commit()
        self._rows.close()

    def _write(self, statement: str, values: Iterable[tuple[str, ...]]) -> None:
        if not self._writable:
            return
        try:
            self._rows.executemany(statement, values)
        except sqlite3.Error:  # read-only, or busy: asking again for each of ten thousand rows would take an hour
            self._writable = False


def stamp_of(file: str) -> str:
    """What changes whenever a file does: its times and its size; empty where it cannot be looked at."""
    try:
        facts = os.stat(file)  # noqa: PTH116 - ten thousand times
    except OSError:
        return ""
    # The time of the last change of the file's facts too: nobody can set it back.
    return f"{facts.st_mtime_ns} {facts.st_ctime_ns} {facts.st_size}"


def _open(file: Path) -> sqlite3.Connection:
    for place in (file, file, None):
        try:
            rows = sqlite3.connect(place or ":memory:", timeout=0.2)
            if rows.execute("PRAGMA user_version").fetchone()[0] != _LAYOUT:
                rows.executescript(_TABLES)
            else:
                rows.execute("SELECT name FROM plans LIMIT 1").fetchone()
                rows.execute("SELECT name FROM histories LIMIT 1").fetchone()
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
