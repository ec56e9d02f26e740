"""English text that every Python installation has, in two parts that share nothing: one to score on, one held out.

Deterministic for one release of Python; a measurement names the digest of its tokens.
"""

import ast
import sys
import sysconfig
from pathlib import Path
from pydoc_data.topics import topics

CALIBRATION_TOPICS = 16
"""The longest topics calibrate the demo's quantized twin, so they are in neither part."""
_SHORTEST = 200


def gather(folder: Path) -> tuple[Path, Path]:
    """Write ``scored.txt``, topics of the language reference, and ``held_out.txt``, licence and modules' docstrings."""
    by_length = sorted(topics, key=lambda topic: (-len(topics[topic]), topic))
    scored = "\n\n".join(topics[name].strip() for name in sorted(by_length[CALIBRATION_TOPICS:]))
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    # A part of it: whoever reads few tokens gets docstrings too.
    licence = (stdlib / "LICENSE.txt").read_text(encoding="utf-8")[:2500]
    held_out = "\n\n".join([licence, *_docstrings(stdlib)])
    files = folder / "scored.txt", folder / "held_out.txt"
    for file, text in zip(files, (scored, held_out), strict=True):
        file.write_text(text, encoding="utf-8")
    return files


def _docstrings(stdlib: Path) -> list[str]:
    found = []
    for name in sorted(sys.stdlib_module_names):
        path = next((p for p in (stdlib / f"{name}.py", stdlib / name / "__init__.py") if p.is_file()), None)
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) if path else None
        if text is not None and len(text) >= _SHORTEST:
            found.append(text)
    return found
