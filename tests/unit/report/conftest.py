"""The documents that reports are drawn from."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # report_documents.py is shared with the browser's tests

from report_documents import Documents, make_documents


@pytest.fixture(scope="session")
def documents() -> Documents:
    """Of one model."""
    return make_documents()
