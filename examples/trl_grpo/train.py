"""GRPO on a small model with TRL and a colocated vLLM: a plain TRL program.

Nothing in the training code knows of FlashRL: FLASHRL_CONFIG in the environment decides what the rollout engine runs.
The reward is a toy that needs no data set: the share of a completion's letters that are an "e".

    FLASHRL_CONFIG=./plan python examples/trl_grpo/train.py --model SmolLM2-135M-Instruct
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

SUBJECTS = ["the sea", "a tree", "green tea", "sleep", "the street", "three bees", "the weekend", "cheese"]


def share_of_e(completions: list[list[dict[str, str]]], **_: Any) -> list[float]:
    """Share of the letters that are an "e"; English has about 0.12."""
    texts = [completion[0]["content"].lower() for completion in completions]
    return [text.count("e") / max(1, sum(map(str.isalpha, text))) for text in texts]


def make_trainer(args: argparse.Namespace) -> GRPOTrainer:
    config = GRPOConfig(
        output_dir=str(args.output),
        seed=args.seed,
        max_steps=args.steps,
        use_cpu=True,
        use_vllm=True,
        vllm_mode="colocate",
        vllm_max_model_length=128,
        vllm_importance_sampling_correction=True,
        vllm_importance_sampling_mode="token_truncate",
        vllm_importance_sampling_clip_max=2.0,
        num_generations=4,
        per_device_train_batch_size=8,
        max_completion_length=24,
        learning_rate=5e-6,
        lr_scheduler_type="constant",
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
    )
    prompts = [[{"role": "user", "content": f"Write one sentence about {subject}."}] for subject in SUBJECTS]
    return GRPOTrainer(
        model=args.model,
        args=config,
        reward_funcs=share_of_e,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
    )


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True, help="folder or Hub id of the bf16 model")
    parser.add_argument("--output", type=Path, default=Path(".cache/trl_grpo"), help="gets log_history.json")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--proof", action="store_true", help="afterwards ask the engine what it ran; see proof.py")
    return parser.parse_args(argv)


def main() -> None:
    args = parse()
    trainer = make_trainer(args)
    trainer.train()
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "log_history.json").write_text(json.dumps(trainer.state.log_history, indent=1) + "\n")
    if args.proof:
        from proof import prove

        prove(trainer, args.output / "proof.json")


if __name__ == "__main__":
    main()
