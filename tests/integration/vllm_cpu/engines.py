"""The ways in which programs run engines: each scenario in a process of its own.

python engines.py NAME ARGS.json OUT.json
"""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

SCENARIOS = {
    "alone": ("engines", "alone"),
    "launched": ("launched", "two_processes"),
    "one_replica": ("asynchronous", "one_replica"),
    "paused": ("asynchronous", "paused"),
    "ray": ("ray_job", "two_nodes"),
    "two_replicas": ("asynchronous", "two_replicas"),
    "two_workers": ("tensor_parallel", "two_workers"),
    "worker_dies": ("tensor_parallel", "worker_dies"),
}


def alone(args: dict[str, str]) -> dict[str, Any]:
    """Fresh engines in this process, which the others are compared with."""
    import scenarios

    return {
        name: {**scenarios.observe(scenarios.engine(model)), "prompts": scenarios.TOKENS}
        for name, model in args.items()
    }


if __name__ == "__main__":
    module, function = SCENARIOS[sys.argv[1]]
    result = getattr(importlib.import_module(module), function)(json.loads(Path(sys.argv[2]).read_text()))
    Path(sys.argv[3]).write_text(json.dumps(result))
