"""A hybrid gives each replica its own plan, and a pinned reference answers to one plan only."""

from dataclasses import replace
from pathlib import Path

import pytest

from flashrl_registry.compiler import compile_plan, preset_rules
from flashrl_registry.documents import Environment, Inventory, Lock, TensorSpec, read_document
from flashrl_registry.documents.lock import HubSource
from flashrl_registry.errors import FlashRLError, IntegrityError, InvalidRefError, NotFoundError, SchemaError
from flashrl_registry.registry import (
    Chain,
    LocalStore,
    NamedRef,
    PathRef,
    PlanBundle,
    PresetRef,
    parse_ref,
    read_bundle,
    write_bundle,
)
from flashrl_registry.registry.locking import check_lock, lock_references, update_lock
from flashrl_registry.resolver import lock_in_place, locked_reference, open_hybrid, pin, pin_reference, resolve

CPU = Environment(vllm="0.32.0+cpu", device="cpu")
NAMES = ("q_proj", "k_proj", "v_proj", "o_proj")


def model() -> Inventory:
    shapes = {"model.embed_tokens.weight": [32, 8], "model.norm.weight": [8], "lm_head.weight": [32, 8]}
    shapes |= {f"model.layers.0.self_attn.{leaf}.weight": [8, 8] for leaf in NAMES}
    specs = [TensorSpec(name=name, shape=shape, dtype="bfloat16") for name, shape in sorted(shapes.items())]
    return Inventory(name="m", architecture="A", model_type="a", tied_embeddings=False, tensors=specs)


def write_plan(folder: Path, scheme: str = "int8") -> str:
    plan = compile_plan(preset_rules(scheme, model()), model()).plan
    write_bundle(folder, plan)
    digest = read_bundle(folder).plan.digest
    assert digest is not None
    return digest


def write_hybrid(folder: Path, members: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "hybrid.yaml"
    file.write_text(f"schema_version: flashrl.hybrid/v1\nmembers:\n{members}")
    return file


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "registry")


@pytest.mark.parametrize("place", ["hybrid.yaml", "."])
def test_each_replica_gets_the_plan_beside_the_hybrid_wherever_the_program_runs(tmp_path, store, place) -> None:
    digest = write_plan(tmp_path / "job" / "eight")
    write_hybrid(tmp_path / "job", "- {name: a, plan: ./eight, weight: 2}\n- {name: b, plan: bf16}\n")
    opened = open_hybrid(parse_ref(str(tmp_path / "job" / place)))
    assert opened is not None
    refs = [opened.ref_for(member) for member in opened.hybrid.schedule(4)]
    assert [type(ref) for ref in refs] == [PathRef, PathRef, PresetRef, PathRef]
    assert resolve(refs[0], model(), CPU, store).plan.digest == digest
    assert resolve(refs[2], model(), CPU, store).plan.count_by_treatment() == {"keep": 7}


def test_a_plan_is_not_a_hybrid_and_a_scheme_neither(tmp_path) -> None:
    write_plan(tmp_path / "plan")
    for ref in (str(tmp_path / "plan"), str(tmp_path / "plan" / "plan.yaml"), "int8", "a/b@1.0.0"):
        assert open_hybrid(parse_ref(ref)) is None


def test_a_members_digest_is_the_only_plan_that_runs(tmp_path, store) -> None:
    digest = write_plan(tmp_path / "job" / "eight")
    file = write_hybrid(tmp_path / "job", f"- {{name: a, plan: ./eight, digest: '{digest}'}}\n")
    opened = open_hybrid(parse_ref(str(file)))
    assert opened is not None
    ref = opened.ref_for(opened.hybrid.members[0])
    assert resolve(ref, model(), CPU, store).plan.digest == digest
    write_plan(tmp_path / "job" / "eight", "bf16")
    with pytest.raises(IntegrityError, match=f"expected {digest}"):
        resolve(ref, model(), CPU, store)


def test_a_published_member_carries_its_digest_and_two_digests_must_agree(tmp_path, store) -> None:
    digest = write_plan(tmp_path / "plan")
    store.publish(read_bundle(tmp_path / "plan"), "me/eight", "1.0.0")
    file = write_hybrid(tmp_path, f"- {{name: a, plan: me/eight, digest: '{digest}'}}\n")
    opened = open_hybrid(parse_ref(str(file)))
    assert opened is not None
    assert opened.ref_for(opened.hybrid.members[0]).digest == digest  # type: ignore[union-attr]
    other = f"- {{name: a, plan: 'me/eight@1.0.0#sha256={'0' * 64}', digest: '{digest}'}}\n"
    opened = open_hybrid(parse_ref(str(write_hybrid(tmp_path, other))))
    assert opened is not None
    with pytest.raises(IntegrityError, match="two digests"):
        opened.ref_for(opened.hybrid.members[0])


def test_a_pinned_plan_answers_until_it_changes(tmp_path, store, monkeypatch) -> None:
    write_plan(tmp_path / "plan")
    monkeypatch.chdir(tmp_path)
    pinned = pin_reference("./plan", store)
    assert pinned.startswith(f"{(tmp_path / 'plan').resolve()}#sha256=")
    assert pin_reference(pinned, store) == pinned
    resolve(parse_ref(pinned), model(), CPU, store)
    write_plan(tmp_path / "plan", "bf16")
    with pytest.raises(IntegrityError, match="not the plan that the reference pins"):
        resolve(parse_ref(pinned), model(), CPU, store)


def test_a_pinned_name_keeps_its_version_when_a_newer_one_is_published(tmp_path, store) -> None:
    first = write_plan(tmp_path / "plan")
    store.publish(read_bundle(tmp_path / "plan"), "me/eight", "1.0.0")
    pinned = pin_reference("me/eight", store)
    assert pinned == f"me/eight@1.0.0#{first.replace(':', '=')}"
    write_plan(tmp_path / "newer", "bf16")
    store.publish(read_bundle(tmp_path / "newer"), "me/eight", "1.1.0")
    assert resolve(parse_ref(pinned), model(), CPU, store).plan.digest == first


def test_a_pinned_hybrid_pins_its_members(tmp_path, store) -> None:
    digest = write_plan(tmp_path / "eight")
    file = write_hybrid(tmp_path, "- {name: a, plan: ./eight}\n- {name: b, plan: bf16}\n")
    with pytest.raises(NotFoundError, match="pins no digest") as raised:
        pin_reference(str(file), store)
    assert f"digest: {digest}" in (raised.value.hint or "")
    members = f"- {{name: a, plan: ./eight, digest: '{digest}'}}\n- {{name: b, plan: bf16}}\n"
    pinned = pin_reference(str(write_hybrid(tmp_path, members)), store)
    assert open_hybrid(parse_ref(pinned)) is not None
    write_hybrid(tmp_path, members.replace("name: b", "name: c"))
    with pytest.raises(IntegrityError, match="not the hybrid that the reference pins"):
        open_hybrid(parse_ref(pinned))


@pytest.mark.parametrize("pinned", [True, False])
def test_a_hybrid_that_was_locked_runs_until_it_or_a_member_changes(tmp_path, store, monkeypatch, pinned) -> None:
    monkeypatch.chdir(tmp_path)
    digest = write_plan(tmp_path / "eight")
    said = f", digest: '{digest}'" if pinned else ""
    members = f"- {{name: first, plan: ./eight{said}}}\n- {{name: b, plan: bf16, weight: 2}}\n"
    write_hybrid(tmp_path, members)
    update_lock(tmp_path / "flashrl.lock", lock_references(["./hybrid.yaml"], store, tmp_path)[0])
    assert [entry.same for entry in check_lock(read_document(Path("flashrl.lock"), Lock), store, tmp_path)] == [True]
    for ref in (lock_in_place("hybrid.yaml", tmp_path), locked_reference("flashrl.lock")):
        assert ref is not None
        again = parse_ref(pin_reference(ref, store))
        opened = open_hybrid(again)
        assert opened is not None
        assert [(member.digest, member.weight) for member in opened.hybrid.members] == [(digest, 1), (None, 2)]
        assert resolve(opened.ref_for(opened.hybrid.members[0]), model(), CPU, store).plan.digest == digest
    write_hybrid(tmp_path, members.replace("name: b", "name: c"))
    with pytest.raises(IntegrityError, match="not the hybrid that the reference pins"):
        open_hybrid(again)
    write_hybrid(tmp_path, members)
    write_plan(tmp_path / "eight", "bf16")
    with pytest.raises(IntegrityError, match="is another plan" if pinned else "not the hybrid that the reference pins"):
        open_hybrid(again)


def test_a_commit_that_is_another_version_than_was_asked_for_is_refused(tmp_path) -> None:
    """A lock says of itself which version its commit is; what lies there decides."""
    write_plan(tmp_path / "plan")
    there = HubSource(repository="me/eight", commit="a" * 40, version="2.0.0")
    hub = Chain([], lambda _: Shelf(replace(read_bundle(tmp_path / "plan"), source=there)))
    ref = NamedRef("me/eight", "a" * 40, store="hub")
    for asked in ("me/eight@2.0.0", "hf://me/eight@v2.0.0", "me/eight@stable", "me/eight"):
        pin(ref, hub, asked=parse_ref(asked))
    for asked in ("me/eight@1.0.0", "hf://me/eight@v1.0.0"):
        with pytest.raises(IntegrityError, match=r"another version \(2\.0\.0\)"):
            pin(ref, hub, asked=parse_ref(asked))


class Shelf:
    """A store with one plan."""

    def __init__(self, bundle: PlanBundle) -> None:
        self.bundle = bundle

    def open(self, ref: NamedRef) -> PlanBundle:
        """The plan."""
        assert ref.name == "me/eight"
        return self.bundle


def test_a_scheme_name_has_nothing_to_pin_and_nonsense_is_refused(store) -> None:
    assert pin_reference("int8", store) == "int8"
    with pytest.raises(InvalidRefError):
        pin_reference("nothing at all", store)
    with pytest.raises(NotFoundError):
        pin_reference("me/nothing", store)


def test_a_malformed_hybrid_is_refused_with_its_place(tmp_path) -> None:
    file = write_hybrid(tmp_path, "- {name: a, plan: bf16, wieght: 2}\n")
    with pytest.raises(SchemaError, match=r"hybrid\.yaml:3:") as raised:
        open_hybrid(parse_ref(str(file)))
    assert isinstance(raised.value, FlashRLError)
