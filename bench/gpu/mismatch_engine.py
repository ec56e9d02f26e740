"""One engine of ``mismatch.py``: rollouts, weight updates as the trainer makes them, rollouts again.

    FLASHRL_CONFIG=... python mismatch_engine.py ASKED.json

What was sampled is written after each moment, so that an engine that is ended early keeps what it has. A plan that is
refused for this model is written as such.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # the trainer sends to the model object in this process

import torch
import vllm
from safetensors.torch import load_file

from flashrl_registry.errors import FlashRLError
from flashrl_registry.runtime import status, verify

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# A fixed size skips the measuring of free memory, which the other engines would disturb.
MEMORY = {"gpu_memory_utilization": 0.04, "kv_cache_memory_bytes": 3 << 29} if DEVICE == "cuda" else {}
Asked = dict[str, Any]


def main() -> None:
    asked: Asked = json.loads(Path(sys.argv[1]).read_text())
    result: dict[str, Any] = {"engine": asked["engine"], "moments": {}, "updates": []}
    began = time.perf_counter()
    try:
        llm = vllm.LLM(
            model=asked["model"], skip_tokenizer_init=True, max_num_seqs=asked["requests"],
            max_model_len=asked["model_length"], enable_prefix_caching=False, enforce_eager=not asked["graphs"],
            seed=0, **MEMORY,
        )  # fmt: skip
    except FlashRLError as exc:
        write(asked, result | {"refused": str(exc)})
        return
    result["start_seconds"] = round(time.perf_counter() - began, 1)
    result["layers"] = status(llm)[0]["layers"]
    result["start"] = status(llm)[0]["last_update"]
    prompts = json.loads(Path(asked["texts"]).read_text())["prompts"]
    result["moments"]["start"] = sampled(llm, prompts, asked)
    write(asked, result)
    for step in asked["sent"]:
        wait_for(Path(asked["work"]) / f"step-{step}")
        send(llm, load_file(Path(asked["work"]) / f"step-{step}" / "model.safetensors", device=DEVICE))
        proof = verify(llm)[0]
        proven = f"{proof['equal']} of {proof['compared']}"
        result["updates"].append({"step": step, **status(llm)[0]["last_update"], "proven": proven})
        if step in asked["measured"]:
            result["moments"][f"step-{step}"] = sampled(llm, prompts, asked)
        write(asked, result)
    (Path(asked["out"]).with_suffix(".done")).touch()


def send(llm: vllm.LLM, tensors: dict[str, torch.Tensor]) -> None:
    """As TRL and OpenRLHF do: one tensor in each call, with no end mark."""
    model = llm.llm_engine.model_executor.driver_worker.model_runner.get_model()
    for item in tensors.items():
        model.load_weights([item])


def sampled(llm: vllm.LLM, prompts: list[list[int]], asked: Asked) -> list[dict[str, Any]]:
    """At temperature 1 from the whole distribution, with the log probability of every sampled token."""
    params = vllm.SamplingParams(
        temperature=1.0, top_p=1.0, max_tokens=asked["length"], logprobs=0, detokenize=False,
        stop_token_ids=asked["stop"],
    )  # fmt: skip
    rollouts = []
    for output in llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False):
        tokens = list(output.outputs[0].token_ids)
        logprobs = [step[token].logprob for step, token in zip(output.outputs[0].logprobs, tokens, strict=True)]
        rollouts.append({"prompt": list(output.prompt_token_ids), "tokens": tokens, "logprobs": logprobs})
    return rollouts


def wait_for(folder: Path) -> None:
    """The trainer is ended, and this engine with it, by who started both."""
    while not folder.exists():
        time.sleep(0.2)


def write(asked: Asked, result: dict[str, Any]) -> None:
    out = Path(asked["out"])
    out.with_suffix(".new").write_text(json.dumps(result))
    out.with_suffix(".new").rename(out)


if __name__ == "__main__":
    main()
