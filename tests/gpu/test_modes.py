"""Every mode of the runtime on a GPU, as a test: ``pytest -m gpu tests/gpu``; see ``run.py``.

``FLASHRL_GPU_JOBS`` is the number of engines side by side, ``FLASHRL_GPU_TABLE`` a file for the checks.
"""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import run


@pytest.fixture(scope="module")
def checks() -> dict[str, list[run.Check]]:
    """Engines of all sections run side by side, once."""
    found = run.run(run.SECTIONS, int(os.environ.get("FLASHRL_GPU_JOBS", run.SIDE_BY_SIDE)))
    if table := os.environ.get("FLASHRL_GPU_TABLE"):
        run.write_table(Path(table), [check for section in found.values() for check in section])
    return found


@pytest.mark.gpu
@pytest.mark.parametrize("section", run.SECTIONS)
def test_every_way_of_updating_ends_as_a_fresh_engine(section: str, checks: dict[str, list[run.Check]]) -> None:
    assert checks[section], "nothing was checked"
    failed = [f"{name} {detail}" for name, passed, detail in checks[section] if not passed]
    assert not failed, "\n".join(failed)
    print(f"{section}: {len(checks[section])} checks")
