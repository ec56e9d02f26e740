"""Tokens per second of rollouts under plans beside vLLM's own formats, on models of real shapes with random weights.

    python bench/gpu/rollout.py [--shape 32b,14b,7b] [--only int8,bf16] [--json FILE] [--baseline FILE]

Each engine is started in a process of its own, one after another, with CUDA graphs and torch.compile and an empty
compile cache, so that starts compare, too. It answers 256 requests of 128 tokens at temperature 1 with the log
probability of each sampled token; a short batch warms up. Printed beside the rates: the ratio to vLLM's own engine of
the same format and to bf16, the seconds of the start, and how many tokens the KV cache holds, which is where much of
the gain of large models comes from. Needs vLLM, this project installed, and one GPU with 80 GB for the 32B shape.
"""

import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from shapes import NATIVE, OF_PLAN, SHAPES, VOCAB, arguments, chosen, finish, in_a_process_of_its_own, machine

REQUESTS, PROMPT = 256, 128
LENGTHS = {"tiny": 64, "7b": 512, "14b": 512, "32b": 384}
UTILIZATION = {"tiny": 0.2, "7b": 0.9, "14b": 0.9, "32b": 0.93}
ENGINES = [*NATIVE, "fp8", "fp8_channel", "int8"]


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--shape", default="32b,14b,7b", help="of " + ", ".join(SHAPES))
    parser.add_argument("--rounds", type=int, default=1, help="counted batches; medians")
    given = parser.parse_args()
    if given.one:
        one_engine(json.loads(given.one))
        return 0
    report = machine()
    with tempfile.TemporaryDirectory() as folder:
        for shape in given.shape.split(","):
            model = SHAPES[shape].write(Path(folder) / shape)
            rows = []
            for engine in chosen(ENGINES, given.only):
                asked = {"engine": engine, "shape": shape, "model": str(model), "rounds": given.rounds}
                rows.append(in_a_process_of_its_own(__file__, asked, seconds=1800))
                report["rows"].append(rows[-1])
                print(text_of(rows[-1], rows), flush=True)
    finish(report, given, "tokens_per_second")
    return 0


def text_of(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    known = {other["engine"]: other for other in rows}
    text = (
        f"{row['shape']:4} {row['engine']:21} {row['tokens_per_second']:8.0f} tok/s, "
        f"start {row['start_seconds']:.1f} s, KV cache {row['kv_tokens']} tokens"
    )
    for base in dict.fromkeys(("vLLM bf16", OF_PLAN.get(row["engine"], row["engine"]))):
        if base in known and base != row["engine"]:
            rate = row["tokens_per_second"] / known[base]["tokens_per_second"]
            start = row["start_seconds"] / known[base]["start_seconds"]
            text += f"; {rate:.3f} of {base}, start {start:.2f}"
    return text


def one_engine(given: dict[str, Any]) -> None:
    """Start one engine, let it answer, and write what was found."""
    import vllm

    shape = given["shape"]
    began = time.perf_counter()
    llm = vllm.LLM(
        model=given["model"], load_format="dummy", skip_tokenizer_init=True, max_num_seqs=REQUESTS,
        max_model_len=PROMPT + LENGTHS[shape], enable_prefix_caching=False,
        gpu_memory_utilization=UTILIZATION[shape], **NATIVE.get(given["engine"], {}),
    )  # fmt: skip
    start_seconds = time.perf_counter() - began
    answer(llm, requests=8, length=16)
    rates = [answer(llm, requests=REQUESTS, length=LENGTHS[shape]) for _ in range(given["rounds"])]
    cache = llm.llm_engine.vllm_config.cache_config
    row = {
        "shape": shape,
        "engine": given["engine"],
        "tokens_per_second": round(statistics.median(rates), 1),
        "rates": [round(rate, 1) for rate in rates],
        "start_seconds": round(start_seconds, 2),
        "kv_tokens": cache.num_gpu_blocks * cache.block_size,
    }
    Path(given["out"]).write_text(json.dumps(row | what_runs(llm, given["engine"])))


def answer(llm: Any, *, requests: int, length: int) -> float:
    """Tokens per second of one batch."""
    import vllm

    chance = random.Random(0)
    prompts = [{"prompt_token_ids": [chance.randrange(VOCAB) for _ in range(PROMPT)]} for _ in range(requests)]
    params = vllm.SamplingParams(
        temperature=1.0, max_tokens=length, ignore_eos=True, logprobs=0, detokenize=False, seed=None
    )
    began = time.perf_counter()
    answers = llm.generate(prompts, params, use_tqdm=False)
    seconds = time.perf_counter() - began
    tokens = sum(len(found.outputs[0].token_ids) for found in answers)
    assert tokens == requests * length, "an answer ended early"
    return tokens / seconds


def what_runs(llm: Any, engine: str) -> dict[str, Any]:
    """Under a plan: which layers there are, so that a rate is known to be that of the plan."""
    if engine in NATIVE:
        return {"layers": {}}
    from flashrl_registry.runtime import status

    return {"layers": status(llm)[0]["layers"]}


if __name__ == "__main__":
    sys.exit(main())
