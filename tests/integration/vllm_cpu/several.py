"""Several scenarios one after the other in one process: vLLM takes longer to import than a tiny engine to start.

python several.py run ARGS.json OUT.json
"""

import gc
import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

Result = dict[str, Any]


def run(args: Result) -> Result:
    """Every job's ``result``, or the ``error`` that ended it; one that fails keeps no other from running."""
    return {name: _one(**job) for name, job in args["jobs"].items()}


def _one(scenario: str, env: dict[str, str], args: Result) -> Result:
    module, function = scenario.split(".")
    before = dict(os.environ)
    os.environ.update(env)
    try:
        return {"result": getattr(importlib.import_module(module), function)(args)}
    except Exception as exc:  # noqa: BLE001 - the test decides whether that is what a user should see
        traceback.print_exc()
        return {"error": f"{type(exc).__name__}: {exc}"}
    finally:
        os.environ.clear()
        os.environ.update(before)
        gc.collect()  # engines of this job


if __name__ == "__main__":
    assert sys.argv[1] == "run"
    Path(sys.argv[3]).write_text(json.dumps(run(json.loads(Path(sys.argv[2]).read_text()))))
