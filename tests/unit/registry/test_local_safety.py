"""The local registry against hands and file systems: links, names that differ in case, a damaged history, no index."""

from pathlib import Path

import pytest

from flashrl_registry.errors import IntegrityError, InvalidRefError
from flashrl_registry.registry import LocalStore, NamedRef, PlanBundle
from flashrl_registry.registry.channels import move_channel
from flashrl_registry.registry.keeping import verify
from flashrl_registry.registry.store import Listed

NAME = "team/toy"


@pytest.fixture
def store(tmp_path: Path, bundle: PlanBundle) -> LocalStore:
    """One version, and stable at it."""
    store = LocalStore(tmp_path / "registry")
    store.publish(bundle, NAME, "1.0.0")
    move_channel(store, NAME, "stable", "1.0.0")
    return store


def refs(store: LocalStore) -> list[str]:
    return [line.ref if isinstance(line, Listed) else line.code for line in store.listing()]


@pytest.mark.parametrize("part", ["team", "team/toy", "team/toy/1.0.0"])
def test_a_link_in_the_way_of_a_name_is_refused(store: LocalStore, tmp_path: Path, part: str) -> None:
    (store.root / part).rename(tmp_path / "elsewhere")
    (store.root / part).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IntegrityError, match="is a link"):
        store.get(NamedRef(NAME, "1.0.0"))


@pytest.mark.parametrize("name", ["Team/toy", "team/TOY", "team/con", "team/nul.int8", "team/x."])
def test_names_that_some_system_takes_for_another_are_refused(store: LocalStore, bundle: PlanBundle, name: str) -> None:
    with pytest.raises(InvalidRefError):
        store.publish(bundle, name, "1.0.0")
    assert refs(store) == [f"{NAME}@1.0.0"]


def test_a_damaged_history_is_an_error_and_the_exact_plan_is_named_by_verify(store: LocalStore) -> None:
    file = store.root / NAME / "history.json"
    text = file.read_text()
    for damage in (text[:-20], text.replace('"version": "1.0.0"', '"version": "x"'), text.replace(NAME, "team/other")):
        file.write_text(damage)
        with pytest.raises(IntegrityError, match="history"):
            store.get(NamedRef(NAME, "stable"))
        assert [entry.error.code for entry in verify(store) if entry.error is not None] != []
    file.write_text(text)
    assert [entry.error for entry in verify(store)] == [None]


def test_the_index_is_only_a_cache(store: LocalStore, other_bundle: PlanBundle) -> None:
    assert refs(store) == [f"{NAME}@1.0.0"]
    index = store.root / ".index.sqlite"
    index.write_bytes(b"no database at all")
    assert refs(store) == [f"{NAME}@1.0.0"]
    store.publish(other_bundle, NAME, "1.1.0")
    assert refs(store) == [f"{NAME}@1.0.0", f"{NAME}@1.1.0"]
    manifest = store.root / NAME / "1.0.0" / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text("{}")
    assert refs(store) == ["integrity", f"{NAME}@1.1.0"], "a changed manifest is read again"
    index.unlink()
    index.mkdir()
    assert refs(store) == ["integrity", f"{NAME}@1.1.0"]
