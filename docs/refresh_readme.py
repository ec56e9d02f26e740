"""Run the commands that README.md shows, and put what they print into it.

    python docs/refresh_readme.py --write     # after a change of what commands print
    python docs/refresh_readme.py --check     # fails where README.md shows something else

A block is run if the line before it is the marker below. Lines that start with ``$`` are commands: ``cd FOLDER`` from
the top of the repository, or one of ours; what follows is what they print, to stdout and stderr.
"""

import argparse
import difflib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MARKER = "<!-- checked by docs/refresh_readme.py -->"
_BLOCK = re.compile(rf"(?<={re.escape(MARKER)}\n```console\n)(.*?)(?=^```$)", re.MULTILINE | re.DOTALL)
_PROGRAMS = {"flashrl": "flashrl_main", "flashrl-registry": "registry_main"}


def refreshed(text: str) -> str:
    """README text with the output of today."""
    return _BLOCK.sub(lambda block: _run_block(block[0]), text)


def num_blocks(text: str) -> int:
    """Blocks that are run."""
    return len(_BLOCK.findall(text))


def _run_block(block: str) -> str:
    folder, shown = ROOT, ""
    for line in (line for line in block.splitlines() if line.startswith("$ ")):
        shown += line + "\n"
        program, *arguments = shlex.split(line[2:])
        if program == "cd":
            folder = ROOT / arguments[0]
        else:
            shown += _output(program, arguments, folder)
    return shown


def _output(program: str, arguments: list[str], folder: Path) -> str:
    code = f"from flashrl_cli.app import {_PROGRAMS[program]} as main; main()"
    path = os.pathsep.join([str(ROOT), str(ROOT / "cli"), *sys.path])
    environ = {key: value for key, value in os.environ.items() if not key.startswith("FLASHRL")}
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, env={**environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    return ran.stdout


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true")
    action.add_argument("--check", action="store_true")
    options = parser.parse_args()
    readme = ROOT / "README.md"
    before = readme.read_text()
    after = refreshed(before)
    if options.write:
        readme.write_text(after)
    elif after != before:
        sys.stdout.writelines(difflib.unified_diff(before.splitlines(True), after.splitlines(True), "README.md", "now"))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
