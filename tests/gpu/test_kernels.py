"""The kernels on a GPU, as a test: ``pytest -m gpu tests/gpu``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.gpu
def test_a_thousand_random_weights_are_quantized_as_by_plain_torch() -> None:
    jobs = str(max(1, min(16, (os.cpu_count() or 2) - 1)))
    command = [sys.executable, str(Path(__file__).parent / "kernels.py"), "--count", "1000", "--jobs", jobs]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
