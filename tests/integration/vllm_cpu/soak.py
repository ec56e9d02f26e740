"""Many consecutive updates of one engine: memory and places of parameters.

python soak.py soak ARGS.json OUT.json
"""

import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from receiver import checkpoint
from scenarios import engine, live_model, observe


def resident_bytes() -> int:
    """What the operating system holds for this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def pointers(model: Any) -> dict[str, int]:
    return {name: tensor.data_ptr() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


def soak(args: dict[str, Any]) -> dict[str, Any]:
    """Alternate between two checkpoints, one tensor per call; a sample of memory after every tenth of them."""
    llm = engine(args["models"][0])
    model = live_model(llm)
    sent = [checkpoint(folder) for folder in args["models"]]
    places, count = pointers(model), int(args["count"])
    resident, seconds = [], []
    for index in range(1, count + 1):
        began = time.perf_counter()
        for item in sent[index % 2].items():
            model.load_weights([item])
        seconds.append(time.perf_counter() - began)
        if index % (count // 10) == 0:
            gc.collect()
            resident.append(resident_bytes())
    return {
        "resident": resident,
        "seconds": [seconds[0], sorted(seconds)[count // 2], max(seconds[10:])],
        "moved": [name for name, place in pointers(model).items() if place != places[name]],
        "last": observe(llm),
        "fresh": observe(engine(args["models"][count % 2])),
    }


if __name__ == "__main__":
    Path(sys.argv[3]).write_text(json.dumps(soak(json.loads(Path(sys.argv[2]).read_text()))))
