"""FlashRL's start-up hook: the lines that its installation wrote into ``usercustomize.py``.

FlashRL (its ``setup.py`` and its ``flashrl setup``) makes every Python of an environment import ``flash_rl``, which
configures the root logger and, where FLASHRL_CONFIG is set, patches vLLM. Beside this project's plugin both would
quantize. Only lines of the forms that FlashRL wrote are removed; a line in another form is named and left.
"""

import re
import site
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from flashrl_registry.documents import write_atomically

FILE_NAME = "usercustomize.py"

# A trailing comment was never written by FlashRL; its own cleanup put "# " before its lines.
_IMPORT = re.compile(r"(# )?import flash_rl\s*")
_TRY = re.compile(r"(# )?try: import flash_rl\s*")
_EXCEPT = re.compile(r"(# )?except ImportError: pass\s*")
_MENTION = re.compile(r"[^#]*\b(import|from)\s+flash_rl\b")


@dataclass(frozen=True)
class CleanedFile:
    """What was found in one file, and done.

    Attributes:
        path: The file.
        removed: Lines that were FlashRL's.
        kept: Number of other lines.
        unknown: Lines that import flash_rl in a form that FlashRL did not write, with their numbers.
        deleted: Nothing else was in the file, and it is gone.
    """

    path: Path
    removed: list[str] = field(default_factory=list)
    kept: int = 0
    unknown: list[tuple[int, str]] = field(default_factory=list)
    deleted: bool = False


def default_folders() -> list[Path]:
    """Where Python looks for ``usercustomize.py``: site-packages, and the user's own."""
    folders = [*site.getsitepackages(), site.getusersitepackages()]
    return [Path(folder) for folder in dict.fromkeys(folders)]


def clean(places: Iterable[Path], *, dry_run: bool = False) -> list[CleanedFile]:
    """Remove FlashRL's lines.

    Args:
        places: Folders that may hold a ``usercustomize.py``, or such files themselves.
        dry_run: Change nothing.

    Returns:
        One entry per file that exists, whether or not anything was in it. A second run finds nothing.

    Raises:
        OSError: A file cannot be read or replaced; those before it are done.
    """
    files = [place if place.suffix == ".py" else place / FILE_NAME for place in places]
    return [_clean_file(file, dry_run=dry_run) for file in files if file.is_file()]


def _clean_file(path: Path, *, dry_run: bool) -> CleanedFile:
    # Bytes that are no UTF-8 survive; only lines that are FlashRL's change.
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    lines = text.splitlines(keepends=True)
    removed, kept = _split(lines)
    unknown = [
        (number, line.strip())
        for number, line in enumerate(lines, 1)
        if number - 1 not in removed and _MENTION.match(line)
    ]
    empty = not "".join(kept).strip()
    if removed and not dry_run:
        if empty:
            path.unlink()
        else:
            mode = stat.S_IMODE(path.stat().st_mode)
            write_atomically(path, "".join(kept).encode("utf-8", "surrogateescape"))
            path.chmod(mode)
    return CleanedFile(
        path=path,
        removed=[lines[index].rstrip("\r\n") for index in sorted(removed)],
        kept=len(kept),
        unknown=unknown,
        deleted=bool(removed) and empty,
    )


def _split(lines: list[str]) -> tuple[set[int], list[str]]:
    """Indices of FlashRL's lines, and the other lines."""
    removed: set[int] = set()
    for index, line in enumerate(lines):
        following = lines[index + 1] if index + 1 < len(lines) else ""
        if _IMPORT.fullmatch(line):
            removed.add(index)
        elif (
            _TRY.fullmatch(line) and _EXCEPT.fullmatch(following) and line.startswith("#") == following.startswith("#")
        ):
            removed |= {index, index + 1}
    return removed, [line for index, line in enumerate(lines) if index not in removed]
