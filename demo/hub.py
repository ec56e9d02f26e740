"""A plan by way of a Hugging Face Hub: published on one machine, run by vLLM on another.

    python demo/hub.py [--work DIR]      # the transcript
    python demo/hub.py --write           # the same, and README.md shows it
    python demo/hub.py --check           # fails where README.md shows something else

The Hub is the one of the tests: real git repositories behind the Hub's protocol, on the loopback interface; the client
is the real huggingface_hub. Each command is a process of its own. Both machines are folders here: each has its own
registry, cache and login.
"""

import argparse
import difflib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "integration" / "hub"))

from git_server import Account, GitHub, serve_git

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BIN = Path(sys.executable).parent
NAME = "demo/smollm2-135m-int8"
MODEL = "SmolLM2-135M-Instruct"
TOKEN = "hf_" + "d" * 34  # of the loopback server, and of nothing else
# One thread keeps runs comparable on small machines; a GiB of KV cache is plenty here.
ENGINE_ENV = {"OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "TQDM_DISABLE": "1"}
MARKER = "<!-- written by demo/hub.py --write -->"
_BLOCK = re.compile(rf"(?<={re.escape(MARKER)}\n```console\n)(.*?)(?=^```$)", re.MULTILINE | re.DOTALL)
_COLUMN_GAP = re.compile(r" {2,}")

PROFILE = f"flashrl profile -m {MODEL} -qm {MODEL}-quantized.w8a8 -o profile --fn int8"
AUTHOR = [
    f"flashrl-registry compile -m {MODEL} --profile profile -o plan",
    f"flashrl-registry push plan hf://{NAME}@1.0.0",
    f"flashrl-registry channel set hf://{NAME} stable 1.0.0",
]
USER = [
    f"flashrl-registry search --scheme int8 --device cpu --model {MODEL} --store hub",
    f"flashrl-registry pull {NAME}@stable",
    f"flashrl-registry lock {NAME}@stable",
    "flashrl-registry lock --check",
]
ENGINE = f"FLASHRL_CONFIG={NAME}@stable python hub_rollout.py {MODEL}"


class Demo:
    """Two machines and a Hub.

    Args:
        work: Folder for them; emptied.
        pair: The model's folder and its quantized twin.
        hub: The server.
    """

    def __init__(self, work: Path, pair: Path, hub: GitHub) -> None:
        self.work, self.hub, self.shown = work, hub, ""
        for machine in ("author", "user"):
            (work / machine).mkdir(parents=True)
            for folder in pair.iterdir():
                (work / machine / folder.name).symlink_to(folder.resolve())
        hub.accounts[TOKEN] = Account("demo", frozenset({"demo"}))

    def run(self, machine: str, line: str) -> None:
        """Type a line on a machine; what it prints is shown and kept.

        Raises:
            SystemExit: It failed.
        """
        self._show(f"{machine}$ {line}\n")
        environ = self._environ(machine)
        words = shlex.split(line)
        while "=" in words[0]:
            variable, _, value = words.pop(0).partition("=")
            environ[variable] = value
        if words[0] == "python":
            words = [sys.executable, str(HERE / words[1]), *words[2:]]
        else:
            words[0] = str(BIN / words[0])
        done = subprocess.run(
            words, env=environ, cwd=self.work / machine, capture_output=True, text=True, check=False, timeout=600
        )
        if done.returncode != 0:
            raise SystemExit(f"exit code {done.returncode}: {line}\n{done.stdout}{done.stderr}")
        # vLLM prints this before its logger exists.
        lines = [text for text in done.stdout.splitlines() if not text.startswith("Triton is installed")]
        self._show("".join(f"{text}\n" for text in lines))

    def _environ(self, machine: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "FLASHRL"))}
        home = self.work / machine
        return {
            **kept, **ENGINE_ENV, "HF_ENDPOINT": self.hub.endpoint, "HF_HOME": str(home / "hf"),
            "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1", "FLASHRL_REGISTRY": str(home / "registry"),
            **({"HF_TOKEN": TOKEN} if machine == "author" else {}),
        }  # fmt: skip

    def _show(self, text: str) -> None:
        print(text, end="", flush=True)
        self.shown += text


def transcript(work: Path, pair: Path, *, engine: bool = True) -> str:
    """Run everything, and return what was typed and printed after the pair was profiled.

    Args:
        work: A folder for it; emptied.
        pair: From ``prepare_pair.py``.
        engine: Whether vLLM runs at the end.
    """
    shutil.rmtree(work, ignore_errors=True)
    (work / "hub").mkdir(parents=True)
    with serve_git(work / "hub") as hub:
        demo = Demo(work, pair, hub)
        demo.run("author", PROFILE)
        demo.shown = ""
        for line in AUTHOR:
            demo.run("author", line)
        for line in [*USER, *([ENGINE] if engine else [])]:
            demo.run("user", line)
        return demo.shown.replace(hub.endpoint, "http://127.0.0.1:8080").replace(f"{work}/", "")


def comparable(text: str) -> str:
    """A transcript without what differs from run to run and from processor to processor.

    Digests and commits become numbers in the order in which they appear, so what must be the same plan still is.
    """
    seen: dict[str, str] = {}

    def number(match: re.Match[str]) -> str:
        key = match[0].removeprefix("sha256:")[:12]
        return seen.setdefault(key, f"<{len(seen) + 1}>")

    text = re.sub(r"20\d\d-\d\d-\d\dT[\d:+]+", "<time>", text)
    text = re.sub(r"(?<=[a-z] ->)(['\"]).+\1$", "<text>", text, flags=re.MULTILINE)
    text = re.sub(r"(?:sha256:)?\b[0-9a-f]{12,64}\b", number, text)
    return _COLUMN_GAP.sub("  ", text)


def in_readme(readme: str) -> str:
    """The transcript that README.md shows."""
    found = _BLOCK.search(readme)
    if found is None:
        raise SystemExit(f"README.md has no block after {MARKER}")
    return found[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(".cache/demo/hub"))
    parser.add_argument("--pair", type=Path, default=Path(".cache/demo/pair"))
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--write", action="store_true", help="put the transcript into README.md")
    action.add_argument("--check", action="store_true", help="fail where README.md shows something else")
    options = parser.parse_args()
    shown = transcript(options.work.resolve(), options.pair.resolve())
    if not options.write and not options.check:
        return 0
    file = ROOT / "README.md"
    readme = file.read_text()
    if options.write:
        file.write_text(_BLOCK.sub(lambda _: shown, readme, count=1))
        return 0
    before, after = comparable(in_readme(readme)), comparable(shown)
    if before == after:
        return 0
    sys.stdout.writelines(difflib.unified_diff(before.splitlines(True), after.splitlines(True), "README.md", "now"))
    return 1


if __name__ == "__main__":
    sys.exit(main())
