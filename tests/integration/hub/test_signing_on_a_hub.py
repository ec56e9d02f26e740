"""Signatures and evidence on a Hub: machines that share nothing but the Hub and a public key."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Ran
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from git_server import GitHub
from test_hub_commands import NAME, OTHER, PLAN, TOKEN, hub, ok, user

from flashrl_registry.registry import read_bundle

pytestmark = pytest.mark.hub
__all__ = ["hub", "user"]  # fixtures
User = Callable[..., Ran]


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """The team's private key; the public one is beside it, and in a list that trusts it for the team."""
    private = ec.generate_private_key(ec.SECP256R1())
    file = tmp_path / "team.pem"
    file.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    file.with_suffix(".pub").write_bytes(public)
    listed = "publishers:\n- {names: 'team/*', keys: [team.pub]}\n"
    (tmp_path / "trusted.yaml").write_text(f"schema_version: flashrl.trusted/v1\n{listed}")
    return file


def error(ran: Ran) -> str:
    assert ran.code == 1, ran.out + ran.err
    code: str = ran.json["error"]["code"]
    return code


def test_a_signed_plan_is_locked_and_used_offline_on_another_machine(
    tmp_path: Path, hub: GitHub, user: User, key: Path
) -> None:
    trusted = {"machine": "two", "FLASHRL_TRUSTED": str(tmp_path / "trusted.yaml")}
    ok(user("push", PLAN, f"hf://{NAME}@1.0.0"))
    ok(user("channel", "set", f"hf://{NAME}", "stable", "1.0.0"))
    tag = hub.commit_of(NAME, "v1.0.0")
    assert error(user("pull", f"{NAME}@stable", "--json", **trusted)) == "unsigned"
    assert "is not signed" in user("pull", f"{NAME}@stable", **trusted).err
    signed = ok(user("sign", f"hf://{NAME}@1.0.0", "--signing-key", key, "--json")).json["signed_by"]
    assert hub.log(NAME)[0] == "Sign v1.0.0"
    assert hub.commit_of(NAME, "v1.0.0") == tag, "the version stays where it was"
    assert ok(user("pull", f"{NAME}@stable", "--json", **trusted)).json["signed_by"] == [signed]
    ok(user("lock", f"{NAME}@stable", **trusted))
    asked = len(hub.requests)
    for how in ({}, {"HF_HUB_OFFLINE": "1"}):
        shown = ok(user("show", "flashrl.lock", "--json", **trusted, **how)).json
        assert shown["signed_by"] == [signed]
    assert len(hub.requests) == asked, "what is locked, cached and signed asks nobody"

    lock = (tmp_path / "two" / "flashrl.lock").read_text()
    (tmp_path / "three").mkdir()
    (tmp_path / "three" / "flashrl.lock").write_text(lock)
    fresh = ok(user("pull", "flashrl.lock", "--json", **{**trusted, "machine": "three"})).json
    assert fresh["plans"][0]["signed_by"] == [signed], "the lock's commit is older than the signature"


def test_whoever_may_write_to_the_repository_cannot_replace_a_signed_plan(
    tmp_path: Path, hub: GitHub, user: User, key: Path
) -> None:
    ok(user("push", PLAN, f"hf://{NAME}@1.0.0", "--signing-key", key))
    assert hub.log(NAME) == ["Publish v1.0.0", "initial"], "a version and its signature are one commit"
    ok(user("push", PLAN, f"hf://{NAME}@1.0.0", "--signing-key", key))
    assert hub.log(NAME) == ["Publish v1.0.0", "initial"]
    ok(user("push", OTHER, f"hf://{NAME}@1.0.1"))
    require = ("--require-signature", "--trusted", key.with_suffix(".pub"), "--json")
    ok(user("pull", f"hf://{NAME}@1.0.0", *require, machine="two"))
    assert error(user("pull", f"hf://{NAME}", *require, machine="two")) == "unsigned"
    history = json.loads(hub.read(NAME, "main", "history.json"))
    [event] = [event for event in history["events"] if event["kind"] == "sign"]
    history["events"].append({**event, "version": "1.0.1"})
    head, replayed = hub.commit_of(NAME, "main"), {"history.json": json.dumps(history).encode()}
    hub.write(NAME, "refs/heads/main", head, replayed, [], title="a replay")
    assert error(user("pull", f"hf://{NAME}@1.0.1", *require, machine="three")) == "signature"
    assert error(user("pull", f"hf://{NAME}@main", *require, machine="three")) == "signature"
    file = user("pull", f"{NAME}/plan.yaml", *require, machine="three")
    assert error(file) == "unsigned", "a file in a repository is no published version"
    ok(user("pull", f"hf://{NAME}@{hub.commit_of(NAME, 'v1.0.0')}", *require, machine="three"))


def test_a_proposal_carries_its_authors_signature(hub: GitHub, user: User, key: Path) -> None:
    require = ("--require-signature", "--trusted", key.with_suffix(".pub"), "--json")
    ok(user("push", OTHER, f"hf://{NAME}@1.0.0"))
    bob = {"HF_TOKEN": TOKEN + "b", "machine": "bob"}
    ok(user("push", PLAN, f"hf://{NAME}@1.1.0", "--pr", "--signing-key", key, **bob))
    hub.git(NAME, "update-ref", "refs/heads/main", hub.refs(NAME, "refs/pr/")["1"])  # the owner merges it
    ok(user("push", PLAN, f"hf://{NAME}@1.1.0"))
    assert ok(user("pull", f"hf://{NAME}", *require, machine="two")).json["digest"] == read_bundle(PLAN).plan.digest
    assert error(user("pull", f"hf://{NAME}@1.0.0", *require, machine="two")) == "unsigned"


def test_evidence_is_on_the_page_and_as_text(tmp_path: Path, hub: GitHub, user: User) -> None:
    digest = read_bundle(PLAN).plan.digest
    ok(user("push", PLAN, f"hf://{NAME}@1.0.0"))
    file = tmp_path / "evidence.yaml"
    file.write_text(
        f"schema_version: flashrl.evidence/v1\nplan_digest: {digest}\ncreated_at: '2026-11-24T10:00:00Z'\n"
        "what: throughput\ndevice: NVIDIA H100 80GB HBM3\nversions: {vllm: 0.32.0}\n"
        "metrics: {output: {value: 2115.5, unit: token/s}}\nmethod: '64 prompts | <b>at once</b>'\n"
    )
    ok(user("evidence", "add", f"hf://{NAME}", file))
    assert hub.log(NAME)[0] == "Evidence of throughput beside v1.0.0"
    page = hub.read(NAME, "main", "README.md").decode()
    row = "| throughput | NVIDIA H100 80GB HBM3 | vllm 0.32.0 | output 2115.5 token/s "
    assert row + r"| 64 prompts \| \<b\>at once\</b\> | ann, 2026-11-24 |" in page
    listed = ok(user("evidence", "list", f"hf://{NAME}@1.0.0", "--json", machine="two")).json["evidence"]
    assert [(one["what"], one["by"], one["plan_digest"]) for one in listed] == [("throughput", "ann", digest)]
    assert ok(user("show", NAME, "--json", machine="two")).json["evidence"] == listed
    ok(user("push", OTHER, f"hf://{NAME}@2.0.0"))
    assert "Measured evidence" not in hub.read(NAME, "main", "README.md").decode(), "it is of another plan"
