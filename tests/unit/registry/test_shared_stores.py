"""Shared stores: names that are safe wherever the store is copied to, and addresses that lead nowhere."""

from pathlib import Path
from typing import Any

import pytest

from flashrl_registry.errors import (
    FlashRLError,
    IntegrityError,
    InvalidRefError,
    MissingDependencyError,
    NotFoundError,
    SignatureError,
    StoreUnavailableError,
)
from flashrl_registry.registry import LocalStore, NamedRef, PlanBundle, open_chain
from flashrl_registry.registry.chain import Chain, store_at
from flashrl_registry.registry.keeping import verify
from flashrl_registry.registry.url import UrlStore

NAME = "team/toy"


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path, bundle: PlanBundle) -> UrlStore:
    """One version."""
    address = f"file://{tmp_path}/shared" if request.param == "file" else f"memory://{tmp_path.name}"
    store = UrlStore(address, tmp_path / "cache")
    store.publish(bundle, NAME, "1.0.0")
    return store


@pytest.mark.parametrize("name", ["Team/toy", "team/TOY", "TEAM/new", "team/con", "aux/toy", "team/x."])
def test_names_that_some_system_takes_for_another_are_refused(store: UrlStore, bundle: PlanBundle, name: str) -> None:
    with pytest.raises(InvalidRefError, match=r"upper and lower case|cannot be a folder"):
        store.publish(bundle, name, "1.0.0")
    assert [entry.ref for entry in verify(store)] == [f"{NAME}@1.0.0"]
    assert store.publish(bundle, "team/new", "1.0.0").created


@pytest.mark.parametrize("part", ["plans", "plans/team", "plans/team/toy", "plans/team/toy/versions"])
def test_a_link_in_the_way_of_a_name_is_refused(tmp_path: Path, bundle: PlanBundle, part: str) -> None:
    store = UrlStore(f"file://{tmp_path}/shared", tmp_path / "cache")
    store.publish(bundle, NAME, "1.0.0")
    (tmp_path / "shared" / part).rename(tmp_path / "elsewhere")
    (tmp_path / "shared" / part).symlink_to(tmp_path / "elsewhere")
    before = sorted((tmp_path / "elsewhere").rglob("*"))
    for use in (
        lambda: store.get(NamedRef(NAME, "1.0.0")), lambda: store.publish(bundle, NAME, "2.0.0"),
        lambda: store.history(NAME),
    ):  # fmt: skip
        with pytest.raises(IntegrityError, match="is a link"):
            use()
    assert [error.code for error in store.listing() if isinstance(error, FlashRLError)] == ["integrity"]
    assert sorted((tmp_path / "elsewhere").rglob("*")) == before


@pytest.mark.parametrize(
    "address",
    ["github://x", "reference://x", "data://x", "dir://x", "jupyter://x", "dbfs://x", "generic://x", "zip://x.zip"],
)
def test_a_file_system_that_cannot_hold_plans_says_so(tmp_path: Path, address: str) -> None:
    store = store_at(address, {"FLASHRL_REGISTRY": str(tmp_path)})
    with pytest.raises((StoreUnavailableError, NotFoundError), match=address):
        store.versions(NAME)


@pytest.mark.parametrize("address", ["http://[bad", "https://", "github://", "memory://", "s3://me:secret@bucket"])
def test_what_is_no_address_is_refused_without_showing_a_password(tmp_path: Path, address: str) -> None:
    with pytest.raises(InvalidRefError) as raised:
        store_at(address, {"FLASHRL_REGISTRY": str(tmp_path)})
    assert "secret" not in str(raised.value)


def test_a_shared_store_without_a_scheme_is_told_how_to_write_it(tmp_path: Path) -> None:
    with pytest.raises(InvalidRefError, match=f"write file://{tmp_path}"):
        open_chain({"FLASHRL_REGISTRY": str(tmp_path), "FLASHRL_STORES": str(tmp_path)}).versions(NAME)


def test_a_missing_driver_stops_only_what_reaches_its_store(
    tmp_path: Path, bundle: PlanBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_driver(*_: Any, **__: Any) -> None:
        raise ImportError("Install s3fs to access S3")

    LocalStore(tmp_path / "registry").publish(bundle, NAME, "1.0.0")
    monkeypatch.setattr("fsspec.core.url_to_fs", no_driver)
    chain = open_chain({"FLASHRL_REGISTRY": str(tmp_path / "registry"), "FLASHRL_STORES": "s3://bucket/plans"})
    assert chain.open(NamedRef(NAME)).digest == bundle.digest
    assert chain.open(NamedRef("Qwen/Qwen2.5-0.5B-Instruct", member="int8")).digest
    with pytest.raises(MissingDependencyError, match="s3fs"):
        chain.open(NamedRef("other/toy"))


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (IntegrityError("tag v1 was moved"), "tag v1 was moved"),
        (SignatureError("nobody signed"), "nobody signed"),
        (StoreUnavailableError("HTTP 503"), "the Hub did not say: HTTP 503"),
    ],
)
def test_only_a_hub_that_did_not_answer_is_said_to_have_said_nothing(
    tmp_path: Path, error: FlashRLError, says: str
) -> None:
    class Failing(LocalStore):
        def open(self, ref: NamedRef) -> Any:
            raise error

    chain = Chain([LocalStore(tmp_path)], lambda _: Failing(tmp_path))
    with pytest.raises(type(error)) as raised:
        chain.open(NamedRef(NAME))
    assert says in raised.value.message
    assert ("nothing is published" in raised.value.message) == isinstance(error, StoreUnavailableError)
