"""Listing a local registry through its index shows what is on disk, whatever the index remembers."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from flashrl_registry.errors import FlashRLError
from flashrl_registry.registry import LocalStore, PlanBundle
from flashrl_registry.registry.channels import announce, move_channel
from flashrl_registry.registry.local_listing import list_folder

ROOT = Path(__file__).parents[3]
NAMES = ("a-b/plan", "a/plan", "a/plan-2", "a.b/plan")


def lines(root: Path) -> list[str]:
    """References, states behind them, and the codes of errors."""
    return [
        line.code if isinstance(line, FlashRLError) else f"{line.ref} {line.state}".strip()
        for line in list_folder(root)
    ]


@pytest.fixture
def store(tmp_path: Path, bundle: PlanBundle) -> LocalStore:
    """Four names that sort differently with and without their slash, listed once."""
    store = LocalStore(tmp_path / "registry")
    for name in NAMES:
        store.publish(bundle, name, "1.0.0")
    move_channel(store, "a/plan", "stable", "1.0.0")
    assert lines(store.root) == ["a/plan@1.0.0 stable", "a/plan-2@1.0.0", "a-b/plan@1.0.0", "a.b/plan@1.0.0"]
    return store


def test_a_listing_without_changes_reads_no_document(store: LocalStore) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from flashrl_registry.registry.local_listing import list_folder\n"
        f"print(len(list(list_folder(Path({str(store.root)!r})))), 'pydantic' in sys.modules, 'yaml' in sys.modules)\n"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    ran = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert ran.stdout == "4 False False\n"


def test_a_channel_that_moved_and_a_deprecation_are_shown_at_once(store: LocalStore, other_bundle: PlanBundle) -> None:
    store.publish(other_bundle, "a/plan", "1.1.0")
    move_channel(store, "a/plan", "stable", "1.1.0")
    assert lines(store.root)[:2] == ["a/plan@1.0.0", "a/plan@1.1.0 stable"]
    announce(store, "a/plan", "1.0.0", "deprecate", reason="slow")
    assert lines(store.root)[:2] == ["a/plan@1.0.0 deprecated", "a/plan@1.1.0 stable"]


def test_a_history_that_was_removed_or_damaged_is_not_remembered(store: LocalStore) -> None:
    history = store.root / "a/plan/history.json"
    text = history.read_text()
    history.write_text(text[:-9])
    assert lines(store.root)[:2] == ["parse", "a/plan@1.0.0"]
    history.write_text(text.replace("a/plan", "a/else"))
    assert lines(store.root)[:2] == ["integrity", "a/plan@1.0.0"]
    history.write_text(text)
    assert lines(store.root)[0] == "a/plan@1.0.0 stable"
    history.unlink()
    assert lines(store.root)[0] == "a/plan@1.0.0"
    history.write_text(text)
    assert lines(store.root)[0] == "a/plan@1.0.0 stable"


def test_a_manifest_changed_in_place_with_its_size_and_time_put_back_is_read_again(store: LocalStore) -> None:
    manifest = store.root / "a/plan/1.0.0/manifest.json"
    before = manifest.stat()
    manifest.chmod(0o644)
    manifest.write_text(manifest.read_text().replace('"version":"1.0.0"', '"version":"9.0.0"'))
    os.utime(manifest, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert manifest.stat().st_size == before.st_size
    assert lines(store.root)[0] == "integrity"


def test_a_version_and_a_name_that_were_removed_are_gone_from_the_index_too(
    store: LocalStore, bundle: PlanBundle, other_bundle: PlanBundle
) -> None:
    store.publish(other_bundle, "a/plan-2", "2.0.0")
    assert "a/plan-2@2.0.0" in lines(store.root)
    for name, version in (("a/plan", "1.0.0"), ("a/plan-2", "1.0.0")):
        folder = store.root / name / version
        for file in sorted(folder.rglob("*"), reverse=True):
            file.unlink()
        folder.rmdir()
    (store.root / "a/plan/history.json").unlink()
    assert lines(store.root) == ["a/plan-2@2.0.0", "a-b/plan@1.0.0", "a.b/plan@1.0.0"]
    with sqlite3.connect(store.root / ".index.sqlite") as rows:
        assert rows.execute("SELECT version FROM plans WHERE name LIKE 'a/%'").fetchall() == [("2.0.0",)]
        assert rows.execute("SELECT * FROM histories").fetchall() == []
    store.publish(bundle, "a/plan", "1.0.0")
    assert lines(store.root)[0] == "a/plan@1.0.0"


def test_another_process_that_holds_the_index_only_makes_it_slower(store: LocalStore, other_bundle: PlanBundle) -> None:
    store.publish(other_bundle, "a/plan", "1.1.0")
    with sqlite3.connect(store.root / ".index.sqlite") as other:
        other.execute("BEGIN EXCLUSIVE")
        assert lines(store.root)[:2] == ["a/plan@1.0.0 stable", "a/plan@1.1.0"]
    assert lines(store.root)[:2] == ["a/plan@1.0.0 stable", "a/plan@1.1.0"]


def test_an_index_of_another_release_is_made_anew(store: LocalStore) -> None:
    with sqlite3.connect(store.root / ".index.sqlite") as rows:
        rows.executescript(
            "DROP TABLE histories; DROP TABLE plans; CREATE TABLE plans (name TEXT); PRAGMA user_version = 2"
        )
    assert lines(store.root)[0] == "a/plan@1.0.0 stable"
    assert lines(store.root)[0] == "a/plan@1.0.0 stable"
