"""Damaged documents: whatever happens to a file, the answer is a document or a typed error, and quickly.

A seeded slice of bench/fuzz_documents.py, which takes ten thousand and more.
"""

import gc
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parents[3] / "bench" / "fuzz_documents.py"
CASES = 1200


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    """The bench script as a module."""
    spec = importlib.util.spec_from_file_location("fuzz_documents", BENCH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def only_our_garbage() -> Iterator[None]:
    """What other tests left in this process is not walked by collections while documents are timed."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("only_our_garbage")
def test_damaged_documents_give_typed_errors_quickly(fuzz: ModuleType, tmp_path: Path) -> None:
    outcome = fuzz.run(CASES, 20261124, tmp_path)
    assert outcome.wrong == []
    assert list(tmp_path.iterdir()) == []
    assert sum(outcome.by_type.values()) == CASES
    # It reaches past the parser: a fuzz that only ever breaks YAML tests PyYAML.
    assert outcome.by_type["SchemaError"] > CASES // 4
    assert {"ParseError", "SchemaVersionError", "valid"} <= set(outcome.by_type)


def test_the_run_notices_an_error_without_a_type(
    fuzz: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path) -> None:
        raise KeyError(path.name)

    monkeypatch.setattr(fuzz, "read_any", broken)
    outcome = fuzz.run(3, 0, tmp_path)
    assert outcome.by_type == {"NOT TYPED: KeyError": 3}
    assert len(outcome.wrong) == len(list(tmp_path.iterdir())) == 3
