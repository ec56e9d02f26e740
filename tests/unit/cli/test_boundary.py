"""Exit codes, streams and what a failure looks like."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from flashrl_cli import app, output
from flashrl_registry import __version__
from flashrl_registry.documents import Profile
from flashrl_registry.errors import NotFoundError
from flashrl_registry.registry import PlanBundle, read_profile

ROOT = Path(__file__).parents[3]
Command = Callable[..., Any]


def python(code: str, **kwargs: Any) -> "subprocess.Popen[str]":
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli"), *sys.path])}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs
    )


def test_an_expected_failure_is_one_message_and_exit_1(cli: Command) -> None:
    ran = cli("show", "./none")
    assert (ran.code, ran.out) == (1, "")
    lines = ran.err.splitlines()
    assert lines[0].startswith("error: no file at none")
    assert lines[1].startswith("hint: ")
    assert len(lines) == 2
    failed = cli("show", "./none", "--json")
    assert (failed.code, failed.err) == (1, "")
    assert failed.json["ok"] is False
    assert set(failed.json["error"]) == {"code", "message", "hint", "context"}
    assert failed.json["error"]["code"] == NotFoundError.code


def test_wrong_usage_is_exit_2(cli: Command) -> None:
    for arguments in (["show"], ["shw"], ["show", "a/b", "--nonsense"], [], ["--nonsense"]):
        ran = cli(*arguments)
        assert (ran.code, ran.out) == (2, ""), arguments
    assert "Did you mean 'show'?" in cli("shw").err
    failed = cli("show", "--json").json
    assert (failed["ok"], failed["error"]["code"]) == (False, "usage")


@pytest.mark.parametrize(
    "arguments",
    [
        ["validate", ""], ["validate", ".", ""], ["migrate", ""], ["lint", ""], ["show", ""], ["pull", "a/b", "-o", ""],
        ["compile", "-m", "x", "-o", "y", "--scheme", ""], ["compile", "-m", "x", "-o", "y", "--scheme="],
        ["compile", "-m", "x", "-o", "y", "--rules", ""], ["validate", "--", ""],
    ],
)  # fmt: skip
def test_an_empty_argument_is_wrong_usage_and_not_the_current_folder(cli: Command, arguments: list[str]) -> None:
    ran = cli(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert "is empty" in ran.err


def test_a_bug_is_exit_3_without_a_traceback_unless_asked_for(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(as_json: bool = False) -> None:
        raise ZeroDivisionError("what a shame")

    monkeypatch.setitem(app.REGISTRY_COMMANDS, "list", broken)
    ran = cli("list")
    assert (ran.code, ran.out) == (3, "")
    assert f"this is a bug in flashrl-registry {__version__}: ZeroDivisionError: what a shame" in ran.err
    assert "--debug prints the traceback" in ran.err
    assert "Traceback" not in ran.err
    assert "Traceback" in cli("list", "--debug").err
    assert "Traceback" in cli("--debug", "list").err
    monkeypatch.setenv("FLASHRL_LOGGING_LEVEL", "debug")
    assert "Traceback" in cli("list").err


def test_debug_shows_where_an_expected_failure_came_from(cli: Command) -> None:
    ran = cli("show", "team/none", "--debug")
    assert ran.code == 1
    assert "Traceback" in ran.err


def test_after_two_dashes_everything_is_an_argument(cli: Command) -> None:
    assert "'--debug' is not a plan reference" in cli("show", "--", "--debug").err


def test_version_and_help(cli: Command) -> None:
    for program in ("flashrl", "flashrl-registry"):
        assert cli("--version", program=program).out == f"{__version__}\n"
        ran = cli("--help", program=program)
        assert (ran.code, ran.err) == (0, "")
        assert ran.out.startswith(f"Usage: {program} ")


def test_an_interrupt_is_exit_130() -> None:
    code = (
        # A shell that runs the tests in the background has them, and all their children, ignore Ctrl-C.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import sys, time; from flashrl_cli import app\n"
        "def wait(as_json: bool = False) -> None:\n"
        "    print('ready', flush=True); time.sleep(120)\n"
        "app.REGISTRY_COMMANDS['list'] = wait\n"
        "sys.exit(app.run('flashrl-registry', ['list']))"
    )
    with python(code) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [["schema", "plan"], ["schema", "plan", "--json"], ["list"]])
def test_a_reader_that_goes_away_is_no_error(arguments: list[str], registry: Path) -> None:
    code = (
        "import sys; from flashrl_cli.app import run\n"
        f"sys.stdin.read(); sys.exit(run('flashrl-registry', {arguments!r}))"
    )
    with python(code, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdin is not None
        process.stdout.close()
        process.stdin.close()
        err = process.stderr.read()
        process.wait(20)
    assert registry.name == "registry"
    assert err == ""
    assert process.returncode in {0, 1}


def test_a_missing_extra_is_answered_with_the_command_that_installs_it() -> None:
    code = (
        "import sys; sys.modules['numpy'] = None; sys.modules['numba'] = None\n"
        "from flashrl_cli.app import run\n"
        "sys.exit(run('flashrl', ['profile', '-m', 'a', '-qm', 'b', '-o', 'c', '--json']))"
    )
    with python(code) as process:
        out, err = process.communicate(timeout=60)  # an import of torch on a busy machine
    assert (process.returncode, err) == (1, "")
    error = json.loads(out)["error"]
    assert error["code"] == "missing-dependency"
    assert error["hint"] == 'pip install "flashrl-registry[torch]"'


@pytest.fixture
def profiled(bundle: PlanBundle, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A profiler that returns the toy profile and remembers what it was asked."""
    asked: list[tuple[Any, ...]] = []

    def profile_pair(
        reference: str, quantized: str, output: Path, *, scheme: str = "int8", progress: Any = None, **others: Any
    ) -> tuple[Path, Profile]:
        asked.append((str(reference), str(quantized), str(output), scheme, progress))
        document = Path(bundle.origin) / "profile.yaml"
        return document, read_profile(document)[0]

    module = ModuleType("flashrl_registry.profiling")
    module.profile_pair = profile_pair  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flashrl_registry.profiling", module)
    return asked


@pytest.mark.parametrize("spelling", [["-qm", "q"], ["-q", "q"], ["--quantized", "q"], ["--quantized=q"]])
@pytest.mark.parametrize("last", [[], ["--fn", "int8"], ["--scheme", "int8"]])
def test_profile_understands_flashrls_spelling(
    cli: Command, profiled: list[tuple[Any, ...]], spelling: list[str], last: list[str]
) -> None:
    ran = cli("profile", "-m", "r", *spelling, "-o", "out.yaml", *last, program="flashrl")
    assert (ran.code, ran.err) == (0, "")
    assert profiled == [("r", "q", "out.yaml", "int8", None)]


def test_profile_says_where_it_went_and_that_no_pickle_was_written(
    cli: Command, profiled: list[tuple[Any, ...]], bundle: PlanBundle
) -> None:
    ran = cli("profile", "-m", "r", "-qm", "q", "-o", "x/profile.pt", "--fn", "int8", program="flashrl")
    assert f"profile    {Path(bundle.origin) / 'profile.yaml'}" in ran.out
    assert "x/profile.pt was not written: no pickles here" in ran.out
    data = cli("profile", "-m", "r", "-qm", "q", "-o", "x.yaml", "--json", program="flashrl").json
    assert data["num_tensors"] == {"unchanged": 2, "rescaled": 4, "quantized": 14}
    assert len(profiled) == 2


def test_progress_is_drawn_only_where_somebody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with output.progress("x") as update:
        assert update is None, "stderr is captured, so nobody watches"
    with output.progress("x", enabled=False) as update:
        assert update is None
    assert capsys.readouterr() == ("", "")


def test_progress_draws_on_a_terminal() -> None:
    code = (
        "from flashrl_cli import output\n"
        "with output.progress('profiling') as update:\n"
        "    update(1, 2, 'model.norm.weight', 10**9); update(2, 2, 'lm_head.weight', 2 * 10**9)"
    )
    master, slave = os.openpty()
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli"), *sys.path]), "TERM": "xterm"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environ, stderr=slave, stdout=subprocess.PIPE)
    os.close(slave)
    seen, deadline = b"", time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            chunk = os.read(master, 65536)
        except OSError:
            break
        if not chunk:
            break
        seen += chunk
    assert process.communicate(timeout=20)[0] == b""
    os.close(master)
    assert b"profiling" in seen
    assert b"2/2" in seen
    assert b"GB/s" in seen


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (135_200_000, "135.2 MB"), (3 * 10**12, "3.0 TB")],
)  # fmt: skip
def test_sizes_for_people(num_bytes: int, text: str) -> None:
    assert output.size(num_bytes) == text


def test_tables_are_aligned() -> None:
    assert output.table(("NAME", "N"), [("a", 1), ("long", 10)]).splitlines() == ["NAME   N", "a      1", "long  10"]
    assert output.table(("NAME", "N"), []) == "NAME  N"
