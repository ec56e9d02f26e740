"""What the rollout engine of a TRL trainer ran, read back from the engine itself.

No callback and no change in TRL: ``flashrl_registry.status`` asks the worker after training, ``verify`` reads every
resident weight back through the engine's kernels and compares it with what the plan made of what TRL sent last.
"""

import json
from pathlib import Path
from typing import Any

from flashrl_registry import status, verify


def prove(trainer: Any, file: Path | None = None) -> None:
    """Print what the engine ran.

    Args:
        trainer: A TRL trainer with ``use_vllm=True, vllm_mode="colocate"``, after ``train()``.
        file: Gets the same as JSON.

    Raises:
        SystemExit: Fewer complete updates than training steps, or a resident weight that differs.
    """
    llm, steps = trainer.vllm_generation.llm, trainer.state.global_step
    [report], [resident] = status(llm), verify(llm)
    if file is not None:
        file.write_text(json.dumps({"steps": steps, "status": report, "verify": resident}, indent=1) + "\n")
    print(f"plan              {report['source']} {report['plan_digest']}")
    print(f"engine layers     {report['layers']}")
    print(f"tensors           {report['tensors']}")
    print(f"training steps    {steps}")
    print(f"weight updates    {report['weight_version']}, the last one took {report['last_update']['seconds']:.2f} s")
    print(f"resident weights  {resident['equal']} of {resident['compared']} tensors equal, bit for bit")
    if report["state"] != "serving" or report["weight_version"] != steps:
        raise SystemExit(f"not every step had a complete update: {report}")
    if resident["different"]:
        raise SystemExit(f"resident weights differ from what was sent: {resident['different']}")
