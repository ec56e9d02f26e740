"""FLASHRL_CONFIG as a lock: the plan that it pins, or an error."""

import json
from pathlib import Path
from typing import Any

import pytest

from flashrl_registry.documents import Plan
from flashrl_registry.errors import DocumentError, IntegrityError, InvalidRefError, NotFoundError
from flashrl_registry.registry import LocalStore, NamedRef, PathRef, open_bundle, write_bundle
from flashrl_registry.resolver import lock_in_place, locked_reference, pin_reference

DIGEST = "sha256:" + "1" * 64
LOCAL = {"kind": "local", "name": "org/one", "version": "1.2.0"}
HUB = {"kind": "hub", "repository": "org/two", "commit": "a" * 40}
BUNDLED = {"kind": "bundled", "name": "org/one/int8"}
URL = {"kind": "url", "url": "s3://bucket/plans", "name": "org/one", "version": "1.2.0"}
PATH = {"kind": "path", "path": "mine"}
PINNED, OTHER = DIGEST.replace(":", "="), "sha256=" + "2" * 64


def lock(folder: Path, *entries: tuple[str, dict[str, Any]], digest: str = DIGEST) -> Path:
    file = folder / "flashrl.lock"
    listed = [{"requested": name, "source": source, "plan_digest": digest} for name, source in entries]
    file.write_text(json.dumps({"schema_version": "flashrl.lock/v1", "entries": listed}))
    return file


def test_what_is_no_lock_is_left_to_others(tmp_path: Path) -> None:
    (tmp_path / "flashrl_config.yaml").write_text("configs: [{fn: bf16}]\n")
    for text in ("int8", "org/name@1.0.0", str(tmp_path), str(tmp_path / "flashrl_config.yaml"), "", "./none.lock"):
        assert locked_reference(text) is None


def test_the_only_entry_needs_no_name(tmp_path: Path) -> None:
    file = lock(tmp_path, ("org/one", LOCAL))
    assert locked_reference(str(file)) == NamedRef("org/one", "1.2.0", DIGEST)


def test_one_of_several_is_named_as_it_was_locked(tmp_path: Path) -> None:
    file = lock(tmp_path, ("org/one", LOCAL), ("org/one@1.0.0", {**LOCAL, "version": "1.0.0"}))
    assert locked_reference(f"{file}#org/one@1.0.0") == NamedRef("org/one", "1.0.0", DIGEST)
    with pytest.raises(NotFoundError, match="locks 2 plans"):
        locked_reference(str(file))
    with pytest.raises(NotFoundError, match="did you mean 'org/one'"):
        locked_reference(f"{file}#org/onee")


def test_a_path_is_relative_to_the_lock_and_pinned(tmp_path: Path, plan: Plan, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    write_bundle(tmp_path / "job" / "mine", plan)
    store = LocalStore(tmp_path / "registry")
    file = lock(tmp_path / "job", ("./mine", {"kind": "path", "path": "./mine"}))
    ref = locked_reference(str(file))
    assert ref is not None
    with pytest.raises(IntegrityError) as caught:
        open_bundle(ref, store)
    actual = caught.value.context["actual"]
    assert actual == plan.digest
    ref = locked_reference(str(lock(tmp_path / "job", ("./mine", {"kind": "path", "path": "./mine"}), digest=actual)))
    assert ref is not None
    assert open_bundle(ref, store).plan.digest == actual
    pinned = pin_reference(str(tmp_path / "job" / "flashrl.lock"), store)
    assert pinned == f"{(tmp_path / 'job' / 'mine').resolve()}#{actual.replace(':', '=')}"


def test_a_plan_from_the_hub_is_pinned_to_its_commit_and_its_hub(tmp_path: Path) -> None:
    source = {**HUB, "endpoint": "https://hub.example.org"}
    ref = locked_reference(str(lock(tmp_path, ("hf://org/two@main", source))))
    assert ref == NamedRef("org/two", "a" * 40, DIGEST, None, "hub", "https://hub.example.org")


def test_a_plan_from_a_shared_store_is_looked_for_there(tmp_path: Path) -> None:
    source = {"kind": "url", "url": "s3://bucket/plans", "name": "org/two", "version": "1.0.0"}
    ref = locked_reference(str(lock(tmp_path, ("org/two", source))))
    assert ref == NamedRef("org/two", "1.0.0", DIGEST, None, "url", "s3://bucket/plans")


def test_a_bundled_plan_is_found(tmp_path: Path) -> None:
    name = "HuggingFaceTB/SmolLM2-135M-Instruct/int8"
    file = lock(tmp_path, ("HuggingFaceTB/SmolLM2-135M-Instruct:int8", {"kind": "bundled", "name": name}))
    ref = locked_reference(str(file))
    assert ref is not None
    with pytest.raises(IntegrityError):  # the digest above is not this plan's
        open_bundle(ref, LocalStore(tmp_path / "registry"))


@pytest.mark.parametrize(
    ("requested", "source", "why"),
    [
        ("org/one@stable", PATH, "a path"),
        ("org/one@stable", {**PATH, "path": "org/one@stable"}, "a path"),
        ("hf://org/two", PATH, "a path"),
        ("hf://org/two", {**HUB, "path": "plan.yaml"}, "a file in a Hub repository"),
        ("org/two", {**HUB, "path": "a/plan.yaml"}, "a file in a Hub repository"),
        ("org/two/a/plan.yaml", HUB, "a published plan"),
        ("org/two/a/plan.yaml", PATH, "a path"),
        ("org/two/a/plan.yaml", {**HUB, "path": "b/plan.yaml"}, "another file"),
        (f"org/two@{'b' * 40}/a/plan.yaml", {**HUB, "path": "a/plan.yaml"}, "another commit"),
        ("org/two/a/plan.yaml?store=https://b", {**HUB, "path": "a/plan.yaml", "endpoint": "https://a"}, "another Hub"),
        ("org/one@stable", {**LOCAL, "name": "me/other"}, "a plan of another name"),
        ("org/one@stable", BUNDLED, "another member"),
        ("me/one:int8", BUNDLED, "a plan of another name"),
        ("org/one@1.0.0:int8", BUNDLED, "a plan without versions"),
        ("org/one:int8", LOCAL, "another member"),
        ("org/one", {**LOCAL, "member": "int8"}, "another member"),
        ("org/one@1.0.0", LOCAL, "another version"),
        (f"org/one@1.0.0#{PINNED}", LOCAL, "another version"),
        (f"org/one#{OTHER}", LOCAL, "a plan of another digest"),
        (f"org/one@1.2.0#{OTHER}", LOCAL, "a plan of another digest"),
        (f"./mine#{OTHER}", PATH, "a plan of another digest"),
        (f"org/one@{'b' * 40}", LOCAL, "another commit"),
        (f"hf://org/two@{'b' * 40}", HUB, "another commit"),
        ("hf://org/two@1.0.0", {**HUB, "version": "2.0.0"}, "another version"),
        ("hf://org/two@v1.0.0", {**HUB, "version": "2.0.0"}, "another version"),
        ("hf://org/one@1.2.0", LOCAL, "a plan in another store"),
        ("hf://org/one", URL, "a plan in another store"),
        ("org/one?store=s3://other/plans", URL, "a plan in another store"),
        ("org/one?store=s3://bucket/plans", LOCAL, "a plan in another store"),
        ("hf://org/two?store=https://b", {**HUB, "endpoint": "https://a"}, "a plan in another store"),
        ("./mine", LOCAL, "a published plan"),
        ("./mine", {**PATH, "path": "other"}, "another path"),
        ("int8", LOCAL, "a published plan"),
        ("nonsense at all", LOCAL, "no reference"),
    ],
)  # fmt: skip
def test_a_lock_that_was_changed_gets_no_other_plan_past_what_was_asked_for(
    tmp_path: Path, requested: str, source: dict[str, Any], why: str
) -> None:
    file = lock(tmp_path, (requested, source))
    for use in (str(file), f"{file}#{requested}"):
        with pytest.raises(IntegrityError, match=why):
            locked_reference(use)
    if requested not in {"int8", "nonsense at all"}:  # a scheme is never locked
        with pytest.raises(IntegrityError, match=why):
            lock_in_place(requested, tmp_path)


@pytest.mark.parametrize(
    ("requested", "source"),
    [
        ("org/one", LOCAL), ("org/one@stable", LOCAL), ("org/one@1.2.0", LOCAL), (f"org/one@1.2.0#{PINNED}", LOCAL),
        ("org/one:a", {**LOCAL, "member": "a"}), ("org/one", URL), ("org/one?store=s3://bucket/plans/", URL),
        ("org/one:int8", BUNDLED), ("org/two", HUB), ("hf://org/two@main", HUB), (f"org/two@{'a' * 40}", HUB),
        ("hf://org/two@1.0.0", {**HUB, "version": "1.0.0"}), ("org/two@v1.0.0", {**HUB, "version": "1.0.0"}),
        ("hf://org/two@1.0.0", HUB), ("org/two?store=https://a/", {**HUB, "endpoint": "https://a"}),
        ("org/two@main/a/plan.yaml", {**HUB, "path": "a/plan.yaml"}), ("./mine", PATH), ("mine/", PATH),
    ],
)  # fmt: skip
def test_what_a_lock_may_say_is_taken(tmp_path: Path, requested: str, source: dict[str, Any]) -> None:
    (tmp_path / "mine").mkdir()
    file = lock(tmp_path, (requested, source))
    assert locked_reference(str(file)) is not None
    found = lock_in_place(requested, tmp_path)
    assert found is not None
    assert found.digest == DIGEST  # type: ignore[union-attr]


def test_a_folder_by_the_name_of_a_published_plan_is_not_what_a_lock_means(tmp_path: Path) -> None:
    (tmp_path / "org" / "one").mkdir(parents=True)
    assert locked_reference(str(lock(tmp_path, ("org/one", LOCAL)))) == NamedRef("org/one", "1.2.0", DIGEST)
    with pytest.raises(InvalidRefError, match="is a path here and could be a registry name"):
        lock_in_place("org/one", tmp_path)


def test_a_locked_path_is_the_place_and_not_the_text(tmp_path: Path) -> None:
    """Another folder's ./mine is another plan; the same folder may be written in several ways."""
    job = tmp_path / "job"
    (job / "mine").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    lock(tmp_path, ("./job/mine", {"kind": "path", "path": "job/mine"}))
    wanted = PathRef(tmp_path / "job" / "mine", DIGEST)
    for text in ("./job/mine", "job/../job/mine/", str(job / "mine"), "./job/mine"):
        assert lock_in_place(text, tmp_path) == wanted
    for text in ("./mine", str(tmp_path / "mine"), "./job", f"./job/mine#{OTHER}"):
        assert lock_in_place(text, tmp_path) is None


def test_a_link_to_a_lock_changes_nothing_about_its_paths(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "locks"):
        (folder / "mine").mkdir(parents=True)
    real = lock(tmp_path / "locks", ("../mine", {"kind": "path", "path": "../mine"}))
    (tmp_path / "flashrl.lock").symlink_to(real)
    found = [locked_reference(str(real)), locked_reference(str(tmp_path / "flashrl.lock"))]
    found.append(lock_in_place("./mine", tmp_path))
    for ref in found:
        assert isinstance(ref, PathRef)
        assert ref.path.resolve() == (tmp_path / "mine").resolve()
    assert lock_in_place("./locks/mine", tmp_path) is None


def test_a_lock_that_is_a_link_to_nowhere_does_not_let_the_channel_run(tmp_path: Path) -> None:
    (tmp_path / "flashrl.lock").symlink_to(tmp_path / "gone.lock")
    with pytest.raises(DocumentError, match=r"flashrl\.lock: cannot be read"):
        lock_in_place("org/one@stable", tmp_path)
