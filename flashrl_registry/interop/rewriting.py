"""Replace a file that somebody else may have made: through its links, with its permissions."""

import os
import stat
from pathlib import Path

from flashrl_registry.documents import write_atomically


def rewrite(path: Path, data: bytes) -> None:
    """Write a file as a whole; where the path is a link, what it leads to, so that the link stays one.

    Args:
        path: Created where missing.
        data: The new content.

    Raises:
        OSError: It cannot be written.
    """
    target = Path(os.path.realpath(path))
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
    write_atomically(target, data)
    if mode is not None:
        target.chmod(mode)
