"""Whatever a Hub does wrong, an operation is done exactly once, or nothing is changed and the error says why.

The real client against the git-backed server; what came of an operation is read from git, not from the client.
``docs/hub_faults.md`` lists every fault and what was seen; ``FLASHRL_WRITE_DOCS=1`` rewrites it.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from git_server import Account, Fault, GitHub, serve_git

from flashrl_registry.compiler import compile_plan, preset_rules
from flashrl_registry.documents import Evidence, History, Inventory, Plan
from flashrl_registry.documents.io import parse_document
from flashrl_registry.documents.tensors import TensorSpec
from flashrl_registry.errors import FlashRLError
from flashrl_registry.registry import Chain, NamedRef, PlanBundle, read_bundle, write_bundle
from flashrl_registry.registry.channels import move_channel
from flashrl_registry.registry.evidence import add_evidence
from flashrl_registry.registry.hub import HubStore
from flashrl_registry.registry.hub_client import HubClient
from flashrl_registry.registry.signing import open_signer
from flashrl_registry.registry.standing import standing_of
from flashrl_registry.registry.trust import Trust

pytestmark = pytest.mark.hub

DOCS = Path(__file__).parents[3] / "docs" / "hub_faults.md"
ALWAYS = 10**6
REPO = "team/case"


@dataclass(frozen=True)
class Case:
    """One injected fault.

    Attributes:
        what: For the table.
        fault: What the server does; None where ``before`` does it.
        before: Changes the repository or the account before the operation.
        during: Called by the server's first commit request: somebody else is faster.
    """

    what: str
    fault: Fault | None = None
    before: Callable[["World"], None] | None = None
    during: Callable[["World"], None] | None = None


@dataclass
class World:
    """A repository with one version, two plans, and a client without a cache."""

    hub: GitHub
    repo: str
    plans: list[PlanBundle]
    cache: Path

    def store(self) -> HubStore:
        """A client of its own, as another process has."""
        self.cache = self.cache.with_name(self.cache.name + "x")
        return HubStore(None, self.cache, client=HubClient(self.hub.endpoint, self.cache, sleep=time.sleep))

    def state(self) -> dict[str, Any]:
        """Everything that readers can see, from git."""
        return {
            "heads": self.hub.refs(self.repo, "refs/heads/"), "tags": self.hub.refs(self.repo, "refs/tags/"),
            "proposals": self.hub.refs(self.repo, "refs/pr/"),
        }  # fmt: skip

    def history(self) -> History:
        """The history at the head, from git."""
        return parse_document(self.hub.read(self.repo, "main", "history.json").decode(), "history.json", History)

    def published(self, version: str) -> int:
        """How many times the history has a version."""
        return sum(e.kind == "publish" and e.version == version for e in self.history().events)


def push(world: World) -> str:
    """Publish 2.0.0."""
    published = world.store().publish(world.plans[1], world.repo, "2.0.0")
    assert world.published("2.0.0") == 1
    plan = parse_document(world.hub.read(world.repo, "main", "plan.json").decode(), "plan.json", Plan)
    assert plan.digest == world.plans[1].plan.digest
    tag = world.state()["tags"].get("v2.0.0")
    if published.notes:
        assert tag is None
        assert world.store().get(NamedRef(world.repo, "2.0.0")).plan == world.plans[1].plan  # without its tag
        return "published once; its tag is missing, and said to be"
    assert tag is not None
    return "published once"


def push_signed(world: World) -> str:
    """Publish 2.0.0 with a signature."""
    key = world.cache.with_name("key.pem")
    private = ec.generate_private_key(ec.SECP256R1())
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = world.cache.with_name("key.pub")
    public.write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    signer, store = open_signer(key), world.store()
    store.publish(world.plans[1], world.repo, "2.0.0", signer=signer)
    world.hub.plan = []
    assert [event.key for event in world.history().events if event.kind == "sign"] == [signer.fingerprint]
    trust = Trust((("team/*", (public,)),))
    got = Chain([], lambda _: world.store(), trust=lambda: trust).get(NamedRef(world.repo, "2.0.0"))
    assert (got.plan, got.signed_by) == (world.plans[1].plan, (signer.fingerprint,))
    return "published and signed once"


def measure(world: World) -> str:
    """Put evidence beside 1.0.0."""
    document = Evidence(
        schema_version="flashrl.evidence/v1", plan_digest=world.plans[0].digest, created_at="2026-11-24T10:00:00Z",
        what="note", device="a toy", versions={"vllm": "0.32.0"}, method="looked at",
    )  # fmt: skip
    add_evidence(world.store(), NamedRef(world.repo, "1.0.0"), [document])
    assert [event.evidence for event in world.history().events if event.kind == "evidence"] == [document]
    return "added once"


def propose(world: World) -> str:
    """Propose 2.0.0."""
    world.store().publish(world.plans[1], world.repo, "2.0.0", propose=True)
    assert world.published("2.0.0") == 0
    assert len(world.state()["proposals"]) == 1
    return "proposed once"


def pull(world: World) -> str:
    """Read 1.0.0 without a cache."""
    assert world.store().get(NamedRef(world.repo, "1.0.0")).plan == world.plans[0].plan
    return "the right plan"


def resolve(world: World) -> str:
    """Read what a channel means, with a cache that knows an older answer."""
    store = world.store()
    world.hub.plan, plan = [], world.hub.plan
    assert store.get(NamedRef(world.repo, "stable")).plan == world.plans[0].plan
    other = world.store()
    other.publish(world.plans[1], world.repo, "2.0.0")
    move_channel(other, world.repo, "stable", "2.0.0")
    world.hub.plan = plan
    got = store.get(NamedRef(world.repo, "stable"))
    assert got.plan == world.plans[1].plan, "an older plan, without a word"
    return "the right plan"


def move(world: World) -> str:
    """Move a channel."""
    move_channel(world.store(), world.repo, "next", "1.0.0")
    history = world.history()
    assert standing_of(history).channels["next"] == "1.0.0"
    assert sum(getattr(e, "channel", "") == "next" for e in history.events) == 1
    return "moved once"


def search(world: World) -> str:
    """Find the repository by its scheme."""
    assert world.repo in [line.name for line in world.store().find(["scheme:int8"])]
    return "found"


def take_version(world: World) -> None:
    """Somebody publishes another plan as 2.0.0."""
    world.store().publish(world.plans[2], world.repo, "2.0.0")


def take_next(world: World) -> None:
    """Somebody publishes 3.0.0."""
    world.store().publish(world.plans[2], world.repo, "3.0.0")


def same_version(world: World) -> None:
    """Somebody publishes the same plan as 2.0.0."""
    world.store().publish(world.plans[1], world.repo, "2.0.0")


def move_elsewhere(world: World) -> None:
    """Somebody moves the channel."""
    take_next(world)
    move_channel(world.store(), world.repo, "next", "3.0.0")


def move_tag(world: World) -> None:
    """The tag of 1.0.0 is moved to another plan."""
    take_next(world)
    world.hub.git(world.repo, "update-ref", "refs/tags/v1.0.0", world.state()["heads"]["main"])


def drop_tag(world: World) -> None:
    """The tag of 1.0.0 is removed."""
    world.hub.git(world.repo, "update-ref", "-d", "refs/tags/v1.0.0")


def gate(world: World) -> None:
    """Access has to be asked for."""
    world.hub.faults.gated.add(world.repo)
    world.hub.accounts.clear()
    world.hub.accounts["hf_ann"] = Account("bob", frozenset({"bob"}))


def hide(world: World) -> None:
    """The repository becomes private, and the account loses it."""
    world.hub.private.add(world.repo)
    gate(world)


def read_only(world: World) -> None:
    """The account may read and not write."""
    world.hub.accounts["hf_ann"] = Account("bob", frozenset({"bob"}))


def alter(name: str) -> Callable[[World], None]:
    """Change a file in place, and move the tag to it."""

    def change(world: World) -> None:
        head = world.state()["heads"]["main"]
        data = world.hub.read(world.repo, "main", name)
        changed = {name: data.replace(b"0", b"1", 1) if name.endswith("json") else data + b"# \n"}
        commit = world.hub.write(world.repo, "refs/heads/main", head, changed, [], title="by hand")
        world.hub.git(world.repo, "update-ref", "refs/tags/v1.0.0", commit)

    change.__doc__ = f"{name} is changed by hand, and the tag moved to it."
    return change


def faults(path: str, method: str, name: str, hows: str) -> list[Case]:
    """Faults of one request, once and always."""
    kinds = {
        "503": ("answers 503", {"how": "status"}),
        "500": ("answers 500", {"how": "status", "status": 500}),
        "504": ("answers 504", {"how": "status", "status": 504}),
        "429": ("answers 429", {"how": "status", "status": 429}),
        "409": ("answers 409 (busy)", {"how": "status", "status": 409}),
        "cut": ("connection cut before anything is done", {"how": "drop"}),
        "lost": ("done, and the answer is lost", {"how": "drop-after"}),
        "after": ("done, and answered with 500", {"how": "after", "status": 500}),
        "half": ("half of the body", {"how": "truncate"}),
        "bare": ("the commit's header is missing", {"how": "bare"}),
        "late": ("answers late", {"how": "delay", "seconds": 0.3}),
    }
    cases = []
    for word in hows.split():
        kind, bang = word.removesuffix("!"), word.endswith("!")
        text, options = kinds[kind]
        fault = Fault(path, method=method, times=ALWAYS if bang else 1, **options)  # type: ignore[arg-type]
        cases.append(Case(f"{name}: {text}, {'always' if bang else 'once'}", fault))
    return cases


REFS, COMMIT, TAG = r"/refs$", r"/commit/main", r"/tag/"
TREE, FILE, UPLOAD = r"/tree/", r"/resolve/", r"/preupload/"
CASES: dict[Callable[[World], str], list[Case]] = {
    push: [
        *faults(COMMIT, "POST", "commit", "503 503! 500 504 429 429! 409 409! cut cut! lost lost! after after! late"),
        *faults(UPLOAD, "POST", "preupload", "503 503! cut"),
        *faults(REFS, "GET", "refs", "503 503! cut"),
        *faults(TREE, "GET", "tree", "503 503!"),
        *faults(TAG, "POST", "tag", "503 503! cut lost after"),
        Case("somebody publishes another version meanwhile", during=take_next),
        Case("somebody publishes another plan as this version meanwhile", during=take_version),
        Case("somebody publishes the same plan as this version meanwhile", during=same_version),
        Case("somebody has published another plan as this version", before=take_version),
        Case("the account may only read", before=read_only),
        Case("the repository is private, and the account lost it", before=hide),
    ],
    propose: [
        *faults(COMMIT, "POST", "commit", "503 503! cut! lost lost! after"),
        Case("the account may only read", before=read_only),
    ],
    pull: [
        *faults(REFS, "GET", "refs", "503 503! 500 429 cut cut! half half!"),
        *faults(TREE, "GET", "tree", "503 503! cut half!"),
        *faults(FILE, "GET", "file", "503 503! cut half half! late"),
        *faults(FILE, "HEAD", "file's head", "bare bare! 503"),
        Case("the tag was moved to another plan", before=move_tag),
        Case("the tag was removed", before=drop_tag),
        Case("plan.json was changed by hand and the tag moved", before=alter("plan.json")),
        Case("plan.yaml was changed by hand and the tag moved", before=alter("plan.yaml")),
        Case("manifest.json was changed by hand and the tag moved", before=alter("manifest.json")),
        Case("access has to be asked for", before=gate),
        Case("the repository is private, and the account lost it", before=hide),
    ],
    resolve: [
        *faults(REFS, "GET", "refs", "503 503! 500! 429! cut! half!"),
        *faults(TREE, "GET", "tree", "503! cut!"),
        *faults(FILE, "GET", "file", "503! half!"),
    ],
    move: [
        *faults(COMMIT, "POST", "commit", "503 503! 429 409 409! cut cut! lost lost! after after!"),
        *faults(REFS, "GET", "refs", "503 503!"),
        Case("somebody publishes another version meanwhile", during=take_next),
        Case("somebody moves the channel meanwhile", during=move_elsewhere),
        Case("the account may only read", before=read_only),
    ],
    push_signed: [
        *faults(COMMIT, "POST", "commit", "503 503! cut! lost lost! after"),
        Case("somebody publishes another plan as this version meanwhile", during=take_version),
    ],
    measure: [
        *faults(COMMIT, "POST", "commit", "503 cut! lost lost! after"),
        Case("somebody publishes another version meanwhile", during=take_next),
        Case("the account may only read", before=read_only),
    ],
    search: [*faults(r"/api/models\?", "GET", "list of models", "503 503! cut half!")],
}
TITLES = {
    push: "Push", propose: "Proposal", pull: "Pull without a cache",
    resolve: "A channel that moved, with its older meaning cached", move: "Channel move", search: "Search",
    push_signed: "Push with a signature", measure: "Evidence",
}  # fmt: skip
SEEN: dict[str, dict[str, str]] = {}


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> list[PlanBundle]:
    """Three plans of one model."""
    shapes = {"model.embed_tokens.weight": (32, 16), "model.layers.0.self_attn.o_proj.weight": (16, 16)}
    tensors = [TensorSpec(name=name, shape=list(shape), dtype="bfloat16") for name, shape in shapes.items()]
    inventory = Inventory(
        name="org/toy", architecture="LlamaForCausalLM", model_type="llama", tied_embeddings=True, tensors=tensors
    )
    made = []
    for scheme in ("int8", "bf16", "fp8"):
        folder = tmp_path_factory.mktemp(scheme)
        write_bundle(folder, compile_plan(preset_rules(scheme, inventory), inventory).plan)
        made.append(read_bundle(folder))
    return made


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitHub]:
    """The server."""
    with serve_git(tmp_path_factory.mktemp("hub")) as hub:
        yield hub


@pytest.fixture
def world(
    served: GitHub,
    plans: list[PlanBundle],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    """A repository of its own with 1.0.0, on which ``stable`` stands; waits take a hundredth of their time."""
    really = time.sleep
    monkeypatch.setattr("time.sleep", lambda seconds: really(min(seconds, 100) / 100))
    monkeypatch.setenv("HF_TOKEN", "hf_ann")
    for name, value in (("HF_HUB_OFFLINE", False), ("HF_HUB_DISABLE_TELEMETRY", True)):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    served.plan.clear()
    served.faults.gated.clear()
    served.private.clear()
    served.accounts["hf_ann"] = Account("ann", frozenset({"ann", "team"}))
    world = World(served, REPO, plans, tmp_path / "cache")
    repository, kept = served.git_dir(REPO), tmp_path_factory.getbasetemp() / "published.git"
    if kept.exists():
        shutil.copytree(kept, repository)
    else:
        store = world.store()
        store.publish(plans[0], REPO, "1.0.0")
        move_channel(store, REPO, "stable", "1.0.0")
        shutil.copytree(repository, kept)
    yield world
    shutil.rmtree(repository)


def identity(case: tuple[Callable[[World], str], Case]) -> str:
    return f"{case[0].__name__}-{case[1].what}".replace(" ", "-")


@pytest.mark.parametrize("case", [(do, case) for do, cases in CASES.items() for case in cases], ids=identity)
def test_done_once_or_nothing_changed(case: tuple[Callable[[World], str], Case], world: World) -> None:
    do, what = case
    if what.before is not None:
        what.before(world)
    if what.during is not None:
        world.hub.interrupt(COMMIT, lambda: what.during(world))  # type: ignore[misc]
    world.hub.plan = [] if what.fault is None else [replace(what.fault, path=f"{world.repo}.*{what.fault.path}")]
    if do is search and what.fault is not None:
        world.hub.plan = [replace(what.fault)]
    before = world.state()
    try:
        seen = do(world)
    except FlashRLError as exc:
        world.hub.plan = []
        seen = refused(do, what, exc, world, before)
    finally:
        world.hub.plan = []
        world.hub.interrupts.clear()
    SEEN.setdefault(do.__name__, {})[what.what] = seen


def refused(
    do: Callable[[World], str], case: Case, error: FlashRLError, world: World, before: dict[str, Any]
) -> str:  # fmt: skip
    """What is seen of an operation that ended in an error."""
    assert "hf_ann" not in f"{error} {error.context} {error.__cause__}", "a token in an error"
    if case.during is not None:
        assert world.store().get(NamedRef(world.repo, "1.0.0")).plan == world.plans[0].plan
        return f"`{error.code}`, theirs is there and ours is not"
    if do is not resolve:
        assert world.state() == before, "refused, and changed something"
    return f"`{error.code}`, nothing changed"


def test_the_table_of_faults_is_what_was_seen() -> None:
    total = sum(len(cases) for cases in CASES.values())
    if sum(map(len, SEEN.values())) != total:
        pytest.fail("run the whole file: the table is made from all of its cases")
    lines = [
        "# Faults of a Hub that are injected, and what comes of them", "",
        f"Generated from `tests/integration/hub/test_store_faults.py` ({total} faults), which runs in every",
        "`make test` and fails where something else is seen. The server is a Hub over real git repositories, the",
        "client is the real huggingface_hub, and what came of it is read from git.",
    ]  # fmt: skip
    for do in CASES:
        lines += ["", f"## {TITLES[do]}", "", "| fault | seen |", "|---|---|"]
        lines += [f"| {what} | {seen} |" for what, seen in SEEN[do.__name__].items()]
    text = "\n".join(lines) + "\n"
    if os.environ.get("FLASHRL_WRITE_DOCS"):
        DOCS.write_text(text)
    assert DOCS.read_text() == text
