"""FlashRL's start-up hook: the lines that its installation wrote into ``usercustomize.py``.

FlashRL (its ``setup.py`` and its ``flashrl setup``) makes every Python of an environment import ``flash_rl``, which
configures the root logger and, where FLASHRL_CONFIG is set, patches vLLM. Beside this project's plugin both would
quantize. Only statements and comments of the forms that FlashRL wrote are removed, never text inside a string; an
import in another form is named and left, and so is everything in a file that is no Python.
"""

import ast
import io
import re
import site
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from flashrl_registry.errors import InteropError
from flashrl_registry.interop.rewriting import rewrite

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


def clean(places: Iterable[Path], *, dry_run: bool = False, must_exist: bool = False) -> list[CleanedFile]:
    """Remove FlashRL's lines.

    Args:
        places: Folders that may hold a ``usercustomize.py``, or such files themselves.
        dry_run: Change nothing.
        must_exist: Somebody named the places, and means what is there.

    Returns:
        One entry per file that exists, whether or not anything was in it. A second run finds nothing.

    Raises:
        InteropError: A place that must exist does not.
        OSError: A file cannot be read or replaced; those before it are done.
    """
    named = list(places)
    missing = next((place for place in named if must_exist and not place.exists()), None)
    if missing is not None:
        raise InteropError(f"{missing} does not exist", hint=f"name a {FILE_NAME}, or the folder of one")
    files = [place if place.is_file() else place / FILE_NAME for place in named]
    return [_clean_file(file, dry_run=dry_run) for file in files if file.is_file()]


def _clean_file(path: Path, *, dry_run: bool) -> CleanedFile:
    # Bytes that are no UTF-8 survive; only lines that are FlashRL's change.
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    lines = list(io.StringIO(text, newline=""))  # splits where Python does
    layout = _layout(text)
    removed = _hooks(lines, layout)
    unknown = [
        (number, line.strip())
        for number, line in enumerate(lines, 1)
        if number not in removed
        and (number in layout.imports or (number not in layout.in_strings and _MENTION.match(line)))
    ]
    kept = "".join(line for number, line in enumerate(lines, 1) if number not in removed)
    # A link leads to a file that somebody keeps elsewhere: emptied, it does as little as one that is gone.
    deleted = bool(removed) and not kept.strip() and not path.is_symlink()
    if removed and not dry_run:
        if deleted:
            path.unlink()
        else:
            rewrite(path, kept.encode("utf-8", "surrogateescape"))
    return CleanedFile(
        path=path,
        removed=[lines[number - 1].rstrip("\r\n") for number in sorted(removed)],
        kept=len(lines) - len(removed),
        unknown=unknown,
        deleted=deleted,
    )


@dataclass(frozen=True)
class _Layout:
    """What Python makes of a file's lines; numbers are 1-based.

    Attributes:
        statements: First and last line of the module's own statements; None for a file that is no Python.
        imports: Lines of statements that import flash_rl, at any depth.
        in_strings: Lines of strings that have several.
    """

    statements: frozenset[tuple[int, int]] | None
    imports: frozenset[int] = frozenset()
    in_strings: frozenset[int] = frozenset()


def _layout(text: str) -> _Layout:
    readable = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").removeprefix("\ufeff")
    try:
        with warnings.catch_warnings(action="ignore"):  # what Python thinks of the file's style is not the question
            tree = ast.parse(readable)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return _Layout(None)
    imports: set[int] = set()
    in_strings: set[int] = set()
    for node in ast.walk(tree):
        if _imports_flashrl(node):
            imports.add(node.lineno)  # type: ignore[attr-defined]
        elif isinstance(node, ast.Constant | ast.JoinedStr) and node.end_lineno != node.lineno:
            in_strings |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    statements = frozenset((node.lineno, node.end_lineno or node.lineno) for node in tree.body)
    return _Layout(statements, frozenset(imports), frozenset(in_strings))


def _imports_flashrl(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name.partition(".")[0] == "flash_rl" for alias in node.names)
    return isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").partition(".")[0] == "flash_rl"


def _hooks(lines: list[str], layout: _Layout) -> set[int]:
    """Numbers of FlashRL's lines."""
    if layout.statements is None:
        return set()
    removed: set[int] = set()
    for number, line in enumerate(lines, 1):
        following = lines[number] if number < len(lines) else ""
        comment = line.startswith("#") and number not in layout.in_strings
        if _IMPORT.fullmatch(line):
            if comment or (number, number) in layout.statements:
                removed.add(number)
        elif _TRY.fullmatch(line) and _EXCEPT.fullmatch(following):
            both_comments = comment and following.startswith("#")
            if both_comments or (number, number + 1) in layout.statements:
                removed |= {number, number + 1}
    return removed
