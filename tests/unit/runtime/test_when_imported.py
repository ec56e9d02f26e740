"""A module is looked at when it is imported, however late, and shows no trace of it."""

import importlib
import importlib.util
import inspect
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from flashrl_registry.runtime.when_imported import when_imported


@pytest.fixture
def late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Writes a module that can be imported; afterwards all is as it was."""
    finders = list(sys.meta_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names = []

    def write(name: str, text: str) -> Path:
        names.append(name)
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        return tmp_path / f"{name}.py"

    yield write
    sys.meta_path[:] = finders
    for name in names:
        sys.modules.pop(name, None)


def test_a_module_is_looked_at_once_when_it_is_complete(late) -> None:
    seen: list[Any] = []
    late("late_one", "first = 1\nlast = 2\n")
    for _ in range(3):  # a plugin may be called again
        when_imported("late_one", lambda module: seen.append((module.first, module.last)))
    assert seen == []
    importlib.import_module("late_one")
    importlib.import_module("late_one")
    assert seen == [(1, 2)]


def test_nobody_can_tell_from_the_module(late) -> None:
    file = late("late_two", "def answer():\n    return 42\n")
    when_imported("late_two", lambda _: None)
    module = importlib.import_module("late_two")
    assert module.__spec__ is not None
    assert module.__loader__ is module.__spec__.loader
    assert type(module.__loader__).__module__ == "_frozen_importlib_external"
    assert inspect.getsource(module.answer) == file.read_text()


def test_an_import_that_fails_may_be_tried_again(late) -> None:
    seen: list[str] = []
    file = late("late_three", "raise ImportError('not yet')\n")
    when_imported("late_three", lambda module: seen.append(module.__name__))
    with pytest.raises(ImportError, match="not yet"):
        importlib.import_module("late_three")
    file.write_text("value = 'complete now'\n")
    importlib.invalidate_caches()
    importlib.import_module("late_three")
    assert seen == ["late_three"]


def test_a_module_that_is_not_there_is_still_not_there(late) -> None:
    when_imported("late_and_never", lambda _: None)
    assert importlib.util.find_spec("late_and_never") is None
    with pytest.raises(ModuleNotFoundError, match="late_and_never"):
        importlib.import_module("late_and_never")


def test_a_finder_that_asks_all_others_does_not_hide_it(late, monkeypatch: pytest.MonkeyPatch) -> None:
    class Asking:
        """As other packages' hooks are."""

        asking = False

        def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
            if name != "late_four" or self.asking:
                return None
            self.asking = True
            try:
                return importlib.util.find_spec(name)
            finally:
                self.asking = False

    seen: list[str] = []
    late("late_four", "value = 1\n")
    when_imported("late_four", lambda module: seen.append(module.__name__))
    sys.meta_path.insert(0, Asking())  # type: ignore[arg-type]
    importlib.import_module("late_four")
    assert seen == ["late_four"]


def test_it_is_seen_whichever_thread_imports_it_while_others_look_for_it(late) -> None:
    seen: list[str] = []
    late("late_five", "import time\ntime.sleep(0.05)\nvalue = 1\n")
    when_imported("late_five", lambda module: seen.append(module.__name__))
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            importlib.util.find_spec("late_five")

    got: list[ModuleType] = []
    looking = [threading.Thread(target=look) for _ in range(2)]
    importing = [threading.Thread(target=lambda: got.append(importlib.import_module("late_five"))) for _ in range(4)]
    for thread in (*looking, *importing):
        thread.start()
    for thread in importing:
        thread.join()
    stop.set()
    for thread in looking:
        thread.join()
    assert len({id(module) for module in got}) == 1
    assert seen == ["late_five"]


def test_the_plugin_costs_a_program_without_a_plan_no_import_of_torch_or_pydantic() -> None:
    code = """
import sys, os, time, importlib, typing, re, threading
os.environ.pop("FLASHRL_CONFIG", None)
import importlib.util, importlib.machinery
began = time.process_time()
from flashrl_registry.runtime.plugin import register
register()
used = time.process_time() - began
print([name for name in ("torch", "pydantic", "vllm", "yaml", "flashrl_registry.documents") if name in sys.modules])
print(used)
"""
    imported, seconds = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert imported == "[]"
    assert float(seconds) < 0.02
