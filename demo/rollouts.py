"""Rollouts before and after weight updates, as an RL trainer drives them.

    FLASHRL_CONFIG=... python demo/rollouts.py MODEL UPDATED OUT.json

MODEL and UPDATED are bf16 checkpoints of one model. The weights of UPDATED arrive twice, each time as a trainer
sends them: (a) ``collective_rpc("reload_weights")`` from a folder, (b) ``model.load_weights([(name, tensor)])``,
one bf16 tensor per call with no end mark. Between the two the old weights are restored the same ways.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # route (b) needs the model object in this process

import vllm
from safetensors import safe_open

from flashrl_registry.runtime import status

PROMPTS = [
    "The capital of France is",
    "To make a cup of tea, first",
    "The three primary colours are",
    "Once upon a time there was a",
    "The best way to learn a language is",
    "In the year 2050, people will",
    "A good friend is someone who",
    "The ocean is deep and",
]
GREEDY = vllm.SamplingParams(temperature=0.0, max_tokens=24)
SAMPLED = vllm.SamplingParams(temperature=1.0, max_tokens=48, logprobs=0, seed=0)


def tensors(folder: Path):
    """The checkpoint's tensors, one at a time."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as handle:
            for name in handle.keys():  # noqa: SIM118 - safe_open is no dict
                yield name, handle.get_tensor(name)


def from_folder(llm: vllm.LLM, folder: Path) -> float:
    """Route (a); returns seconds."""
    began = time.perf_counter()
    llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
    llm.reset_prefix_cache()
    return time.perf_counter() - began


def one_by_one(llm: vllm.LLM, folder: Path) -> float:
    """Route (b); returns seconds."""
    model = llm.llm_engine.model_executor.driver_worker.model_runner.get_model()
    began = time.perf_counter()
    for name, tensor in tensors(folder):
        model.load_weights([(name, tensor)])
    llm.reset_prefix_cache()
    return time.perf_counter() - began


def greedy(llm: vllm.LLM) -> list[str]:
    return [output.outputs[0].text for output in llm.generate(PROMPTS, GREEDY, use_tqdm=False)]


def sampled(llm: vllm.LLM) -> list[dict[str, object]]:
    """Token ids and the logprobs of the distribution they were sampled from."""
    rollouts = []
    for output in llm.generate(PROMPTS, SAMPLED, use_tqdm=False):
        tokens = list(output.outputs[0].token_ids)
        logprobs = [step[token].logprob for step, token in zip(output.outputs[0].logprobs, tokens, strict=True)]
        rollouts.append({"prompt": list(output.prompt_token_ids), "tokens": tokens, "logprobs": logprobs})
    return rollouts


def main() -> None:
    model, updated, out = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    llm = vllm.LLM(model=str(model), max_model_len=512, enforce_eager=True)
    report: dict[str, object] = {"status": status(llm)[0]}
    report["greedy_start"], report["sampled_start"] = greedy(llm), sampled(llm)
    resident_start = status(llm, resident=True)[0]["resident"]
    seconds = {}
    for route, send in (("reload_weights", from_folder), ("load_weights", one_by_one)):
        seconds[route] = send(llm, updated)
        report[f"greedy_{route}"] = greedy(llm)
        report[f"sampled_{route}"] = sampled(llm)
        report[f"resident_{route}"] = status(llm, resident=True)[0]["resident"]
        send(llm, model)
        report[f"restored_{route}"] = status(llm, resident=True)[0]["resident"] == resident_start
    report["update_seconds"] = seconds
    report["same_resident"] = report["resident_reload_weights"] == report["resident_load_weights"]
    report["status_end"] = status(llm)[0]
    out.write_text(json.dumps(report))


if __name__ == "__main__":
    main()
