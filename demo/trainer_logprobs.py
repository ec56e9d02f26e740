"""The trainer's logprobs of the rollouts' tokens, by transformers in bf16.

    python demo/trainer_logprobs.py MODEL ROLLOUTS.json KEY OUT.json

KEY names a list of rollouts in ROLLOUTS.json; OUT.json gets one flat list per side.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM


@torch.no_grad()
def main() -> None:
    model_path, rollouts, key, out = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.bfloat16)
    sides: dict[str, list[float]] = {"rollout": [], "trainer": []}
    for entry in json.loads(rollouts.read_text())[key]:
        prompt, tokens = entry["prompt"], entry["tokens"]
        logits = model(input_ids=torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1].float()
        logprobs = torch.log_softmax(logits, dim=-1)
        sides["trainer"] += logprobs.gather(1, torch.tensor(tokens)[:, None])[:, 0].tolist()
        sides["rollout"] += entry["logprobs"]
    out.write_text(json.dumps(sides))


if __name__ == "__main__":
    main()
