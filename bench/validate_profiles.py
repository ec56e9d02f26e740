"""Wall time of ``flashrl-registry validate profiles/`` as a process, from start to exit.

    python bench/validate_profiles.py

The first run warms the page cache and is not counted; the median of the others must stay under the limit. Exits with
1 where it does not, or where a document is invalid.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

PROFILES = Path(__file__).resolve().parent.parent / "profiles"
LIMIT_SECONDS = 2.0
COMMAND = "from flashrl_cli.app import registry_main; registry_main()"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--limit", type=float, default=LIMIT_SECONDS, help="wall seconds")
    parser.add_argument("--repeats", type=int, default=5, help="counted runs")
    args = parser.parse_args()
    seconds, summary = [], ""
    for _ in range(args.repeats + 1):
        start = time.perf_counter()
        ran = subprocess.run(
            [sys.executable, "-c", COMMAND, "validate", str(PROFILES)], capture_output=True, text=True, check=False
        )
        seconds.append(time.perf_counter() - start)
        if ran.returncode != 0:
            print(ran.stdout + ran.stderr)
            return 1
        summary = ran.stdout.splitlines()[-1]
    num_bytes = sum(file.stat().st_size for file in PROFILES.rglob("*") if file.is_file())
    median, spread = statistics.median(seconds[1:]), f"{min(seconds[1:]):.2f} to {max(seconds[1:]):.2f}"
    print(f"validate profiles/: {summary}, {num_bytes:,} bytes")
    print(f"{median:.2f} s median of {args.repeats} ({spread}); limit {args.limit:g} s")
    return 1 if median > args.limit else 0


if __name__ == "__main__":
    sys.exit(main())
