"""A program that torchrun starts twice, each process with an engine in it, as TRL's colocate mode does."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

Result = dict[str, Any]


def two_processes(args: Result) -> Result:
    """What each of the two saw."""
    out = Path(args["folder"])
    given = out / "launched.json"
    given.write_text(json.dumps({"model": args["model"], "out": str(out)}))
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0", "--standalone"]
    subprocess.run([sys.executable, *command, __file__, str(given)], check=True, timeout=300)
    return {rank: json.loads((out / f"{rank}.json").read_text()) for rank in ("0", "1")}


def replica(given: Path) -> None:
    """One of the two."""
    import scenarios
    import torch

    args = json.loads(given.read_text())
    torch.distributed.init_process_group("gloo")  # as every trainer has done by then
    llm = scenarios.engine(args["model"], distributed_executor_backend="external_launcher", num_gpu_blocks_override=64)
    result = scenarios.observe(llm)
    model = scenarios.live_model(llm)
    for name, tensor in scenarios.checkpoint(args["model"]).items():
        model.load_weights([(name, tensor)])
    result["updated"] = scenarios.observe(llm)
    (Path(args["out"]) / f"{os.environ['RANK']}.json").write_text(json.dumps(result))
    torch.distributed.barrier()


if __name__ == "__main__":
    replica(Path(sys.argv[1]))
