"""A channel that moves cannot split a job: the first process resolves, those that it starts take its answer."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from flashrl_registry.documents import Lock, Plan, read_document
from flashrl_registry.errors import DocumentError, IntegrityError, InvalidRefError, UnsignedError
from flashrl_registry.registry import LocalStore, NamedRef, PathRef, PlanBundle, open_chain, parse_ref, write_bundle
from flashrl_registry.registry.chain import store_at
from flashrl_registry.registry.channels import announce, move_channel
from flashrl_registry.registry.locking import check_lock, lock_references, relock, update_lock
from flashrl_registry.registry.ref import with_digest
from flashrl_registry.runtime.pinning import PINNED, pin, pin_for_children
from flashrl_registry.runtime.reference import plan_reference

CONFIG = "team/toy@stable"


@pytest.fixture
def store(tmp_path: Path, bundle: PlanBundle, other_bundle: PlanBundle) -> LocalStore:
    """Two versions; stable is at the first."""
    store = LocalStore(tmp_path / "registry")
    store.publish(bundle, "team/toy", "1.0.0")
    store.publish(other_bundle, "team/toy", "2.0.0")
    move_channel(store, "team/toy", "stable", "1.0.0")
    return store


def test_a_child_runs_what_its_parent_resolved_though_the_channel_moved(store: LocalStore, bundle: PlanBundle) -> None:
    environ = {"FLASHRL_REGISTRY": str(store.root)}
    pinned = pin_for_children(CONFIG, parse_ref(CONFIG), environ)
    assert pinned == NamedRef("team/toy", "1.0.0", bundle.plan.digest)
    move_channel(store, "team/toy", "stable", "2.0.0")
    assert pin_for_children(CONFIG, parse_ref(CONFIG), dict(environ)) == pinned


def test_what_was_said_against_a_version_is_logged_at_the_start(
    store: LocalStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flashrl_registry.runtime.pinning.logger.propagate", True)
    announce(store, "team/toy", "1.0.0", "deprecate", reason="clips the head", replacement="2.0.0")
    pin_for_children(CONFIG, parse_ref(CONFIG), {"FLASHRL_REGISTRY": str(store.root)})
    assert "clips the head; use 2.0.0" in caplog.text


def test_another_config_or_a_new_job_resolves_anew(store: LocalStore, other_bundle: PlanBundle) -> None:
    environ = {"FLASHRL_REGISTRY": str(store.root)}
    pin_for_children(CONFIG, parse_ref(CONFIG), environ)
    newest = pin_for_children("team/toy", parse_ref("team/toy"), environ)
    assert newest == NamedRef("team/toy", "2.0.0", other_bundle.plan.digest)
    move_channel(store, "team/toy", "stable", "2.0.0")
    again = pin_for_children(CONFIG, parse_ref(CONFIG), {"FLASHRL_REGISTRY": str(store.root)})
    assert again == NamedRef("team/toy", "2.0.0", other_bundle.plan.digest)


def test_a_path_is_left_alone_and_a_changed_variable_is_an_error(tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    assert pin_for_children("./x", PathRef(tmp_path), environ) == PathRef(tmp_path)
    assert environ == {}
    with pytest.raises(InvalidRefError, match="FLASHRL_PINNED was changed"):
        pin_for_children(CONFIG, parse_ref(CONFIG), {PINNED: f"{CONFIG} -> nonsense at all"})


@pytest.mark.parametrize(
    "text",
    [
        "me/other", "./plan", "./plan#D", "int8", "team/toy@2.0.0", "team/toy@stable#D", "team/toy#D",
        "me/other@1.0.0#D", "team/toy@1.0.0:eight#D", "hf://team/toy@main#D", "team/toy@1.0.0/plan.yaml#D",
    ],
)  # fmt: skip
def test_no_other_plan_comes_in_by_the_variable(store: LocalStore, bundle: PlanBundle, text: str) -> None:
    pinned = text.replace("#D", "#" + bundle.digest.replace(":", "="))
    with pytest.raises(InvalidRefError, match="FLASHRL_PINNED was changed"):
        pin_for_children(
            CONFIG, parse_ref(CONFIG), {PINNED: f"{CONFIG} -> {pinned}", "FLASHRL_REGISTRY": str(store.root)}
        )


@pytest.mark.parametrize("asked", ["team/toy@2.0.0", "hf://team/toy@stable", f"team/toy@stable#sha256={'0' * 64}"])
def test_a_pin_of_another_version_store_or_digest_than_was_asked_for_is_refused(
    store: LocalStore, bundle: PlanBundle, asked: str
) -> None:
    pinned = f"team/toy@1.0.0#{bundle.digest.replace(':', '=')}"
    with pytest.raises(InvalidRefError, match="FLASHRL_PINNED was changed"):
        pin_for_children(asked, parse_ref(asked), {PINNED: f"{asked} -> {pinned}", "FLASHRL_REGISTRY": str(store.root)})


def test_a_pinned_plan_needs_the_signature_that_its_name_asks_for(store: LocalStore, tmp_path: Path) -> None:
    environ = {"FLASHRL_REGISTRY": str(store.root)}
    pin_for_children(CONFIG, parse_ref(CONFIG), environ)
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    (tmp_path / "k.pub").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    trusted = tmp_path / "trusted.yaml"
    trusted.write_text("schema_version: flashrl.trusted/v1\npublishers: [{names: team/*, keys: [k.pub]}]\n")
    with pytest.raises(UnsignedError):
        pin_for_children(CONFIG, parse_ref(CONFIG), {**environ, "FLASHRL_TRUSTED": str(trusted)})


def test_a_later_engine_says_which_pin_it_runs_and_what_was_said_against_it(
    store: LocalStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flashrl_registry.runtime.pinning.logger.propagate", True)
    caplog.set_level("INFO", "flashrl")
    environ = {"FLASHRL_REGISTRY": str(store.root)}
    pin_for_children(CONFIG, parse_ref(CONFIG), environ)
    announce(store, "team/toy", "1.0.0", "deprecate", reason="clips the head")
    caplog.clear()
    pin_for_children(CONFIG, parse_ref(CONFIG), environ)
    assert "team/toy@stable is team/toy@1.0.0#sha256=" in caplog.text
    assert "FLASHRL_PINNED says" in caplog.text
    assert "clips the head" in caplog.text


def test_a_lock_in_the_working_folder_holds_against_a_channel_that_moved(
    store: LocalStore, bundle: PlanBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLASHRL_REGISTRY", str(store.root))
    chain = open_chain({"FLASHRL_REGISTRY": str(store.root)})
    update_lock(Path("flashrl.lock"), lock_references([CONFIG], chain, tmp_path)[0])
    move_channel(store, "team/toy", "stable", "2.0.0")
    first = NamedRef("team/toy", "1.0.0", bundle.digest)
    assert plan_reference(CONFIG, store.root, lambda: None) == first
    assert pin(CONFIG) == with_digest(first)
    assert plan_reference("team/toy", store.root, lambda: None) == NamedRef("team/toy")
    text = Path("flashrl.lock").read_text()
    Path("flashrl.lock").write_text(text.replace('"name": "team/toy"', '"name": "me/other"'))
    with pytest.raises(IntegrityError, match="another name"):
        plan_reference(CONFIG, store.root, lambda: None)
    Path("flashrl.lock").write_text(text[:-20])
    with pytest.raises(DocumentError):
        plan_reference(CONFIG, store.root, lambda: None)


def test_jobs_that_lock_at_the_same_time_lose_no_entry(store: LocalStore, tmp_path: Path, bundle: PlanBundle) -> None:
    chain = open_chain({"FLASHRL_REGISTRY": str(store.root)})
    texts = [f"team/n{number}" for number in range(8)]
    for text in texts:
        store.publish(bundle, text, "1.0.0")
    made = [lock_references([text], chain, tmp_path)[0] for text in texts]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda lock: update_lock(tmp_path / "flashrl.lock", lock), made))
    found = read_document(tmp_path / "flashrl.lock", Lock)
    assert [entry.requested for entry in found.entries] == texts


def test_a_path_in_a_lock_is_relative_to_the_lock(
    store: LocalStore, tmp_path: Path, bundle: PlanBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tmp_path / "job"
    write_bundle(job / "p1", bundle.plan, profile=bundle.profile, sidecar=bundle.sidecar)
    chain = open_chain({"FLASHRL_REGISTRY": str(store.root)})
    monkeypatch.chdir(job)
    lock = update_lock(job / "flashrl.lock", lock_references(["./p1"], chain, job)[0])
    monkeypatch.chdir(tmp_path)
    assert [entry.same for entry in check_lock(lock, chain, job)] == [True]
    assert relock(lock, chain, job)[0] == lock


def test_a_locked_path_and_a_locked_plan_of_ours_are_pinned_for_other_processes_and_machines(
    store: LocalStore, tmp_path: Path, bundle: PlanBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = "HuggingFaceTB/SmolLM2-135M-Instruct:int8"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLASHRL_REGISTRY", str(store.root))
    write_bundle(tmp_path / "plans" / "mine", bundle.plan, profile=bundle.profile, sidecar=bundle.sidecar)
    chain = open_chain({"FLASHRL_REGISTRY": str(store.root)})
    lock = update_lock(Path("flashrl.lock"), lock_references(["./plans/mine", ours], chain, tmp_path)[0])
    digests = {entry.requested: entry.plan_digest.replace(":", "=") for entry in lock.entries}
    expected = f"{(tmp_path / 'plans' / 'mine').resolve()}#{digests['./plans/mine']}"
    for text in ("./plans/mine", "plans/mine/", "flashrl.lock#./plans/mine"):
        assert pin(text) == expected
    for text in (ours, f"flashrl.lock#{ours}"):
        assert pin(text) == f"{ours}#{digests[ours]}", "a place in this installation means nothing elsewhere"
    assert pin(pin(ours)) == pin(ours)
    write_bundle(tmp_path / "plans" / "mine", compiled_otherwise(bundle))
    with pytest.raises(IntegrityError, match="is not the plan that the reference pins"):
        pin("./plans/mine")


def compiled_otherwise(bundle: PlanBundle) -> Plan:
    """The same plan for another range of vLLM."""
    engine = bundle.plan.engine.model_copy(update={"vllm": ">=0.31,<0.40"})
    plan = bundle.plan.model_copy(update={"engine": engine, "digest": None})
    return plan.model_copy(update={"digest": plan.compute_digest()})


def test_no_changed_lock_gets_an_unsigned_plan_past_a_name_that_needs_a_signature(
    store: LocalStore, tmp_path: Path, bundle: PlanBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_bundle(tmp_path / "evil", bundle.plan, profile=bundle.profile, sidecar=bundle.sidecar)
    chain = open_chain({"FLASHRL_REGISTRY": str(store.root)})
    (entry,) = lock_references(["./evil"], chain, tmp_path)[0].entries
    update_lock(Path("flashrl.lock"), Lock(entries=[entry.model_copy(update={"requested": CONFIG})]))
    for config in (CONFIG, "flashrl.lock", f"flashrl.lock#{CONFIG}"):
        with pytest.raises(IntegrityError, match=f"locks {CONFIG} to a path"):
            plan_reference(config, store.root, lambda: None)
        with pytest.raises(IntegrityError, match=f"locks {CONFIG} to a path"):
            pin(config)


def test_gc_knows_the_lock_that_a_job_runs_by_and_no_engine_fails_for_that(
    store: LocalStore, tmp_path: Path, bundle: PlanBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another job's gc, in another folder, must not take away what a lock needs."""
    monkeypatch.chdir(tmp_path)
    shared = f"file://{tmp_path / 'shared'}"
    environ = {"FLASHRL_REGISTRY": str(tmp_path / "mine"), "FLASHRL_STORES": shared}
    store_at(shared, environ).publish(bundle, "team/shared", "1.0.0")
    update_lock(tmp_path / "job.lock", lock_references(["team/shared"], open_chain(environ), tmp_path)[0])
    update_lock(tmp_path / "flashrl.lock", lock_references(["team/shared"], open_chain(environ), tmp_path)[0])
    notes = tmp_path / "mine" / ".cache" / "locks"
    for number, config in enumerate(("job.lock", "team/shared", "job.lock#team/shared"), start=1):
        pin_for_children(config, plan_reference(config, tmp_path / "mine", lambda: None), dict(environ))
        assert len(list(notes.glob("*.txt"))) == min(number, 2)
    for note in notes.iterdir():
        note.unlink()
    notes.rmdir()
    notes.write_text("in the way")
    pin_for_children("job.lock", plan_reference("job.lock", tmp_path / "mine", lambda: None), dict(environ))
