"""What people write about versions: one line that all can read; what strangers wrote does nothing to a terminal."""

import io
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flashrl_cli import output
from flashrl_cli.app import run
from flashrl_registry.documents import Plan, Profile
from flashrl_registry.documents.plain_text import escaped, escaped_json, text_fault
from flashrl_registry.errors import InvalidRefError, RegistryError
from flashrl_registry.registry import LocalStore, PlanBundle, write_bundle
from flashrl_registry.registry.channels import announce

Command = Callable[..., Any]
NAME = "team/toy"
EVIL = "gone\x1b[2J\x1b]52;c;aGk=\x07\nerror: all is lost\x9b31m\u202e"


@pytest.fixture
def published(cli: Command, bundle: PlanBundle) -> Command:
    """One version."""
    assert cli("push", bundle.origin, f"{NAME}@1.0.0").code == 0
    return cli


@pytest.mark.parametrize("option", ["--reason", "--use"])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x" * 2000, "it has 2000 characters; at most 1024 are kept"),
        ("a\x1b[31mb", r"it contains \x1b, which terminals act on"),
        ("one\ntwo", "it contains a line break"),
        ("\u202etext", r"it contains \u202e"),
        ("  ", "it is empty"),
    ],
)
def test_what_nobody_could_read_is_wrong_usage_and_changes_nothing(
    published: Command, option: str, text: str, says: str, registry: Path
) -> None:
    others = [] if option == "--reason" else ["--reason", "why"]
    ran = published("deprecate", f"{NAME}@1.0.0", option, text, *others)
    assert ran.code == 2
    assert says in " ".join(ran.err.split())
    assert option in ran.err
    assert not (registry / NAME / "history.json").exists()


def test_a_reason_of_the_longest_length_is_kept(published: Command) -> None:
    assert published("deprecate", f"{NAME}@1.0.0", "--reason", "x" * 1024).code == 0
    assert "x" * 1024 in published("versions", NAME).out


def test_programs_get_an_error_of_their_own(published: Command, registry: Path) -> None:
    with pytest.raises(InvalidRefError, match="at most 1024"):
        announce(LocalStore(registry), NAME, "1.0.0", "deprecate", reason="x" * 1025)


@pytest.mark.parametrize("use", ["../../etc", "/etc/passwd", "./plan.yaml", "~/plans", "../../etc@1.0.0", "stable!"])
def test_a_path_is_no_replacement_for_others(published: Command, use: str, registry: Path) -> None:
    ran = published("deprecate", f"{NAME}@1.0.0", "--reason", "why", "--use", use, "--json")
    assert (ran.code, ran.json["error"]["code"]) == (2, "usage")
    assert use in ran.json["error"]["message"]
    assert "name one of its versions, or another plan as namespace/name" in ran.json["error"]["message"]
    assert not (registry / NAME / "history.json").exists()


def test_a_channel_alone_is_no_replacement_and_the_hint_is_what_to_write(published: Command) -> None:
    ran = published("deprecate", f"{NAME}@1.0.0", "--reason", "why", "--use", "stable", "--json")
    assert (ran.code, len(ran.json["error"]["message"]) < 200) == (2, True)
    assert f"write {NAME}@stable" in ran.json["error"]["message"]
    assert published("deprecate", f"{NAME}@1.0.0", "--reason", "why", "--use", f"{NAME}@stable").code == 0


@pytest.mark.parametrize("use", ["2.0.0", "team/other@stable", "hf://team/other", "Qwen/Qwen3-8B:int8"])
def test_a_version_or_a_reference_is(published: Command, use: str) -> None:
    assert published("deprecate", f"{NAME}@1.0.0", "--reason", "why", "--use", use).code == 0
    assert f"use {use}" in published("show", NAME).err


def test_who_has_an_impossible_name_is_told(published: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ann\x1b[2J")
    ran = published("channel", "set", NAME, "stable", "1.0.0")
    assert ran.code == 1
    assert r"'ann\x1b[2J'" in ran.err
    assert "set LOGNAME" in ran.err


@pytest.fixture
def strange(published: Command, registry: Path, measured: Path) -> Command:
    """A history that somebody wrote by hand, with what a terminal acts on wherever there is room for it."""
    published("deprecate", f"{NAME}@1.0.0", "--reason", "why", "--use", "2.0.0")
    assert published("evidence", "add", NAME, measured).code == 0
    file = registry / NAME / "history.json"
    history = json.loads(file.read_text())
    for event in history["events"]:
        event["by"] = EVIL
        if "reason" in event:
            event["reason"] = event["replacement"] = EVIL
        else:
            event["evidence"]["method"] = event["evidence"]["device"] = EVIL.replace("\n", "")
    file.write_text(json.dumps(history))
    return published


@pytest.fixture
def measured(tmp_path: Path, bundle: PlanBundle) -> Path:
    """A document of evidence."""
    file = tmp_path / "note.yaml"
    file.write_text(
        f"schema_version: flashrl.evidence/v1\nplan_digest: {bundle.digest}\ncreated_at: '2026-11-24T10:00:00Z'\n"
        "what: note\ndevice: cpu\nversions: {vllm: 0.32.0}\nmethod: |\n  read\n  twice\n"
    )
    return file


@pytest.mark.parametrize(
    "command",
    [("versions", NAME), ("channel", "history", NAME), ("show", NAME), ("list",), ("search",), ("pull", NAME),
     ("evidence", "list", NAME), ("restore", f"{NAME}@1.0.0", "--reason", "fine"), ("diff", NAME, NAME)],
)  # fmt: skip
@pytest.mark.parametrize("as_json", [False, True])
def test_what_a_stranger_wrote_into_a_history_is_shown_and_does_nothing(
    strange: Command, command: tuple[str, ...], as_json: bool
) -> None:
    ran = strange(*command, *(["--json"] if as_json else []))
    assert ran.code == 0
    shown = ran.out + ran.err
    assert not {char for char in shown if not char.isprintable()} - {"\n"}
    assert not [line for line in shown.splitlines() if line.startswith("error: all is lost")]
    if as_json:
        json.loads(ran.out)


def test_the_words_are_still_there_for_whoever_looks(strange: Command) -> None:
    assert r"gone\x1b[2J\x1b]52;c;aGk=\x07\nerror: all is lost\x9b31m\u202e" in strange("versions", NAME).out
    events = strange("channel", "history", NAME, "--json").json["events"]
    assert events[0]["reason"] == EVIL, "programs get what was written"


def test_a_log_of_an_engine_shows_it_escaped_too(strange: Command, registry: Path) -> None:
    from flashrl_registry.registry import NamedRef

    warnings = LocalStore(registry).open(NamedRef(NAME)).warnings
    logging.getLogger("test").warning("%s", *warnings)
    assert all(line.isprintable() for line in warnings)


FORGED = "zz\nsigned    sha256:fake by root, checked\x1b[2J"


@pytest.fixture
def forged(tmp_path: Path, smoothed_plan: Plan, profile: Profile, sidecar_file: Path) -> Path:
    """A plan of somebody who knows what ``show`` prints."""
    first, *others = smoothed_plan.rules
    rules = [first.model_copy(update={"ignore": [*first.ignore, FORGED]}), *others]
    plan = smoothed_plan.model_copy(update={"rules": rules, "digest": None})
    write_bundle(tmp_path / "forged", plan.sealed(), profile=profile, sidecar=sidecar_file)
    return tmp_path / "forged"


@pytest.mark.parametrize("command", ["show", "diff", "explain", "lint", "push"])
def test_a_rule_of_a_stranger_forges_no_line(
    published: Command, bundle: PlanBundle, forged: Path, command: str
) -> None:
    arguments = {"diff": (bundle.origin, forged), "push": (forged, f"{NAME}@2.0.0", "--dry-run")}.get(
        command, (forged,)
    )
    ran = published(command, *arguments)
    assert ran.code == (command == "lint"), "lint finds that the rule is for nothing"
    assert not [line for line in (ran.out + ran.err).splitlines() if line.startswith("signed")]
    if command in {"show", "diff", "push"}:
        assert r"zz\nsigned    sha256:fake by root, checked\x1b[2J" in ran.out


def test_evidence_of_several_lines_is_one_line_of_a_table(published: Command, measured: Path) -> None:
    published("evidence", "add", NAME, measured)
    for ran in (published("evidence", "list", NAME), published("show", NAME)):
        assert "  read twice  " in ran.out
        assert r"\n" not in ran.out


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_name_that_the_terminal_has_no_letters_for_is_shown_anyway(
    published: Command, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    monkeypatch.setenv("LOGNAME", "Jürgen 数")
    published("channel", "set", NAME, "stable", "1.0.0")
    shown = {"ascii": r"J\xfcrgen \u6570", "latin-1": r"Jürgen \u6570", "utf-8": "Jürgen 数"}[encoding]
    for command in (("channel", "history", NAME), ("channel", "history", NAME, "--json"), ("list", "--json")):
        written = io.BytesIO()
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding=encoding, write_through=True))
        assert run("flashrl-registry", list(command)) == 0
        text = written.getvalue().decode(encoding)
        if "--json" not in command:
            assert shown in text
        elif command[0] == "channel":
            assert json.loads(text)["events"][0]["by"] == "Jürgen 数"


def test_what_a_command_itself_did_not_escape_does_nothing_either(capsys: pytest.CaptureFixture[str]) -> None:
    output.result({}, "one\ntwo\x1b[2J", as_json=False)
    output.note("three\x1b[2J")
    assert tuple(capsys.readouterr()) == ("one\ntwo\\x1b[2J\n", "three\\x1b[2J\n")


def test_evidence_that_a_terminal_acts_on_is_not_added(published: Command, measured: Path) -> None:
    measured.write_text(measured.read_text().replace("device: cpu", 'device: "cpu \\e[2J"'))
    ran = published("evidence", "add", NAME, measured)
    assert ran.code == 1
    assert r"it contains \x1b" in ran.err


def test_ordinary_writing_of_all_languages_is_welcome() -> None:
    for text in ("größer", "数値が合わない", "غير صحيح", "naïve\u00a0: non", "👩‍🔬 says no", "a\u0301"):
        assert text_fault(text) is None
        assert escaped(text) == text
    assert json.loads(escaped_json(json.dumps({"a": EVIL + "\U000e0041"}, ensure_ascii=False)))["a"][:-1] == EVIL
    assert os.linesep not in escaped("a\r\nb")
    assert escaped("a\tb\nc\rd", lines=True) == "a\tb\nc\\rd"


def test_an_account_with_such_a_name_publishes_nothing() -> None:
    from flashrl_registry.registry.channels import author_of

    class Store(LocalStore):
        def whoami(self) -> str:
            return "x" * 200

    with pytest.raises(RegistryError, match="at most 128"):
        author_of(Store(Path("nowhere")))
