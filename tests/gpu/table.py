"""The results of ``run.py --table`` as the page docs/gpu.md.

python tests/gpu/table.py "NVIDIA H100 80GB HBM3" "vLLM 0.25.1, torch 2.11+cu130" 2026-11-24 FILE... > docs/gpu.md
"""

import json
import sys
from pathlib import Path

from run import ROUTES, SCHEMES

HEAD = """# What was run on a GPU

Made by `tests/gpu/table.py` from a run of `pytest -m gpu tests/gpu/test_modes.py` on one {device}
({versions}, {date}).

Nothing here runs in CI; anyone with a Hopper GPU can run it. A cell says how many of {routes} ways of updating left
the engine bit-equal to a fresh one, tokens and resident bytes, there and back; and how many checkpoint tensors were
then proven to be what the plan made of what was sent. vLLM quantizes `fp8` itself, and `fp8_tensor` again where it
fuses layers, so those tensors have no bytes of ours to be compared with; their equality to a fresh engine still holds.

"""


def main() -> None:
    device, versions, date, *files = sys.argv[1:]
    checks = {c["check"]: c for file in files for c in json.loads(Path(file).read_text())}
    print(HEAD.format(device=device, versions=versions, date=date, routes=len(ROUTES)), end="")
    columns = {
        "dense, tied": "{} tied", "dense, untied": "{} untied", "experts": "experts {} moe",
        "dense, CUDA graphs": "graphs {} untied", "experts, CUDA graphs": "graphs experts {} moe",
    }  # fmt: skip
    print("| mode | " + " | ".join(columns) + " |\n|---" + "|---" * len(columns) + "|")
    for mode in (*SCHEMES, "mixed", "fp8 KV cache"):
        cells = [cell(checks, label.format(mode)) for label in columns.values()]
        print(f"| {mode} | " + " | ".join(cells) + " |")
    rest = [c for name, c in checks.items() if name.startswith(("faults", "sleep", "staged"))]
    groups = {
        "faults": "injected faults: refused to generate, then healed bit-equal",
        "sleep level 1": "sleep level 1: weights kept; an update before the KV cache wakes equals a fresh engine",
        "sleep level 2": "sleep level 2: refused to generate until an update, then equal to a fresh engine",
        "staged": "staged plan: the old weights serve while an update is on its way and after it failed",
    }
    print("\n| what else | passed |\n|---|---|")
    for prefix, text in groups.items():
        found = [c for c in rest if c["check"].startswith(prefix) and not c["check"].endswith(" ran")]
        print(f"| {text} | {sum(c['passed'] for c in found)} of {len(found)} |")


NO_KERNEL = ("experts fp8_tensor moe", "graphs experts fp8_tensor moe")


def cell(checks: dict[str, dict[str, object]], label: str) -> str:
    found = [checks[f"{label} {route}"] for route in ROUTES if f"{label} {route}" in checks]
    if not found:
        return "refused" if label in ("graphs experts fp8 moe", *NO_KERNEL) else "not run"
    proven = str(found[0]["detail"]).partition(" proven")[0]
    return f"{sum(bool(c['passed']) for c in found)} of {len(found)}; {proven}"


if __name__ == "__main__":
    main()
