"""A trainer: a few SGD steps on the bf16 model, saved as the next policy.

Usage: python demo/train_step.py MODEL OUTPUT
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

STEPS, LEARNING_RATE = 4, 2e-3
TEXTS = [
    "The capital of France is a lovely old city on the river Seine, and its name is Paris.",
    "To make a cup of tea, first warm the pot, then add one spoon of leaves for each person.",
    "The three primary colours are red, yellow and blue; every other colour is mixed from them.",
]


def main() -> None:
    model_path, output = Path(sys.argv[1]), Path(sys.argv[2])
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    for step in range(STEPS):
        total = 0.0
        for text in TEXTS:
            ids = tokenizer(text, return_tensors="pt").input_ids
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step + 1}: loss {total / len(TEXTS):.3f}")
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)


if __name__ == "__main__":
    main()
