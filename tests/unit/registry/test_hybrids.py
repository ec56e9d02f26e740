"""A hybrid is published with its plans, and each of them can be named."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flashrl_registry.documents import Environment, Inventory, Lock
from flashrl_registry.errors import (
    AlreadyPublishedError,
    FlashRLError,
    IntegrityError,
    InvalidRefError,
    NotFoundError,
    RegistryError,
)
from flashrl_registry.registry import Chain, LocalStore, NamedRef, PlanBundle, Store, parse_ref, read_bundle
from flashrl_registry.registry.hybrids import HybridBundle, read_any_bundle, write_any_bundle
from flashrl_registry.registry.keeping import verify
from flashrl_registry.registry.locking import lock_references
from flashrl_registry.registry.store import Listed
from flashrl_registry.registry.url import UrlStore
from flashrl_registry.resolver import open_hybrid, pin_reference, resolve
from flashrl_registry.resolver.locked import reference_of

NAME = "team/mix"
CPU = Environment(vllm="0.32.0+cpu", device="cpu")


@pytest.fixture(params=["local", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store of either kind; the suite of every store has the Hub."""
    if request.param == "local":
        return LocalStore(tmp_path / "registry")
    return UrlStore(f"file://{tmp_path}/shared", tmp_path / "cache")


@pytest.fixture
def write(tmp_path: Path, bundle: PlanBundle, other_bundle: PlanBundle) -> Callable[..., Path]:
    """A folder with a hybrid of the two plans beside it."""

    def make(members: str = "- {name: eight, plan: ../bundle, weight: 2}\n- {name: full, plan: ../other}\n") -> Path:
        folder = tmp_path / "job"
        folder.mkdir(exist_ok=True)
        (folder / "hybrid.yaml").write_text(f"schema_version: flashrl.hybrid/v1\nmembers:\n{members}")
        return folder

    return make


def test_every_member_of_a_published_hybrid_can_be_named(
    store: Store, write: Callable[..., Path], bundle: PlanBundle, other_bundle: PlanBundle
) -> None:
    published = store.publish(read_any_bundle(write()), NAME, "1.0.0")
    paths = [entry.path for entry in published.manifest.files]
    assert "hybrid.yaml" in paths
    assert "eight/plan.yaml" in paths
    eight = store.get(NamedRef(NAME, "1.0.0", member="eight"))
    assert eight.plan == bundle.plan
    assert eight.sidecar is not None
    assert bundle.sidecar is not None
    assert eight.sidecar.read_bytes() == bundle.sidecar.read_bytes()
    assert store.get(NamedRef(NAME, "1.0.0", other_bundle.digest, "full")).plan == other_bundle.plan
    with pytest.raises(IntegrityError, match="the reference names"):
        store.get(NamedRef(NAME, "1.0.0", bundle.digest, "full"))
    with pytest.raises(NotFoundError, match="'ful' is none of its members; did you mean 'full'"):
        store.get(NamedRef(NAME, "1.0.0", member="ful"))
    with pytest.raises(InvalidRefError, match="is a hybrid of 2 members") as caught:
        store.get(NamedRef(NAME, "1.0.0"))
    assert f"{NAME}@1.0.0:eight" in str(caught.value.hint)
    assert [entry.error for entry in verify(store)] == [None]
    listed = [line for line in store.listing() if isinstance(line, Listed)]
    assert [(line.digest, line.schemes) for line in listed] == [(published.manifest.plan_digest, ("bf16", "int8"))]


def test_the_same_hybrid_again_changes_nothing_and_a_pulled_copy_is_the_same(
    store: Store, write: Callable[..., Path], tmp_path: Path
) -> None:
    hybrid = read_any_bundle(write())
    store.publish(hybrid, NAME, "1.0.0")
    assert store.publish(read_any_bundle(write()), NAME, "1.0.0").created is False
    found = store.open(NamedRef(NAME))
    assert isinstance(found, HybridBundle)
    write_any_bundle(tmp_path / "pulled", found)
    assert store.publish(read_any_bundle(tmp_path / "pulled"), NAME, "1.0.0").created is False
    with pytest.raises(AlreadyPublishedError):
        store.publish(read_any_bundle(write("- {name: eight, plan: ../bundle}\n")), NAME, "1.0.0")
    with pytest.raises(AlreadyPublishedError):
        store.publish(read_any_bundle(tmp_path / "bundle"), NAME, "1.0.0")


def test_replicas_run_their_members_of_a_published_hybrid(
    tmp_path: Path, write: Callable[..., Path], inventory: Inventory, bundle: PlanBundle, other_bundle: PlanBundle
) -> None:
    store = LocalStore(tmp_path / "registry")
    members = "- {name: eight, plan: ../bundle, weight: 2}\n- {name: full, plan: ../other}\n- {name: raw, plan: bf16}\n"
    published = store.publish(read_any_bundle(write(members)), NAME, "1.0.0")
    chain = Chain([store], lambda _: store)
    pinned = pin_reference(f"{NAME}@latest", chain)
    assert pinned == f"{NAME}@1.0.0#{published.manifest.plan_digest.replace(':', '=')}"
    opened = open_hybrid(parse_ref(pinned), chain)
    assert opened is not None
    refs = [opened.ref_for(member) for member in opened.hybrid.schedule(4)]
    plans = [resolve(ref, inventory, CPU, chain).plan for ref in refs]
    assert [plan.digest for plan in plans[:3]] == [bundle.digest, bundle.digest, other_bundle.digest]
    assert open_hybrid(parse_ref(f"{NAME}:eight"), chain) is None
    with pytest.raises(NotFoundError, match="'raw' is the scheme bf16, compiled for the engine's model"):
        store.get(NamedRef(NAME, member="raw"))
    one = pin_reference(f"{NAME}:eight", chain)
    assert one == f"{NAME}@1.0.0:eight#{bundle.digest.replace(':', '=')}"
    assert resolve(parse_ref(one), inventory, CPU, chain).plan == bundle.plan


def test_a_lock_holds_a_hybrid_and_a_member_of_it(tmp_path: Path, write: Callable[..., Path], store: Store) -> None:
    store.publish(read_any_bundle(write()), NAME, "1.0.0")
    chain = Chain([store], lambda _: store, lambda _: store)
    lock, bundles = lock_references([NAME, f"{NAME}@1.0.0:full"], chain, tmp_path)
    again = Lock.model_validate_json(lock.json_file())
    refs = [reference_of(entry, tmp_path) for entry in again.entries]
    assert [chain.open(ref).digest for ref in refs if isinstance(ref, NamedRef)] == [one.digest for one in bundles]


def test_a_damaged_member_is_noticed(tmp_path: Path, write: Callable[..., Path]) -> None:
    store = LocalStore(tmp_path / "registry")
    store.publish(read_any_bundle(write()), NAME, "1.0.0")
    file = tmp_path / "registry" / NAME / "1.0.0" / "full" / "plan.yaml"
    file.chmod(0o644)
    file.write_text(file.read_text().replace("recompute", "frozen") + "\n")
    (file.parent / "more.yaml").write_text("a: 1\n")
    with pytest.raises(
        IntegrityError, match=r"full/more\.yaml: expected no such file.*full/plan\.yaml|full/plan\.yaml"
    ):
        store.get(NamedRef(NAME, member="eight"))


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ("- {name: a, plan: somebody/plan}\n", "published elsewhere"),
        ("- {name: a, plan: int8}\n", "no member is a plan"),
        ("- {name: a, plan: ./nothing}\n", "no file at"),
        (f"- {{name: a, plan: ../bundle, digest: 'sha256:{'0' * 64}'}}\n", "is another plan: expected sha256:0000"),
    ],
)
def test_what_cannot_be_published_as_a_hybrid_is_refused(write: Callable[..., Path], members: str, text: str) -> None:
    with pytest.raises(FlashRLError, match=text):
        read_any_bundle(write(members))


def test_a_plan_has_no_members(store: Store, bundle: PlanBundle) -> None:
    store.publish(bundle, NAME, "1.0.0")
    with pytest.raises(NotFoundError, match=r"is one plan in .* and has no member 'eight'"):
        store.get(NamedRef(NAME, member="eight"))


def test_a_folder_that_holds_a_plan_and_a_hybrid_is_refused_by_commands_and_engines_alike(
    write: Callable[..., Path], other_bundle: PlanBundle
) -> None:
    folder = write()
    for name in ("plan.yaml", "plan.json"):
        (folder / name).write_bytes((other_bundle.files[0].parent / name).read_bytes())
        for read in (read_any_bundle, read_bundle, lambda path: open_hybrid(parse_ref(str(path)))):
            with pytest.raises(InvalidRefError, match=f"holds a plan \\({name}\\) and a hybrid") as caught:
                read(folder)
            assert str(folder / "hybrid.yaml") in str(caught.value.hint)
        assert isinstance(read_any_bundle(folder / "hybrid.yaml"), HybridBundle)
        assert read_any_bundle(folder / name).digest == other_bundle.digest
        (folder / name).unlink()


def test_a_plan_is_not_pulled_into_a_folder_of_a_hybrid_nor_a_hybrid_into_one_of_a_plan(
    tmp_path: Path, write: Callable[..., Path], bundle: PlanBundle
) -> None:
    hybrid = read_any_bundle(write())
    for kind, first, second in (("plan", bundle, hybrid), ("hybrid", hybrid, bundle)):
        folder = tmp_path / f"copy_of_a_{kind}"
        write_any_bundle(folder, first)
        before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        with pytest.raises(RegistryError, match=f"holds a {kind} already"):
            write_any_bundle(folder, second)
        assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before
        write_any_bundle(folder, first)
        assert read_any_bundle(folder).digest == first.digest
