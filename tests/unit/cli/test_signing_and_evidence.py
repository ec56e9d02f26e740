"""Signing and evidence as a user meets them, on the local registry."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from flashrl_registry.documents import Manifest
from flashrl_registry.errors import SignatureError, UnsignedError
from flashrl_registry.registry import PlanBundle, open_chain, parse_ref
from flashrl_registry.runtime.pinning import pin, pin_for_children

Command = Callable[..., Any]
NAME = "team/toy"
PASSPHRASE = "open sesame"


def pair(
    folder: Path, name: str, *, encryption: KeySerializationEncryption | None = None, private: Any = None
) -> tuple[Path, Path]:
    """Files of a private and a public key."""
    private = private or ec.generate_private_key(ec.SECP384R1())
    files = folder / f"{name}.pem", folder / f"{name}.pub"
    files[0].write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()))
    files[1].write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return files


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The team's key; the user's config folder is empty."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("FLASHRL_TRUSTED", "FLASHRL_SIGNING_KEY", "FLASHRL_SIGNING_PASSPHRASE", "FLASHRL_PINNED"):
        monkeypatch.delenv(name, raising=False)
    return pair(tmp_path, "team")


def trust(folder: Path, *entries: tuple[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "trusted.yaml"
    lines = [f"- {{names: '{names}', keys: ['{key}']}}" for names, key in entries]
    file.write_text("schema_version: flashrl.trusted/v1\npublishers:\n" + "\n".join(lines) + "\n")
    return file


def code(ran: Any) -> str:
    assert ran.code == 1, ran.out
    return str(ran.json["error"]["code"])


def test_push_sign_then_pull_with_the_publishers_key(
    cli: Command, bundle: PlanBundle, team: tuple[Path, Path], tmp_path: Path
) -> None:
    private, public = team
    pushed = cli("push", bundle.origin, f"{NAME}@1.0.0", "--sign", "--signing-key", private, "--json").json
    pulled = cli("pull", NAME, "--require-signature", "--trusted", public, "-o", tmp_path / "copy", "--json").json
    assert pulled["signed_by"] == [pushed["signed_by"]]
    assert pulled["digest"] == bundle.plan.digest
    again = cli("push", bundle.origin, f"{NAME}@1.0.0", "--signing-key", private, "--json").json
    assert (again["created"], again["signed_by"]) == (False, pushed["signed_by"])
    assert "team.pub" not in cli("show", NAME).out
    assert f"signed    {pushed['signed_by']}" in cli("show", NAME).out
    verified = cli("verify", "--require-signature", "--trusted", public)
    assert verified.code == 0
    assert "1 of 1 versions" in verified.out
    assert "signed by whom you trust" in verified.out


def test_what_is_refused_and_by_which_code(
    cli: Command, bundle: PlanBundle, team: tuple[Path, Path], tmp_path: Path, registry: Path
) -> None:
    private, public = team
    _, stranger = pair(tmp_path, "stranger")
    cli("push", bundle.origin, f"{NAME}@1.0.0")
    assert code(cli("pull", NAME, "--require-signature", "--json")) == "untrusted", "nobody is named"
    assert code(cli("pull", NAME, "--trusted", public, "--json")) == "unsigned"
    other = f"{NAME}@1.0.0#sha256={'0' * 64}"
    assert code(cli("sign", other, "--signing-key", private, "--json")) == "integrity", "nothing else is signed unseen"
    assert cli("sign", f"{NAME}@1.0.0", "--signing-key", private).code == 0
    assert "already" in cli("sign", f"{NAME}@1.0.0", "--signing-key", private).out
    assert code(cli("pull", NAME, "--trusted", stranger, "--json")) == "untrusted"
    assert code(cli("pull", NAME, "--trusted", private, "--json")) == "signing-key"
    assert code(cli("pull", NAME, "--trusted", tmp_path / "none.pub", "--json")) == "signing-key"
    assert cli("pull", NAME, "--trusted", stranger, "--trusted", public).code == 0
    assert code(cli("pull", bundle.origin, "--trusted", public, "--json")) == "unsigned", "a path carries none"
    bundled = "Qwen/Qwen2.5-0.5B-Instruct:int8"
    assert code(cli("pull", bundled, "--trusted", public, "--json")) == "unsigned"

    plan = registry / NAME / "1.0.0" / "plan.yaml"
    plan.chmod(0o644)
    plan.write_text(plan.read_text() + "# changed\n")
    assert code(cli("pull", NAME, "--trusted", public, "--json")) == "integrity"
    assert code(cli("sign", f"{NAME}@1.0.0", "--signing-key", private, "--json")) == "integrity"


def test_the_command_that_signs_what_is_not_signed_works_as_it_is_printed(
    cli: Command, bundle: PlanBundle, team: tuple[Path, Path], tmp_path: Path
) -> None:
    private, public = team
    shared = f"file://{tmp_path}/shared"
    for place, there in (([], NAME), (["--store", shared], f"{NAME}?store={shared}")):
        cli("push", bundle.origin, f"{NAME}@1.0.0", *place)
        hint = cli("pull", there, "--trusted", public, "--json").json["error"]["hint"]
        command = hint.partition("flashrl-registry ")[2].replace("KEY.pem", str(private))
        assert cli(*command.split()).code == 0, hint
        assert cli("pull", there, "--trusted", public).code == 0


def test_a_manifest_that_was_changed_with_its_files_is_not_what_was_signed(
    cli: Command, bundle: PlanBundle, other_bundle: PlanBundle, team: tuple[Path, Path], registry: Path
) -> None:
    private, public = team
    cli("push", bundle.origin, f"{NAME}@1.0.0", "--signing-key", private)
    history = (registry / NAME / "history.json").read_bytes()
    cli("push", other_bundle.origin, "team/evil@1.0.0")
    (registry / NAME / "1.0.0").rename(registry / "gone")
    (registry / "team" / "evil" / "1.0.0").rename(registry / NAME / "1.0.0")
    manifest = registry / NAME / "1.0.0" / "manifest.json"
    manifest.chmod(0o644)
    data = {**json.loads(manifest.read_bytes()), "name": NAME}
    forged = Manifest.model_validate_json(json.dumps(data | {"digest": None}))
    manifest.write_bytes(forged.model_copy(update={"digest": forged.compute_digest()}).canonical_json())
    assert (registry / NAME / "history.json").read_bytes() == history
    assert cli("pull", NAME).code == 0, "without signatures nothing tells"
    assert code(cli("pull", NAME, "--trusted", public, "--json")) == "signature"


def test_a_trusted_entry_is_asked_wherever_a_plan_is_used(
    cli: Command, bundle: PlanBundle, team: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = team
    cli("push", bundle.origin, f"{NAME}@1.0.0")
    cli("push", bundle.origin, "other/toy@1.0.0")
    lock = tmp_path / "flashrl.lock"
    assert cli("lock", NAME, "-o", lock).code == 0
    trust(tmp_path / "config" / "flashrl-registry", ("TEAM/*", str(public)))
    pinned = f"{NAME}#{str(bundle.plan.digest).replace(':', '=')}"
    for use in (("show", NAME), ("pull", f"{NAME}@1.0.0"), ("explain", NAME), ("lock", NAME, "-o", lock),
                ("show", lock), ("pull", lock), ("show", pinned)):  # fmt: skip
        assert code(cli(*use, "--json")) == "unsigned", use
    with pytest.raises(UnsignedError, match="is not signed"):
        pin(NAME)
    assert cli("show", "other/toy").code == 0
    assert cli("show", "Qwen/Qwen2.5-0.5B-Instruct:int8").code == 0
    assert cli("list").code == cli("versions", NAME).code == 0
    cli("sign", f"{NAME}@1.0.0", "--signing-key", private)
    assert pin(NAME).startswith(f"{NAME}@1.0.0#")
    assert ", checked" in cli("show", NAME).out
    assert cli("pull", lock).code == 0

    monkeypatch.setenv("FLASHRL_TRUSTED", str(tmp_path / "none.yaml"))
    assert code(cli("show", NAME, "--json")) == "parse", "a list that was named and is not there is no empty list"
    other = trust(tmp_path / "job", ("team/x*", "nobody.pub"), ("*/*", str(pair(tmp_path, "central")[1])))
    monkeypatch.setenv("FLASHRL_TRUSTED", str(other))
    assert code(cli("show", NAME, "--json")) == "untrusted", "it stands in place of the user's own"
    loosened = cli("pull", NAME, "--trusted", public, "--json")
    assert code(loosened) == "untrusted", "a key on the command line loosens no entry"


def test_an_engines_process_refuses_an_unsigned_plan_through_flashrl_config(
    cli: Command, bundle: PlanBundle, team: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = team
    cli("push", bundle.origin, f"{NAME}@1.0.0")
    monkeypatch.setenv("FLASHRL_TRUSTED", str(trust(tmp_path / "job", ("team/*", str(public)))))
    environ = dict(os.environ)
    with pytest.raises(UnsignedError):
        pin_for_children(NAME, parse_ref(NAME), environ)
    assert "FLASHRL_PINNED" not in environ
    cli("sign", f"{NAME}@1.0.0", "--signing-key", private)
    pinned = pin_for_children(NAME, parse_ref(NAME), environ)
    history = tmp_path / "registry" / NAME / "history.json"
    history.unlink()
    with pytest.raises(SignatureError):
        open_chain(environ).get(pinned)


def test_a_key_with_a_passphrase_signs_and_nothing_of_it_is_printed_or_kept(  # noqa: PLR0917
    cli: Command, bundle: PlanBundle, team: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    registry: Path,
) -> None:  # fmt: skip
    private, public = pair(tmp_path, "locked", encryption=BestAvailableEncryption(PASSPHRASE.encode()))
    monkeypatch.setenv("FLASHRL_SIGNING_KEY", str(private))
    missing = cli("push", bundle.origin, f"{NAME}@1.0.0", "--sign", "--json")
    assert code(missing) == "signing-key"
    assert "FLASHRL_SIGNING_PASSPHRASE" in missing.json["error"]["hint"]
    assert not (registry / NAME).exists(), "nothing is published that could not be signed"
    texts = [missing.out]
    for passphrase, exit_code in (("wrong " + PASSPHRASE, 1), (PASSPHRASE, 0)):
        monkeypatch.setenv("FLASHRL_SIGNING_PASSPHRASE", passphrase)
        ran = cli("--debug", "push", bundle.origin, f"{NAME}@1.0.0", "--sign")
        assert ran.code == exit_code
        texts += [ran.out, ran.err]
    assert cli("pull", NAME, "--trusted", public).code == 0
    texts += [file.read_text(errors="replace") for file in registry.rglob("*") if file.is_file()]
    body = private.read_text().splitlines()[1]
    assert not [text for text in texts if PASSPHRASE in text or body in text]


def test_keys_of_other_kinds_and_bad_options_are_told_in_one_line(
    cli: Command, bundle: PlanBundle, team: tuple[Path, Path], tmp_path: Path
) -> None:
    rsa_key, _ = pair(tmp_path, "rsa", private=rsa.generate_private_key(public_exponent=65537, key_size=2048))
    weak, _ = pair(tmp_path, "weak", private=ec.generate_private_key(ec.SECP256K1()))
    for key in (rsa_key, weak, team[1], tmp_path / "none.pem", tmp_path):
        assert code(cli("push", bundle.origin, f"{NAME}@1.0.0", "--signing-key", key, "--json")) == "signing-key"
    assert cli("push", bundle.origin, f"{NAME}@1.0.0", "--sign").code == 2
    assert code(cli("sign", NAME, "--signing-key", team[0], "--store", "local", "--json")) == "invalid-ref"
    assert cli("sign", bundle.origin, "--signing-key", team[0]).code == 2
    assert code(cli("sign", f"{NAME}@1.0.0", "--signing-key", team[0], "--store", "local", "--json")) == "not-found"


def test_without_the_extra_the_install_command_is_told_and_nothing_is_published(
    bundle: PlanBundle, team: tuple[Path, Path], tmp_path: Path
) -> None:
    program = """
import sys
sys.modules["model_signing"] = None
from flashrl_cli.app import run
sys.exit(run("flashrl-registry", sys.argv[1:]))
"""
    arguments = ["push", bundle.origin, f"{NAME}@1.0.0", "--store", f"file://{tmp_path}/shared", "--signing-key"]
    ran = subprocess.run([sys.executable, "-c", program, *arguments, str(team[0])], capture_output=True, text=True,
                         check=False)  # fmt: skip
    assert ran.returncode == 1
    assert ran.stderr.splitlines() == [
        "error: signatures need model_signing, which is not installed",
        'hint: pip install "flashrl-registry[sign]"',
    ]
    assert not (tmp_path / "shared").exists()


@pytest.fixture
def measured(tmp_path: Path, bundle: PlanBundle) -> Path:
    """A document of evidence."""
    file = tmp_path / "mismatch.yaml"
    file.write_text(f"""\
schema_version: flashrl.evidence/v1
plan_digest: {bundle.plan.digest}
created_at: '2026-11-24T10:00:00Z'
what: mismatch
device: a toy
versions: {{vllm: 0.32.0, torch: 2.11.0}}
metrics: {{mean_abs_logprob_diff: {{value: 0.0021, unit: nat}}, tokens: {{value: 65536, unit: '1'}}}}
method: counted twice
""")
    return file


def test_evidence_is_added_listed_and_shown(cli: Command, bundle: PlanBundle, measured: Path) -> None:
    cli("push", bundle.origin, f"{NAME}@1.0.0")
    assert cli("evidence", "list", NAME).out == f"nothing was measured of {NAME}@1.0.0\n"
    assert cli("evidence", "add", NAME, measured).out == f"1 of 1 added to {NAME}@1.0.0\n"
    assert cli("evidence", "add", f"{NAME}@1.0.0", measured, "--json").json["changed"] == 0
    listed = cli("evidence", "list", NAME)
    assert "mean_abs_logprob_diff 0.0021 nat, tokens 65536" in listed.out
    shown = cli("show", NAME, "--json").json
    assert shown["digest"] == bundle.plan.digest
    assert [one["metrics"]["tokens"]["value"] for one in shown["evidence"]] == [65536]
    assert shown["evidence"] == cli("evidence", "list", NAME, "--json").json["evidence"]
    assert "EVIDENCE" in cli("show", NAME).out
    assert cli("verify").code == 0
    assert "evidence" in cli("channel", "history", NAME).out


def test_evidence_of_another_plan_or_no_evidence_is_refused(
    cli: Command, bundle: PlanBundle, other_bundle: PlanBundle, measured: Path
) -> None:
    cli("push", other_bundle.origin, f"{NAME}@1.0.0")
    assert code(cli("evidence", "add", NAME, measured, "--json")) == "integrity"
    assert code(cli("evidence", "add", NAME, Path(other_bundle.origin) / "plan.yaml", "--json")) == "schema"
    assert cli("evidence", "add", NAME).code == 2
    assert cli("evidence", "list", NAME, measured).code == 2
    assert cli("evidence", "list", other_bundle.origin).code == 2
    assert code(cli("evidence", "add", "Qwen/Qwen2.5-0.5B-Instruct:int8", measured, "--json")) == "not-found"
