"""The local registry: published once, never changed, checked at every read."""

import itertools
import multiprocessing
import os
import shutil
import stat
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from flashrl_registry.documents import Manifest, read_document
from flashrl_registry.errors import (
    AlreadyPublishedError,
    FlashRLError,
    IntegrityError,
    InvalidRefError,
    NotFoundError,
    StoreUnavailableError,
)
from flashrl_registry.registry import (
    LocalStore,
    NamedRef,
    PlanBundle,
    default_registry_root,
    read_bundle,
    validate_paths,
    write_bundle,
)

NAME = "team/toy-int8"


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "registry")


def contents(folder: Path) -> dict[str, bytes]:
    """Everything a reader can see: files of published versions, by path."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not file.relative_to(folder).parts[0].startswith(".")
    }


def test_what_is_published_is_got_back(store: LocalStore, bundle: PlanBundle) -> None:
    published = store.publish(bundle, NAME, "1.0.0")
    assert published.created
    assert published.ref == "team/toy-int8@1.0.0"
    assert published.folder == store.root / "team" / "toy-int8" / "1.0.0"
    got = store.get(NamedRef(NAME, "1.0.0"))
    assert (got.plan, got.profile) == (bundle.plan, bundle.profile)
    assert got.sidecar is not None
    assert bundle.sidecar is not None
    assert got.sidecar.read_bytes() == bundle.sidecar.read_bytes()
    assert str(store.root) in got.origin


def test_the_manifest_lists_every_file(store: LocalStore, bundle: PlanBundle) -> None:
    folder = store.publish(bundle, NAME, "1.0.0").folder
    manifest = read_document(folder / "manifest.json", Manifest)
    assert {entry.path for entry in manifest.files} | {"manifest.json"} == {file.name for file in folder.iterdir()}
    assert manifest.plan_digest == bundle.plan.digest
    assert manifest.base_model == "toy"
    assert manifest.schemes == ["bf16", "int8"]


def test_published_files_are_read_only(store: LocalStore, bundle: PlanBundle) -> None:
    folder = store.publish(bundle, NAME, "1.0.0").folder
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o444}


def test_a_published_version_can_be_pulled_and_published_elsewhere(
    store: LocalStore, bundle: PlanBundle, tmp_path: Path
) -> None:
    store.publish(bundle, NAME, "1.0.0")
    got = store.get(NamedRef(NAME))
    write_bundle(tmp_path / "pulled", got.plan, profile=got.profile, sidecar=got.sidecar)
    write_bundle(tmp_path / "pulled", got.plan, profile=got.profile, sidecar=got.sidecar)
    other = LocalStore(tmp_path / "elsewhere")
    assert (
        other.publish(read_bundle(tmp_path / "pulled"), "me/copy", "0.1.0").manifest.plan_digest == bundle.plan.digest
    )


def test_publishing_the_same_again_changes_nothing_and_says_so(store: LocalStore, bundle: PlanBundle) -> None:
    store.publish(bundle, NAME, "1.0.0")
    before = contents(store.root)
    again = store.publish(bundle, NAME, "1.0.0")
    assert not again.created
    assert contents(store.root) == before


def test_other_content_under_a_published_version_is_refused(
    store: LocalStore, bundle: PlanBundle, other_bundle: PlanBundle
) -> None:
    store.publish(bundle, NAME, "1.0.0")
    before = contents(store.root)
    with pytest.raises(AlreadyPublishedError, match="it differs in rules, profile, smoothing, tensors") as caught:
        store.publish(other_bundle, NAME, "1.0.0")
    assert caught.value.context["expected"] == bundle.plan.digest
    assert caught.value.context["actual"] == other_bundle.plan.digest
    assert contents(store.root) == before


def test_no_version_means_the_highest(store: LocalStore, bundle: PlanBundle, other_bundle: PlanBundle) -> None:
    for version in ("1.10.0", "1.9.0", "0.99.0"):
        store.publish(bundle, NAME, version)
    store.publish(other_bundle, NAME, "1.10.1")
    assert store.versions(NAME) == ["0.99.0", "1.9.0", "1.10.0", "1.10.1"]
    assert store.get(NamedRef(NAME)).plan == other_bundle.plan


def test_the_list_is_in_order(store: LocalStore, bundle: PlanBundle) -> None:
    assert store.list() == []
    for name, version in (("b/x", "1.0.0"), ("a/y", "2.0.0"), ("a/y", "10.0.0"), ("a/b", "1.0.0")):
        store.publish(bundle, name, version)
    assert [entry.ref for entry in store.list()] == ["a/b@1.0.0", "a/y@2.0.0", "a/y@10.0.0", "b/x@1.0.0"]


def test_unknown_names_and_versions_are_answered_with_the_nearest(store: LocalStore, bundle: PlanBundle) -> None:
    store.publish(bundle, NAME, "1.0.0")
    with pytest.raises(NotFoundError, match=r"nearest names: team/toy-int8") as caught:
        store.get(NamedRef("team/toy-int4"))
    assert caught.value.context["stores"] == [str(store.root)]
    with pytest.raises(NotFoundError, match=r"published versions: 1\.0\.0"):
        store.get(NamedRef(NAME, "1.0.1"))
    with pytest.raises(NotFoundError, match="0 names are published there"):
        LocalStore(store.root / "none").get(NamedRef(NAME))


@pytest.mark.parametrize(
    "name",
    ["../x", "a/..", "a/../b", "/a/b", "a", "a/b/c", ".staging/x", "a/.x", "a/b\n", "a\\b", "a/b@1", ""],
)
def test_names_cannot_leave_the_folder(store: LocalStore, bundle: PlanBundle, name: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InvalidRefError):
        store.publish(bundle, name, "1.0.0")
    with pytest.raises(InvalidRefError):
        store.get(NamedRef(name))
    assert sorted(tmp_path.rglob("*")) == before
    assert store.versions(name) == []


@pytest.mark.parametrize("version", ["1", "1.0", "v1.0.0", "1.0.0-rc1", "01.0.0", "../1.0.0", "1.0.0\n", ""])
def test_versions_are_semantic(store: LocalStore, bundle: PlanBundle, version: str) -> None:
    with pytest.raises(InvalidRefError, match="is not a version"):
        store.publish(bundle, NAME, version)


def damage(change: Callable[[Path], object], file: Path) -> None:
    file.chmod(0o644)
    change(file)


CHANGES: dict[str, Callable[[Path], object]] = {
    "a byte more": lambda file: file.write_bytes(file.read_bytes() + b"\n"),
    "another byte": lambda file: file.write_bytes(file.read_bytes()[:-2] + b"X\n"),
    "cut short": lambda file: file.write_bytes(file.read_bytes()[:5]),
    "empty": lambda file: file.write_bytes(b""),
    "missing": lambda file: file.unlink(),
}


FILES = ("manifest.json", "plan.yaml", "plan.json", "profile.yaml", "sidecar")


@pytest.mark.parametrize(
    ("name", "change"),
    # White space after JSON makes no other manifest; its content is what its digest covers.
    [pair for pair in itertools.product(FILES, CHANGES) if pair != ("manifest.json", "a byte more")],
)
def test_every_altered_byte_is_refused(store: LocalStore, bundle: PlanBundle, name: str, change: str) -> None:
    folder = store.publish(bundle, NAME, "1.0.0").folder
    if name == "sidecar":
        assert bundle.sidecar is not None
        name = bundle.sidecar.name
    damage(CHANGES[change], folder / name)
    with pytest.raises(IntegrityError) as caught:
        store.get(NamedRef(NAME, "1.0.0"))
    assert str(folder) in str(caught.value)
    if name != "manifest.json":
        assert name in caught.value.context["expected"]
        assert caught.value.context["expected"] != caught.value.context["actual"]
    with pytest.raises(IntegrityError):
        store.publish(bundle, NAME, "1.0.0")


def test_all_altered_files_are_named_at_once(store: LocalStore, bundle: PlanBundle) -> None:
    folder = store.publish(bundle, NAME, "1.0.0").folder
    for name in ("plan.yaml", "profile.yaml"):
        damage(CHANGES["a byte more"], folder / name)
    (folder / "extra.yaml").write_text("x")
    with pytest.raises(IntegrityError) as caught:
        store.get(NamedRef(NAME))
    assert set(caught.value.context["actual"]) == {"plan.yaml", "profile.yaml", "extra.yaml"}


def test_a_consistent_forgery_does_not_pass_for_the_pinned_plan(
    store: LocalStore, bundle: PlanBundle, other_bundle: PlanBundle
) -> None:
    store.publish(other_bundle, NAME, "1.0.0")
    assert store.get(NamedRef(NAME, "1.0.0", other_bundle.plan.digest))
    with pytest.raises(IntegrityError, match="is not the plan that the reference names") as caught:
        store.get(NamedRef(NAME, "1.0.0", bundle.plan.digest))
    assert caught.value.context["expected"] == bundle.plan.digest


def test_a_version_moved_to_another_name_is_refused(store: LocalStore, bundle: PlanBundle) -> None:
    folder = store.publish(bundle, NAME, "1.0.0").folder
    shutil.copytree(folder, store.root / "team" / "toy-int8" / "2.0.0")
    with pytest.raises(IntegrityError, match=r"is not the manifest of team/toy-int8@2\.0\.0"):
        store.get(NamedRef(NAME))


def test_a_damaged_version_does_not_hide_the_others(store: LocalStore, bundle: PlanBundle) -> None:
    folder = store.publish(bundle, NAME, "1.0.0").folder
    store.publish(bundle, NAME, "1.1.0")
    damage(CHANGES["cut short"], folder / "manifest.json")
    found, damaged = store.scan()
    assert [entry.version for entry in found] == ["1.1.0"]
    assert len(damaged) == 1
    with pytest.raises(IntegrityError, match=r"team/toy-int8@1\.0\.0"):
        store.list()
    assert store.get(NamedRef(NAME, "1.1.0")).plan == bundle.plan


def test_a_sidecar_that_changed_since_it_was_read_is_not_published(store: LocalStore, bundle: PlanBundle) -> None:
    assert bundle.sidecar is not None
    bundle.sidecar.write_bytes(b"changed")
    with pytest.raises(IntegrityError):
        store.publish(bundle, NAME, "1.0.0")
    assert contents(store.root) == {}
    assert store.versions(NAME) == []


def test_files_that_do_not_belong_are_ignored_in_lists(store: LocalStore, bundle: PlanBundle) -> None:
    store.publish(bundle, NAME, "1.0.0")
    (store.root / "team" / "README").write_text("x")
    (store.root / "team" / "toy-int8" / "draft").mkdir()
    (store.root / "notes.txt").write_text("x")
    assert [entry.ref for entry in store.list()] == ["team/toy-int8@1.0.0"]


def test_a_registry_that_cannot_be_written_says_where_and_what_to_do(bundle: PlanBundle, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(StoreUnavailableError, match="cannot be written") as caught:
        LocalStore(blocked / "registry").publish(bundle, NAME, "1.0.0")
    assert "FLASHRL_REGISTRY" in str(caught.value)


def test_the_root_is_the_variable_or_the_users_data_folder(tmp_path: Path) -> None:
    assert default_registry_root({"FLASHRL_REGISTRY": str(tmp_path)}) == tmp_path
    assert default_registry_root({"FLASHRL_REGISTRY": "~/x"}) == Path.home() / "x"
    assert default_registry_root({"FLASHRL_REGISTRY": " "}) == default_registry_root({})
    assert default_registry_root({}).name == "flashrl-registry"


def publish_or_say(root: Path, folder: Path, version: str, results: "multiprocessing.Queue[str]") -> None:
    try:
        results.put(str(LocalStore(root).publish(read_bundle(folder), NAME, version).created))
    except FlashRLError as exc:
        results.put(exc.code)


def test_of_many_that_publish_at_once_one_wins(store: LocalStore, bundle: PlanBundle, other_bundle: PlanBundle) -> None:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[str] = context.Queue()
    folders = [Path(bundle.origin), Path(other_bundle.origin), Path(bundle.origin)]
    workers = [
        context.Process(target=publish_or_say, args=(store.root, folder, "1.0.0", results)) for folder in folders
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    got = sorted(results.get(timeout=5) for _ in workers)
    assert got in (["False", "True", "already-published"], ["True", "already-published", "already-published"])
    winner = store.get(NamedRef(NAME)).plan.digest
    assert winner in {bundle.plan.digest, other_bundle.plan.digest}
    assert contents(store.root).keys() >= {"team/toy-int8/1.0.0/manifest.json"}
    assert not list((store.root).glob(".staging/*"))


# Every change of the file system that Python makes is announced as one of these.
STEPS = {
    "open", "os.rename", "os.mkdir", "os.chmod", "os.remove", "os.rmdir", "shutil.copyfile", "tempfile.mkdtemp",
    "tempfile.mkstemp",
}  # fmt: skip


def killed_at(step: int, publish: Callable[[], object]) -> bool:
    """Publish in a child that ends at once, cleaning up nothing, before its step-th change; False if it finished."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other tests may have left threads; the child needs none
        pid = os.fork()
    if pid == 0:
        done = 0

        def watch(event: str, _: object) -> None:
            nonlocal done
            done += event in STEPS
            if done > step:
                os._exit(9)

        sys.addaudithook(watch)
        publish()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9


def test_killed_at_any_point_the_registry_is_as_before_or_as_after(
    store: LocalStore, bundle: PlanBundle, other_bundle: PlanBundle
) -> None:
    store.publish(other_bundle, NAME, "1.0.0")
    before = contents(store.root)
    steps, seen = 0, set()
    while killed_at(steps, lambda: store.publish(bundle, NAME, "2.0.0")):
        now = contents(store.root)
        versions = store.versions(NAME)
        assert {path: data for path, data in now.items() if "/1.0.0/" in path} == before
        if versions == ["1.0.0"]:
            assert now == before, f"step {steps}: half a version is visible"
        else:
            assert store.get(NamedRef(NAME, "2.0.0")).plan == bundle.plan
        assert [entry.version for entry in store.list()] == versions
        seen.add(len(versions))
        if len(versions) == 2:  # take it away, so that later steps run the whole publish again
            shutil.rmtree(store.root / "team" / "toy-int8" / "2.0.0")
        steps += 1
    assert steps > 20
    assert seen == {1, 2}
    assert store.get(NamedRef(NAME)).plan == bundle.plan
    assert contents(store.root).keys() > before.keys()
    assert list((store.root / ".staging").glob("*")) == []


def test_validate_finds_documents_and_checks_folders_as_a_whole(bundle: PlanBundle, tmp_path: Path) -> None:
    folder = Path(bundle.origin)
    (folder / "other.yaml").write_text("somebody: else\n")
    (folder / "broken.yaml").write_text("schema_version: flashrl.rules/v1\nrules: [\n")
    verdicts = {verdict.path.name: verdict for verdict in validate_paths([folder])}
    assert set(verdicts) == {"plan.yaml", "plan.json", "profile.yaml", "broken.yaml"}
    assert [name for name, verdict in verdicts.items() if verdict.error] == ["broken.yaml"]
    assert verdicts["plan.yaml"].digest == bundle.plan.digest
    assert bundle.sidecar is not None
    bundle.sidecar.write_bytes(b"changed")
    wrong = [verdict.path.name for verdict in validate_paths([folder]) if verdict.error]
    assert wrong == ["broken.yaml", "plan.yaml", "profile.yaml"]
    assert validate_paths([folder / "other.yaml"])[0].error is not None, "a file named on purpose must be a document"
    assert validate_paths([tmp_path / "none"])[0].error is not None
