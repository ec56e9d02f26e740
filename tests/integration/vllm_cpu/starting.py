"""Programs that start engines in unusual orders; run as ``scenarios.py`` is.

python starting.py NAME ARGS.json OUT.json
"""

import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

Result = dict[str, Any]


def plugins_first(args: Result) -> Result:
    """vLLM's plugins are loaded long before the module that makes engines; ``late``: FLASHRL_CONFIG comes after."""
    from vllm.plugins import load_general_plugins

    result: Result = {"imported": "vllm.engine.arg_utils" in sys.modules}
    load_general_plugins()
    if "late" in args:
        os.environ["FLASHRL_CONFIG"] = args["late"]
    import scenarios  # imports vllm's engines

    return {**result, **scenarios.observe(scenarios.engine(args["model"]))}


def handed_over(args: Result) -> Result:
    """A launcher makes engine arguments and hands them to a process of its own, which makes the engine from them."""
    from vllm.engine.arg_utils import EngineArgs

    made = EngineArgs(model=args["model"], skip_tokenizer_init=True, max_model_len=128, enforce_eager=True)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_engine_from, (made,))


def _engine_from(made: Any) -> Result:
    """In a process in which vLLM makes a configuration before it has loaded its plugins."""
    from vllm.v1.engine.llm_engine import LLMEngine

    llm = LLMEngine.from_engine_args(made)
    return {"quantization": llm.vllm_config.model_config.quantization}


def one_without_a_plan(args: Result) -> Result:
    """Three engines in one program: FLASHRL_TEST_RELOAD, then no plan, then bf16."""
    import scenarios

    result = {"first": scenarios.observe(scenarios.engine(args["model"]))}
    for name in ("FLASHRL_CONFIG", "FLASHRL_TEST_RELOAD"):
        del os.environ[name]
    result["stock"] = {"tokens": scenarios.greedy(scenarios.engine(args["model"]))}
    os.environ["FLASHRL_CONFIG"] = "bf16"
    return {**result, "bf16": scenarios.observe(scenarios.engine(args["model"]))}


SCENARIOS = {scenario.__name__: scenario for scenario in (handed_over, one_without_a_plan, plugins_first)}

if __name__ == "__main__":
    Path(sys.argv[3]).write_text(json.dumps(SCENARIOS[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text()))))
