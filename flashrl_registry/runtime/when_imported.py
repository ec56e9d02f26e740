"""Look at a module as soon as it has been imported.

vLLM calls its plugins once per process, and a program may have that done long before it imports the module that has
to be watched. This module imports nothing but the standard library, as the plugin does.
"""

import sys
import threading
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def when_imported(name: str, then: Callable[[ModuleType], None]) -> None:
    """Call ``then(module)`` at the end of the import of a module that has not been imported yet.

    Asking twice for one module is the same as asking once.

    Args:
        name: Of the module.
        then: What to do; the import fails with what it raises.
    """
    if not any(isinstance(finder, _Finder) and finder.name == name for finder in sys.meta_path):
        # It stays there when it has done its work: another thread may be walking through this list, and would skip
        # the finder behind one that is taken out. A module that is imported again is looked at again.
        sys.meta_path.insert(0, _Finder(name, then))


class _Finder:
    """Finds one module as the other finders would, with another loader."""

    def __init__(self, name: str, then: Callable[[ModuleType], None]) -> None:
        self.name = name
        self._then = then
        self._asking: set[int] = set()  # threads; any may ask where the module is while one imports it

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The others' answer for this module; None for every other."""
        thread = threading.get_ident()
        if name != self.name or thread in self._asking:  # asked again by a finder that asks all others, as this one
            return None
        self._asking.add(thread)
        try:
            found = (finder.find_spec(name, path, target) for finder in sys.meta_path if hasattr(finder, "find_spec"))
            spec = next((spec for spec in found if spec is not None), None)
        finally:
            self._asking.discard(thread)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._then)  # type: ignore[assignment]
        return spec


class _Loader:
    """A loader that is replaced by its original before the module runs, so that nobody finds it in the module."""

    def __init__(self, original: Any, then: Callable[[ModuleType], None]) -> None:
        self._original = original
        self._then = then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the original does."""
        module: ModuleType | None = self._original.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """As the original does, then what was asked for."""
        module.__loader__ = self._original
        if module.__spec__ is not None:
            module.__spec__.loader = self._original
        self._original.exec_module(module)
        self._then(module)
