"""What every store promises, on every store: a folder, a shared mount, an object store in memory, a Hub."""

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flashrl_registry.documents import ChannelEvent, Evidence, Inventory, NoticeEvent, Plan, SignEvent
from flashrl_registry.errors import (
    AlreadyPublishedError,
    ConflictError,
    FlashRLError,
    IntegrityError,
    InvalidRefError,
    NotFoundError,
    RegistryError,
    SignatureError,
    UnsignedError,
    UntrustedError,
)
from flashrl_registry.registry import Chain, LocalStore, NamedRef, PlanBundle, Store, read_bundle, write_bundle
from flashrl_registry.registry.channels import NOBODY, Appended, announce, move_channel, now
from flashrl_registry.registry.evidence import add_evidence, evidence_of
from flashrl_registry.registry.hub import HubStore
from flashrl_registry.registry.hub_client import HubClient
from flashrl_registry.registry.hybrids import read_any_bundle
from flashrl_registry.registry.keeping import verify
from flashrl_registry.registry.signing import open_signer
from flashrl_registry.registry.signing import sign_version as sign_ref
from flashrl_registry.registry.standing import standing_of
from flashrl_registry.registry.store import Listed
from flashrl_registry.registry.trust import Trust
from flashrl_registry.registry.url import UrlStore

HUB = Path(__file__).parents[2] / "integration" / "hub"
NAME = "team/toy-int8"
KINDS = ["local", "file", "memory", pytest.param("hub", marks=pytest.mark.hub)]
Make = Callable[[], Store]


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Opens the same place again and again, as another process would, each time without a cache."""
    cache = lambda: tmp_path / "cache" / uuid.uuid4().hex  # noqa: E731
    if request.param == "local":
        yield lambda: LocalStore(tmp_path / "registry")
    elif request.param == "file":
        (tmp_path / "shared").mkdir()
        yield lambda: UrlStore(f"file://{tmp_path}/shared", cache())
    elif request.param == "memory":
        address = f"memory://{uuid.uuid4().hex}"
        yield lambda: UrlStore(address, cache())
    else:
        monkeypatch.syspath_prepend(HUB)
        from git_server import Account, serve_git

        (tmp_path / "hub").mkdir()
        with serve_git(tmp_path / "hub") as hub:
            hub.accounts["hf_ann"] = Account("ann", frozenset({"ann", "team"}))
            monkeypatch.setenv("HF_TOKEN", "hf_ann")
            monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
            monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)

            def client() -> HubClient:
                return HubClient(hub.endpoint, cache(), sleep=lambda seconds: threading.Event().wait(seconds / 20))

            yield lambda: HubStore(None, tmp_path, client=client())


@pytest.fixture
def store(make: Make) -> Store:
    """The store."""
    return make()


@pytest.fixture
def keys(tmp_path: Path) -> list[Path]:
    """Two private keys; the public half of each lies beside it, as ``.pub``."""
    made = [tmp_path / "ann.pem", tmp_path / "eve.pem"]
    for key in made:
        write_key(key)
    return made


def write_key(key: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    private = ec.generate_private_key(ec.SECP256R1())
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    key.with_suffix(".pub").write_bytes(public)


def sign_version(store: Store, name: str, version: str, key: Path) -> Appended:
    return sign_ref(store, NamedRef(name, version), open_signer(key))


def trusting(store: Store, key: Path, names: str = "team/*") -> Chain:
    """A chain that asks for this key's signature."""
    trust = Trust(((names, (key.with_suffix(".pub"),)),))
    return Chain([store], lambda _: store, trust=lambda: trust)


def evidence(plan_digest: str | None, number: int = 0, **changes: object) -> Evidence:
    data = {
        "plan_digest": plan_digest, "created_at": "2026-11-24T10:00:00Z", "what": "throughput", "device": "a toy",
        "versions": {"vllm": "0.32.0"}, "metrics": {"output": {"value": float(number), "unit": "token/s"}},
        "method": "counted", "schema_version": "flashrl.evidence/v1", **changes,
    }  # fmt: skip
    return Evidence.model_validate(data)


@pytest.fixture
def bundles(tmp_path: Path, inventory: Inventory, plan: Plan) -> list[PlanBundle]:
    """Sixteen plans that differ."""
    made = []
    for number in range(16):
        changed = plan.model_copy(
            update={"engine": plan.engine.model_copy(update={"vllm": f">=0.25.1,<0.34,!=0.30.{number}"})}
        )
        write_bundle(tmp_path / "many" / str(number), changed.sealed())
        made.append(read_bundle(tmp_path / "many" / str(number)))
    return made


def test_what_is_published_comes_back_with_all_its_files(make: Make, bundle: PlanBundle) -> None:
    published = make().publish(bundle, NAME, "1.0.0")
    assert (published.ref, published.created) == (f"{NAME}@1.0.0", True)
    store = make()
    got = store.get(NamedRef(NAME, "1.0.0", bundle.plan.digest))
    assert (got.plan, got.profile) == (bundle.plan, bundle.profile)
    assert got.sidecar is not None
    assert bundle.sidecar is not None
    assert got.sidecar.read_bytes() == bundle.sidecar.read_bytes()
    assert got.source is not None
    assert store.versions(NAME) == ["1.0.0"]
    assert [entry.error for entry in verify(store)] == [None]


def test_the_listing_says_what_a_plan_is_for(store: Store, bundle: PlanBundle) -> None:
    assert list(store.listing()) == []
    store.publish(bundle, NAME, "1.0.0")
    lines = [line for line in store.listing() if isinstance(line, Listed)]
    assert [(line.ref, line.digest, "int8" in line.schemes) for line in lines] == [
        (f"{NAME}@1.0.0", bundle.plan.digest, True)
    ]


def test_publishing_the_same_again_changes_nothing_and_another_plan_is_refused(
    make: Make, bundle: PlanBundle, other_bundle: PlanBundle
) -> None:
    make().publish(bundle, NAME, "1.0.0")
    assert make().publish(bundle, NAME, "1.0.0").created is False
    with pytest.raises(AlreadyPublishedError) as caught:
        make().publish(other_bundle, NAME, "1.0.0")
    assert caught.value.context["expected"] == bundle.plan.digest
    assert caught.value.context["actual"] == other_bundle.plan.digest
    assert make().get(NamedRef(NAME, "1.0.0")).plan == bundle.plan


def test_no_version_means_the_highest_and_a_digest_pins(
    store: Store, bundle: PlanBundle, other_bundle: PlanBundle
) -> None:
    store.publish(other_bundle, NAME, "1.10.0")
    store.publish(bundle, NAME, "1.9.0")
    assert store.versions(NAME) == ["1.9.0", "1.10.0"]
    assert store.get(NamedRef(NAME)).plan == other_bundle.plan
    assert store.get(NamedRef(NAME, "latest")).plan == other_bundle.plan
    with pytest.raises(IntegrityError, match="is not the plan that the reference names"):
        store.get(NamedRef(NAME, "1.9.0", other_bundle.plan.digest))


def test_what_is_not_there_is_said_with_what_is(store: Store, bundle: PlanBundle) -> None:
    with pytest.raises(NotFoundError):
        store.get(NamedRef(NAME))
    assert store.versions(NAME) == []
    store.publish(bundle, NAME, "1.0.0")
    move_channel(store, NAME, "stable", "1.0.0")
    for version in ("1.0.1", "stabel"):
        with pytest.raises(NotFoundError) as caught:
            store.get(NamedRef(NAME, version))
        assert "1.0.0" in str(caught.value.hint)
    with pytest.raises(NotFoundError):
        move_channel(store, NAME, "stable", "9.9.9")
    with pytest.raises(NotFoundError):
        announce(store, "team/none", "1.0.0", "yank", reason="none")


@pytest.mark.parametrize(
    "name", ["team", "../up", "team/..", "team/.hidden", "a/b/c", "team/x y", "/team/x", "team/x\n"]
)
def test_names_stay_names(store: Store, bundle: PlanBundle, name: str) -> None:
    for call in (lambda: store.publish(bundle, name, "1.0.0"), lambda: store.get(NamedRef(name))):
        with pytest.raises((InvalidRefError, NotFoundError)):
            call()
    with pytest.raises(InvalidRefError):
        store.publish(bundle, NAME, "v1")


def test_a_channel_moves_and_keeps_its_history(make: Make, bundle: PlanBundle, other_bundle: PlanBundle) -> None:
    store = make()
    store.publish(bundle, NAME, "1.0.0")
    store.publish(other_bundle, NAME, "2.0.0")
    assert move_channel(store, NAME, "stable", "1.0.0").changed
    assert store.get(NamedRef(NAME, "stable")).plan == bundle.plan
    assert move_channel(store, NAME, "stable", "2.0.0", expected="1.0.0").changed
    assert not move_channel(store, NAME, "stable", "2.0.0").changed
    assert make().get(NamedRef(NAME, "stable")).plan == other_bundle.plan
    moves = [event for event in make().history(NAME).events if event.kind == "channel"]
    assert [(event.previous, event.version) for event in moves] == [(None, "1.0.0"), ("1.0.0", "2.0.0")]
    assert all(event.by and event.at for event in moves)
    for expected in ("1.0.0", NOBODY):
        with pytest.raises(ConflictError, match=r"is at 2\.0\.0"):
            move_channel(store, NAME, "stable", "1.0.0", expected=expected)
    with pytest.raises(InvalidRefError, match="not a channel name"):
        move_channel(store, NAME, "1.0.0", "1.0.0")


def test_an_append_that_saw_an_older_history_is_refused(store: Store, bundle: PlanBundle) -> None:
    store.publish(bundle, NAME, "1.0.0")
    before = store.history(NAME)
    moved = move_channel(store, NAME, "stable", "1.0.0")
    with pytest.raises(ConflictError):
        store.append(NAME, moved.event.model_copy(update={"channel": "other"}), len(before.events))
    assert standing_of(store.history(NAME)).channels == {"stable": "1.0.0"}


def test_deprecated_is_chosen_with_a_warning_and_withdrawn_only_by_its_version(
    make: Make, bundle: PlanBundle, other_bundle: PlanBundle
) -> None:
    store = make()
    store.publish(bundle, NAME, "1.0.0")
    store.publish(other_bundle, NAME, "1.1.0")
    announce(store, NAME, "1.1.0", "deprecate", reason="clips", replacement="1.2.0")
    got = make().get(NamedRef(NAME))
    assert got.plan == other_bundle.plan
    assert len(got.warnings) == 1
    assert "deprecated" in got.warnings[0]
    assert "clips; use 1.2.0" in got.warnings[0]
    announce(store, NAME, "1.1.0", "yank", reason="wrong")
    assert make().get(NamedRef(NAME)).plan == bundle.plan
    assert "withdrawn" in make().get(NamedRef(NAME, "1.1.0")).warnings[0]
    with pytest.raises(NotFoundError, match="withdrawn"):
        move_channel(store, NAME, "stable", "1.1.0")
    announce(store, NAME, "1.0.0", "yank", reason="wrong too")
    with pytest.raises(NotFoundError, match="every version"):
        make().get(NamedRef(NAME))
    announce(store, NAME, "1.0.0", "restore", reason="it was the driver")
    assert make().get(NamedRef(NAME)).warnings == ()
    move_channel(store, NAME, "stable", "1.0.0")
    with pytest.raises(RegistryError, match="'stable' points at it"):
        announce(store, NAME, "1.0.0", "yank", reason="again")


def test_sixteen_who_publish_different_versions_at_once_all_publish(make: Make, bundles: list[PlanBundle]) -> None:
    def publish(number: int) -> bool:
        return make().publish(bundles[number], NAME, f"1.{number}.0").created

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(publish, range(16))) == [True] * 16
    store = make()
    assert store.versions(NAME) == [f"1.{number}.0" for number in range(16)]
    for number, bundle in enumerate(bundles):
        assert store.get(NamedRef(NAME, f"1.{number}.0")).plan == bundle.plan


def test_of_sixteen_who_publish_the_same_version_at_once_one_wins(make: Make, bundles: list[PlanBundle]) -> None:
    def publish(bundle: PlanBundle) -> tuple[bool, str | None] | FlashRLError:
        try:
            return make().publish(bundle, NAME, "1.0.0").created, bundle.plan.digest
        except (AlreadyPublishedError, ConflictError) as exc:
            return exc

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(publish, bundles))
    winners = [result for result in results if not isinstance(result, FlashRLError)]
    assert len(winners) == 1
    assert winners[0] == (True, make().get(NamedRef(NAME, "1.0.0")).plan.digest)


def test_of_sixteen_who_publish_the_same_plan_at_once_one_creates_it(make: Make, bundles: list[PlanBundle]) -> None:
    with ThreadPoolExecutor(16) as pool:
        created = list(pool.map(lambda _: make().publish(bundles[0], NAME, "1.0.0").created, range(16)))
    assert sum(created) == 1


def test_of_sixteen_who_move_a_new_channel_at_once_one_wins(make: Make, bundles: list[PlanBundle]) -> None:
    for number in range(8):
        make().publish(bundles[number], NAME, f"1.{number}.0")

    def move(number: int) -> bool:
        try:
            return move_channel(make(), NAME, "stable", f"1.{number}.0", expected=NOBODY).changed
        except ConflictError:
            return False

    with ThreadPoolExecutor(8) as pool:
        moved = list(pool.map(move, range(8)))
    assert sum(moved) == 1
    history = make().history(NAME)
    assert standing_of(history).channels == {"stable": f"1.{moved.index(True)}.0"}
    assert sum(event.kind == "channel" for event in history.events) == 1


def test_a_signed_version_is_used_and_stays_what_it_was(make: Make, bundle: PlanBundle, keys: list[Path]) -> None:
    store = make()
    store.publish(bundle, NAME, "1.0.0")
    before = store.open(NamedRef(NAME, "1.0.0")).manifest
    with pytest.raises(UnsignedError, match="is not signed"):
        trusting(make(), keys[0]).get(NamedRef(NAME))
    first = sign_version(make(), NAME, "1.0.0", keys[0])
    assert first.changed
    assert not sign_version(make(), NAME, "1.0.0", keys[0]).changed, "one key signs once"
    got = trusting(make(), keys[0]).get(NamedRef(NAME, "1.0.0", bundle.plan.digest))
    assert isinstance(first.event, SignEvent)
    assert (got.plan, got.manifest, got.signed_by) == (bundle.plan, before, (first.event.key,))
    assert make().publish(bundle, NAME, "1.0.0").created is False


def test_only_a_trusted_key_will_do_and_one_of_several_signatures_is_enough(
    make: Make, bundle: PlanBundle, keys: list[Path]
) -> None:
    make().publish(bundle, NAME, "1.0.0")
    stranger = sign_version(make(), NAME, "1.0.0", keys[1]).event
    assert isinstance(stranger, SignEvent)
    with pytest.raises(UntrustedError) as caught:
        trusting(make(), keys[0]).get(NamedRef(NAME))
    assert caught.value.context["signed_by"] == [stranger.key]
    with pytest.raises(UntrustedError):
        trusting(make(), keys[0], "TEAM/t*").get(NamedRef(NAME)), "upper and lower case are the same"
    assert trusting(make(), keys[0], "other/*").get(NamedRef(NAME)).plan == bundle.plan, "nobody asked for one"
    sign_version(make(), NAME, "1.0.0", keys[0])
    assert trusting(make(), keys[0]).get(NamedRef(NAME)).plan == bundle.plan


def test_a_signature_of_one_version_or_name_does_nothing_for_another(
    make: Make, bundle: PlanBundle, other_bundle: PlanBundle, keys: list[Path]
) -> None:
    store = make()
    store.publish(bundle, NAME, "1.0.0")
    signed = sign_version(store, NAME, "1.0.0", keys[0]).event
    store.publish(bundle, NAME, "1.0.1")
    store.publish(other_bundle, NAME, "2.0.0")
    store.publish(bundle, "team/copy", "1.0.0")
    assert isinstance(signed, SignEvent)
    for name, version in ((NAME, "1.0.1"), (NAME, "2.0.0"), ("team/copy", "1.0.0")):
        store = make()
        store.append(name, signed.model_copy(update={"version": version}), len(store.history(name).events))
        with pytest.raises(SignatureError, match="made for another name, version or content") as caught:
            trusting(make(), keys[0]).get(NamedRef(name, version))
        assert caught.value.code == "signature"
    assert trusting(make(), keys[0]).get(NamedRef(NAME, "1.0.0")).plan == bundle.plan
    sign_version(make(), NAME, "2.0.0", keys[0])
    assert trusting(make(), keys[0]).get(NamedRef(NAME)).plan == other_bundle.plan, "what was replayed hides nothing"


def test_a_signature_that_was_changed_or_cut_is_refused(make: Make, bundle: PlanBundle, keys: list[Path]) -> None:
    make().publish(bundle, NAME, "1.0.0")
    good = sign_version(LocalCopy(make()), NAME, "1.0.0", keys[0]).event
    assert isinstance(good, SignEvent)
    head, _, tail = good.signature.partition('"sig":"')
    other = sign_version(LocalCopy(make()), NAME, "1.0.0", keys[1]).event
    assert isinstance(other, SignEvent)
    changed = [
        good.signature[:-2],
        good.signature.replace('"keyid"', '"keyId"'),
        good.signature[:-1] + ', "dsse_envelope": {}}',
        head + '"sig":"' + "A" * 8 + tail[8:],
        other.signature,
        "{}",
        "[" * 4000,
    ]
    for signature in changed:
        store = make()
        forged = good.model_copy(update={"signature": signature})
        store.append(NAME, forged, len(store.history(NAME).events))
        with pytest.raises(SignatureError, match="is not of what is there"):
            trusting(make(), keys[0]).get(NamedRef(NAME))
    assert sign_version(make(), NAME, "1.0.0", keys[0]).changed, "a forged one does not keep its owner from signing"
    assert trusting(make(), keys[0]).get(NamedRef(NAME)).plan == bundle.plan


class LocalCopy:
    """A store whose history takes nothing, to get an event without its being published."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def append(self, *_: object) -> None:
        return None

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


def test_a_signed_hybrid_vouches_for_each_of_its_plans(
    make: Make, bundle: PlanBundle, other_bundle: PlanBundle, tmp_path: Path, keys: list[Path]
) -> None:
    (tmp_path / "job").mkdir()
    members = "- {name: eight, plan: ../bundle}\n- {name: full, plan: ../other}\n"
    (tmp_path / "job" / "hybrid.yaml").write_text(f"schema_version: flashrl.hybrid/v1\nmembers:\n{members}")
    hybrid = read_any_bundle(tmp_path / "job")
    make().publish(hybrid, NAME, "1.0.0")
    with pytest.raises(UnsignedError):
        trusting(make(), keys[0]).get(NamedRef(NAME, member="full"))
    sign_version(make(), NAME, "1.0.0", keys[0])
    chain = trusting(make(), keys[0])
    assert chain.open(NamedRef(NAME)).digest == hybrid.digest
    assert chain.get(NamedRef(NAME, member="eight")).plan == bundle.plan
    assert chain.get(NamedRef(NAME, member="full")).signed_by
    [added] = add_evidence(make(), NamedRef(NAME), [evidence(hybrid.digest, 3)])
    assert added.changed
    with pytest.raises(IntegrityError, match="of another plan"):
        add_evidence(make(), NamedRef(NAME), [evidence(bundle.plan.digest, 3)])


def test_verify_names_every_channel_that_leads_nowhere_once(store: Store, bundle: PlanBundle) -> None:
    store.publish(bundle, NAME, "1.0.0")
    move_channel(store, NAME, "good", "1.0.0")
    at, by = now(), store.whoami()
    for channel in ("gone", "bad"):  # as another program could write, or two people at once
        version = "9.9.9" if channel == "gone" else "1.0.0"
        store.append(NAME, ChannelEvent(at=at, by=by, channel=channel, version=version), _length(store))
    assert [entry.ref for entry in verify(store) if entry.error] == [f"{NAME}@gone"]
    notice = NoticeEvent(kind="yank", at=at, by=by, version="1.0.0", reason="wrong logprobs")
    store.append(NAME, notice, _length(store))
    found = {entry.ref: entry.error and entry.error.message for entry in verify(store)}
    assert sorted(found) == sorted([f"{NAME}@1.0.0", f"{NAME}@bad", f"{NAME}@gone", f"{NAME}@good"])
    assert found[f"{NAME}@1.0.0"] is None, "its bytes are what was published"
    assert "points at 9.9.9, which is not there" in str(found[f"{NAME}@gone"])
    assert "was withdrawn" in str(found[f"{NAME}@bad"])


def _length(store: Store) -> int:
    return len(store.history(NAME).events)


def test_verify_finds_what_nobody_signed(store: Store, bundle: PlanBundle, keys: list[Path]) -> None:
    store.publish(bundle, NAME, "1.0.0")
    store.publish(bundle, "ann/toy", "1.0.0")
    sign_version(store, NAME, "1.0.0", keys[0])
    trust = Trust((("team/*", (keys[0].with_suffix(".pub"),)),), required=True)
    found = {entry.ref: entry.error and entry.error.code for entry in verify(store, trust)}
    assert found == {f"{NAME}@1.0.0": None, "ann/toy@1.0.0": "untrusted"}


def test_evidence_lies_beside_a_version_and_changes_nothing_of_it(
    make: Make, bundle: PlanBundle, other_bundle: PlanBundle
) -> None:
    store = make()
    store.publish(bundle, NAME, "1.0.0")
    store.publish(other_bundle, NAME, "2.0.0")
    before = store.open(NamedRef(NAME, "1.0.0")).manifest
    mine = evidence(bundle.plan.digest, 7)
    assert [one.changed for one in add_evidence(make(), NamedRef(NAME, "1.0.0"), [mine, mine])] == [True, False]
    got = make().get(NamedRef(NAME, "1.0.0", bundle.plan.digest))
    assert (got.plan, got.manifest) == (bundle.plan, before)
    assert [event.evidence for event in evidence_of(got.history, "1.0.0", got.plan.digest or "")] == [mine]
    assert evidence_of(make().history(NAME), "2.0.0", other_bundle.plan.digest or "") == []
    move_channel(make(), NAME, "stable", "1.0.0")
    assert not add_evidence(make(), NamedRef(NAME, "stable"), [mine])[0].changed, "a channel names it too"


def test_evidence_of_another_plan_or_too_much_of_it_is_refused_before_any_is_added(
    make: Make, bundle: PlanBundle, other_bundle: PlanBundle
) -> None:
    make().publish(bundle, NAME, "1.0.0")
    mine = evidence(bundle.plan.digest)
    with pytest.raises(IntegrityError, match="of another plan") as caught:
        add_evidence(make(), NamedRef(NAME, "1.0.0"), [mine, evidence(other_bundle.plan.digest)])
    assert caught.value.context["actual"] == other_bundle.plan.digest
    large = evidence(bundle.plan.digest, **{"x-log": "line " * 4000})
    with pytest.raises(RegistryError, match="at most 16384 are kept"):
        add_evidence(make(), NamedRef(NAME, "1.0.0"), [mine, large])
    with pytest.raises(NotFoundError):
        add_evidence(make(), NamedRef(NAME, "3.0.0"), [mine])
    assert evidence_of(make().history(NAME), "1.0.0", bundle.plan.digest or "") == []


def test_eight_who_add_evidence_and_sign_at_once_lose_nothing(make: Make, bundle: PlanBundle, keys: list[Path]) -> None:
    make().publish(bundle, NAME, "1.0.0")

    def add(number: int) -> bool:
        if number == 0:
            return sign_version(make(), NAME, "1.0.0", keys[0]).changed
        document = evidence(bundle.plan.digest, number)
        return add_evidence(make(), NamedRef(NAME, "1.0.0"), [document])[0].changed

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(add, range(8))) == [True] * 8
    got = trusting(make(), keys[0]).get(NamedRef(NAME))
    found = evidence_of(got.history, "1.0.0", bundle.plan.digest or "")
    assert sorted(event.evidence.metrics["output"].value for event in found) == [
        float(number) for number in range(1, 8)
    ]
