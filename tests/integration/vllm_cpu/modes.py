"""Programs that start engines in every mode of FLASHRL_CONFIG; run as ``scenarios.py`` is.

python modes.py NAME ARGS.json OUT.json
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from scenarios import engine, fresh, greedy, observe, send_folder

Result = dict[str, Any]


def starts(args: Result) -> Result:
    """One engine after the other, each under its own FLASHRL_CONFIG; what it starts with, and after one update."""
    result: Result = {}
    for name, config in args["configs"].items():
        os.environ["FLASHRL_CONFIG"] = config
        result[name] = _start_and_update(args["model"], args["updated"])
    del os.environ["FLASHRL_CONFIG"]
    result["stock"] = {"tokens": greedy(engine(args["quantized"]))}
    return result


def _start_and_update(model: str, updated: str) -> Result:
    llm = engine(model)
    start = observe(llm)
    send_folder(llm, updated)
    return {"start": start, "updated": observe(llm)}


SCENARIOS = {scenario.__name__: scenario for scenario in (fresh, starts)}

if __name__ == "__main__":
    Path(sys.argv[3]).write_text(json.dumps(SCENARIOS[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text()))))
