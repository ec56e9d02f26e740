"""Ten thousand published plans: time and memory of ``list``, ``search`` and ``push``, as processes.

    python bench/registry_10k.py

The registry is laid out by its own writer once and copied from there by name, so that it is made in a minute; every
second plan has a channel. The first listing reads every manifest and makes the index; what is timed is every later
one. Exits with 1 over a limit.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from flashrl_registry.documents import Manifest, read_document
from flashrl_registry.registry import LocalStore, read_bundle
from flashrl_registry.registry.channels import move_channel

PROFILES = Path(__file__).resolve().parents[1] / "profiles"
_MORE_KIB = 6 << 10  # what the names of ten thousand folders and an index in the way take
COMMAND = "from flashrl_cli.app import registry_main; registry_main()"


def fill(root: Path, count: int) -> None:
    """Publish a plan, and again under other names by copying what its writer wrote."""
    first = LocalStore(root).publish(
        read_bundle(PROFILES / "Qwen" / "Qwen2.5-0.5B-Instruct" / "int8"), "seed/plan", "1.0.0"
    )
    assert first.folder is not None
    move_channel(LocalStore(root), "seed/plan", "stable", "1.0.0")
    manifest = read_document(first.folder / "manifest.json", Manifest)
    history = (first.folder.parent / "history.json").read_text()
    for number in range(count - 1):
        name = f"team-{number % 100:02}/plan-{number:05}"
        folder = root / name / "1.0.0"
        folder.mkdir(parents=True)
        for entry in manifest.files:
            os.link(first.folder / entry.path, folder / entry.path)
        if number % 2:
            (folder.parent / "history.json").write_text(history.replace("seed/plan", name))
        made = manifest.model_copy(update={"name": name})
        (folder / "manifest.json").write_bytes(made.model_copy(update={"digest": made.compute_digest()}).json_file())


def run(root: Path, *arguments: str) -> tuple[float, float, int, dict[str, object]]:
    """Wall seconds, CPU seconds, peak KiB and the result of a command."""
    code = (
        f"import sys\ntry:\n    {COMMAND.replace('; ', chr(10) + '    ')}\nfinally:\n"
        "    print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0], file=sys.stderr)\n"
    )
    environ = {**os.environ, "FLASHRL_REGISTRY": str(root)}
    wall, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--json"], env=environ, capture_output=True, text=True, check=True
    )
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    return time.perf_counter() - wall, cpu, int(ran.stderr.split()[-1]), json.loads(ran.stdout)


def timed(root: Path, small: Path, *arguments: str, repeats: int, limit: float) -> bool:
    """Print what a command costs with many plans and with few.

    Returns:
        It is within its limit of CPU time, and takes no more memory with many plans than with few.
    """
    (wall, cpu, memory), (_, start, few) = (
        (
            statistics.median(r[0] for r in runs), statistics.median(r[1] for r in runs), max(r[2] for r in runs)
        )
        for runs in ([run(folder, *arguments) for _ in range(repeats)] for folder in (root, small))
    )  # fmt: skip
    print(
        f"{' '.join(arguments)}:  {cpu:.2f} s CPU, {wall:.2f} s wall "
        f"(with 10 plans {start:.2f} s CPU; limit {limit:g}), "
        f"{memory / 1024:.0f} MiB (with 10 plans {few / 1024:.0f} MiB)"
    )
    return cpu <= limit and memory - few <= _MORE_KIB


def pushed(root: Path, repeats: int, limit: float) -> bool:
    """Print what a publication costs, without the start of a process."""
    store, seconds = LocalStore(root), []
    for path in (("HuggingFaceTB", "SmolLM2-135M-Instruct", "int8"), ("Qwen", "Qwen2.5-0.5B-Instruct", "fp8")):
        bundle, runs = read_bundle(PROFILES.joinpath(*path)), []
        for number in range(repeats):
            before = time.perf_counter()
            store.publish(bundle, f"new/{path[1]}", f"1.{number}.0")
            runs.append(time.perf_counter() - before)
        seconds.append(statistics.median(runs))
    print(f"push:  {seconds[0]:.2f} s with a profile, {seconds[1]:.2f} s without (limit {limit:g})")
    return max(seconds) <= limit


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root, small = Path(scratch) / "large", Path(scratch) / "small"
        fill(small, 10)
        fill(root, args.count)
        run(small, "list")
        first, _, _, listed = run(root, "list")
        assert len(listed["plans"]) == args.count  # type: ignore[arg-type]
        print(f"{args.count:,} plans; the first list, which makes the index: {first:.2f} s")
        search = ["search", "plan-07", "--scheme", "int8", "--vllm", "0.32.0"]
        commands = (["list"], [*search, "--store", "local"], search)
        good = [timed(root, small, *command, repeats=args.repeats, limit=1.0) for command in commands]
        good.append(pushed(root, args.repeats, 0.3))
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
