"""FLASHRL_CONFIG as a lock: the plan that it pins, or an error."""

import json
from pathlib import Path
from typing import Any

import pytest

from flashrl_registry.documents import Plan
from flashrl_registry.errors import IntegrityError, NotFoundError
from flashrl_registry.registry import LocalStore, NamedRef, open_bundle, write_bundle
from flashrl_registry.resolver import locked_reference, pin_reference

DIGEST = "sha256:" + "1" * 64
LOCAL = {"kind": "local", "name": "org/one", "version": "1.2.0"}
HUB = {"kind": "hub", "repository": "org/two", "commit": "a" * 40}


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
