"""Reading a document costs neither torch nor vllm, and ``--help`` costs next to nothing."""

import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import flashrl_cli
import flashrl_registry

ROOT = Path(__file__).parents[2]
LIGHT = ("errors", "documents", "checkpoints", "compiler", "registry", "resolver")
HEAVY = ("torch", "vllm", "transformers", "safetensors", "numpy")
COMMANDS = {
    "flashrl": ["", "profile", "setup", "cleanup", "doctor"],
    "flashrl-registry": [
        "", "compile", "profile-verify", "sensitivity", "quality", "report", "validate", "push", "sign", "pull", "list",
        "search", "versions", "channel",
        "deprecate", "yank", "restore", "evidence", "lock", "verify", "gc", "show", "explain", "diff", "import",
        "export", "schema", "migrate", "lint", "doctor",
    ],
}  # fmt: skip


def light_modules() -> Iterator[str]:
    yield "flashrl_registry"
    for info in pkgutil.walk_packages(flashrl_registry.__path__, "flashrl_registry."):
        if info.name.split(".")[1] in LIGHT:
            yield info.name
    for info in pkgutil.walk_packages(flashrl_cli.__path__, "flashrl_cli."):
        if not info.name.endswith("__main__"):
            yield info.name


def python(code: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli"), *sys.path])}
    return subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)


def test_light_modules_import_nothing_heavy() -> None:
    modules = list(light_modules())
    code = f"""
import sys
for name in {modules!r}:
    __import__(name)
    heavy = [h for h in {HEAVY!r} if h in sys.modules]
    if heavy:
        raise SystemExit(f'{{name}} imports {{heavy}}')
"""
    ran = python(code)
    assert len(modules) > 40
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("name", [*(f"flashrl_registry.{part}" for part in LIGHT), "flashrl_cli.app"])
def test_a_package_can_be_imported_first(name: str) -> None:
    ran = python(f"import {name}")
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("program", COMMANDS)
def test_every_help_works_and_is_cheap(program: str) -> None:
    for command in COMMANDS[program]:
        arguments = [*([command] if command else []), "--help"]
        code = f"""
import sys
from flashrl_cli.app import run
code = run({program!r}, {arguments!r})
import resource
used = resource.getrusage(resource.RUSAGE_SELF)
heavy = [name for name in (*{HEAVY!r}, 'pydantic', 'rich', 'yaml') if name in sys.modules]
print(used.ru_utime + used.ru_stime, *heavy, file=sys.stderr)
sys.exit(code)
"""
        ran = python(code)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.startswith(f"Usage: {program} {command}".rstrip())
        seconds, *imported = ran.stderr.split()
        if not command:
            print(f"{program} --help: {float(seconds):.3f} s CPU")
            assert not imported, "the list of commands needs none of these"
        assert float(seconds) < 1.0


def test_the_table_above_names_every_command() -> None:
    from flashrl_cli.app import FLASHRL_COMMANDS, REGISTRY_COMMANDS

    assert set(COMMANDS["flashrl"]) - {""} <= set(FLASHRL_COMMANDS)
    assert set(COMMANDS["flashrl-registry"]) - {""} <= set(REGISTRY_COMMANDS)


def test_importing_reads_no_environment_variable() -> None:
    code = f"""
import os
class Watched(dict):
    def _seen(self, key):
        if str(key).startswith('FLASHRL'):
            raise SystemExit(f'{{key}} is read at import')
    def __getitem__(self, key):
        self._seen(key)
        return super().__getitem__(key)
    def get(self, key, default=None):
        self._seen(key)
        return super().get(key, default)
    def __contains__(self, key):
        self._seen(key)
        return super().__contains__(key)
os.environ = Watched(os.environ)
for name in {list(light_modules())!r}:
    __import__(name)
"""
    ran = python(code)
    assert (ran.returncode, ran.stderr) == (0, "")
