"""The order in which files begin where they run side by side: what takes longest must not be left for the end."""

from pathlib import Path

import pytest

VLLM = Path(__file__).parent / "integration" / "vllm_cpu"
LONGEST_FIRST = (
    "test_matrix.py",
    "test_engines.py",
    "test_updates.py",
    "test_modes.py",
    "test_thousand_updates.py",
    "test_faults.py",
    "test_shims.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest, then whatever starts a vLLM, then the rest; each file stays in one piece."""
    assert all((VLLM / name).is_file() for name in LONGEST_FIRST), "a file has another name now"
    places = {VLLM / name: place for place, name in enumerate(LONGEST_FIRST)}

    def place(item: pytest.Item) -> int:
        return places.get(item.path, len(places) + (item.get_closest_marker("vllm") is None))

    items.sort(key=place)
