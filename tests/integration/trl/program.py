"""Runs as a script: the example's trainer as it is, watched; then a fresh engine on the trainer's own weights."""

import json
import sys
from pathlib import Path
from typing import Any

import vllm

from flashrl_registry import status, verify

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "trl_grpo"))
import train
from transformers import TrainerCallback

TOKENS = [[5, 6, 7, 100, 200, 300], [40, 41, 9000, 17], [1000, 2000, 3000, 4000, 5000]]


class Watch(TrainerCallback):
    """Asks the engine after every step."""

    def __init__(self) -> None:
        self.llm: Any = None
        self.versions: list[int] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.versions.append(status(self.llm)[0]["weight_version"])


def observe(llm: vllm.LLM) -> dict[str, Any]:
    params = vllm.SamplingParams(temperature=0.0, max_tokens=8, logprobs=0, detokenize=False)
    outputs = [out.outputs[0] for out in llm.generate([{"prompt_token_ids": ids} for ids in TOKENS], params)]
    return {
        "tokens": [list(out.token_ids) for out in outputs],
        "logprobs": [
            [step[token].logprob for step, token in zip(out.logprobs, out.token_ids, strict=True)] for out in outputs
        ],
        "resident": status(llm, resident=True)[0]["resident"],
    }


def fresh(folder: Path) -> vllm.LLM:
    """As TRL makes its engine, on the trainer's weights; the trainer keeps them in float32."""
    return vllm.LLM(
        model=str(folder), dtype="bfloat16", max_model_len=128, max_num_seqs=8, max_num_batched_tokens=4096,
        distributed_executor_backend="external_launcher", logprobs_mode="processed_logprobs",
    )  # fmt: skip


def main() -> None:
    model, work, steps = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    trainer = train.make_trainer(train.parse(["--model", model, "--output", str(work), "--steps", steps]))
    watch = Watch()
    watch.llm = llm = trainer.vllm_generation.llm
    trainer.add_callback(watch)
    trainer.train()
    result = {
        "history": trainer.state.log_history,
        "versions": watch.versions,
        "status": status(llm)[0],
        "verify": verify(llm)[0],
        "correction": trainer.args.vllm_importance_sampling_correction,
    }
    trainer.vllm_generation.sync_weights()  # as at the beginning of one more step
    result["trained"] = observe(llm)
    trainer.save_model(str(work / "policy"))
    result["fresh"] = observe(fresh(work / "policy"))
    (work / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
