"""Publishing and moving a channel, killed (SIGKILL) at random moments: is the registry ever between two states?

    python bench/kill_publish.py --kills 200

A child publishes one version after another and moves a channel to each; it is killed at a random moment. After each
kill every byte is hashed again, every history read, and nothing that the child had reported may be missing. Exits with
1 where one of that fails.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from flashrl_registry.documents import ChannelEvent
from flashrl_registry.registry import LocalStore
from flashrl_registry.registry.keeping import verify
from flashrl_registry.registry.standing import standing_of

PLAN = Path(__file__).resolve().parents[1] / "profiles" / "HuggingFaceTB" / "SmolLM2-135M-Instruct" / "int8"
NAME = "team/toy"
CHILD = """
import sys
from pathlib import Path
from flashrl_registry.registry import LocalStore, read_bundle
from flashrl_registry.registry.channels import move_channel
store, bundle, number = LocalStore(Path(sys.argv[1])), read_bundle(Path(sys.argv[2])), int(sys.argv[3])
print("ready", flush=True)
while True:
    version = f"1.{number}.0"
    store.publish(bundle, "team/toy", version)
    print("published", version, flush=True)
    move_channel(store, "team/toy", "stable", version)
    print("moved", version, flush=True)
    number += 1
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    faults, between, total, checked = [], 0, 0, 0
    with tempfile.TemporaryDirectory() as scratch:
        for kill in range(args.kills):
            if kill % 20 == 0:  # a young registry now and then, so that hashing it stays quick
                root = Path(scratch) / str(kill)
                next_number = 0
            reported, channel = run_child(root, next_number, rng.uniform(0.0, 0.8))
            store = LocalStore(root)
            entries = list(verify(store))
            faults += [f"kill {kill}: {entry.ref}: {entry.error}" for entry in entries if entry.error is not None]
            versions = store.versions(NAME)
            faults += [f"kill {kill}: {version} is lost" for version in reported if version not in versions]
            history = store.history(NAME)
            at = standing_of(history).channels.get("stable")
            moves = [event.version for event in history.events if isinstance(event, ChannelEvent)]
            if channel is not None and channel not in moves:
                faults.append(f"kill {kill}: the move to {channel} is lost")
            if at is not None and at not in versions:
                faults.append(f"kill {kill}: stable points at {at}, which is not there")
            between += (root / ".staging").exists() and any((root / ".staging").iterdir())
            total, checked = total + len(reported), checked + len(entries)
            next_number = 1 + max((int(version.split(".")[1]) for version in versions), default=-1)
    print(
        f"{args.kills} kills, {between} of them while something was being written; "
        f"{total} publications reported, {checked} versions hashed again"
    )
    print("\n".join(faults) or "verify was clean each time, and nothing that was reported is lost")
    return 1 if faults else 0


def run_child(root: Path, number: int, seconds: float) -> tuple[list[str], str | None]:
    """What a child reported before it was killed: versions, and the last channel move."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(root), str(PLAN), str(number)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "ready"
    time.sleep(seconds)
    child.send_signal(signal.SIGKILL)
    lines = [line.split() for line in child.stdout.read().splitlines()]
    child.wait()
    whole = [line for line in lines if len(line) == 2]
    moved = [version for what, version in whole if what == "moved"]
    return [version for what, version in whole if what == "published"], moved[-1] if moved else None


if __name__ == "__main__":
    sys.exit(main())
