"""The trainer of ``mismatch.py``: a policy that learns, and its log probabilities of what engines sampled.

    python mismatch_trainer.py train ASKED.json
    python mismatch_trainer.py score ASKED.json

Master weights are float32, matrix products bfloat16; what is sent to engines, and what scores their tokens, is the
policy in bfloat16, by transformers.

Shape legend: B batch, T tokens, V vocabulary.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is local

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from flashrl_registry.runtime import mismatch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
WARM_UP_STEPS, GRADIENT_NORM = 10, 1.0
SCORED_TOGETHER = 32 if DEVICE == "cuda" else 4
Asked = dict[str, Any]


def train(asked: Asked) -> None:
    """Learn the training text in stages of different learning rates, and save the policy at some of the steps."""
    disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(asked["model"], dtype=torch.float32).to(DEVICE).train()
    batches = drawn(json.loads(Path(asked["texts"]).read_text())["rows"], asked["batch"])
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
    began, step = time.perf_counter(), 0
    for stage in asked["stages"]:
        for index in range(stage["steps"]):
            optimizer.param_groups[0]["lr"] = stage["rate"] * min(1.0, (index + 1) / WARM_UP_STEPS)
            loss = one_step(model, optimizer, next(batches))
            step += 1
            if step in asked["sent"]:
                save(model, Path(asked["model"]), Path(asked["work"]) / f"step-{step}")
                spent = time.perf_counter() - began
                print(f"step {step}, rate {stage['rate']:g}: loss {loss.item():.3f}, {spent:.1f} s", flush=True)


def drawn(rows: list[list[int]], size: int) -> Iterator[torch.Tensor]:
    """Batches without end, each row once an epoch."""
    data_BT, generator = torch.tensor(rows), torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(len(data_BT), generator=generator)
        for start in range(0, len(order) - size + 1, size):
            yield data_BT[order[start : start + size]].to(DEVICE)


def one_step(model: Any, optimizer: torch.optim.Optimizer, ids_BT: torch.Tensor) -> torch.Tensor:
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        logits_BTV = model(input_ids=ids_BT, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits_BTV[:, :-1].float().flatten(0, 1), ids_BT[:, 1:].flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


def save(model: Any, reference: Path, folder: Path) -> None:
    """The policy in bfloat16, under the checkpoint's own names; the folder appears when it is whole."""
    with safe_open(reference / "model.safetensors", framework="pt") as handle:
        names = list(handle.keys())
    state = model.state_dict()
    unfinished = folder.with_name(f".{folder.name}")
    unfinished.mkdir(parents=True)
    tensors = {name: state[name].to(torch.bfloat16).cpu().contiguous() for name in names}
    save_file(tensors, unfinished / "model.safetensors", metadata={"format": "pt"})
    for file in reference.iterdir():
        if file.suffix != ".safetensors":
            shutil.copyfile(file, unfinished / file.name)
    unfinished.rename(folder)


@torch.inference_mode()
def score(asked: Asked) -> None:
    """Compare what every engine sampled under each policy with that policy; rows as JSON."""
    disable_progress_bar()
    found = {file: json.loads(Path(file).read_text()) for file in asked["rollouts"]}
    rows = []
    for moment, folder in asked["policies"].items():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(DEVICE).eval()
        for engine in found.values():
            if (rollouts := engine["moments"].get(moment)) is None:
                continue
            theirs = [value for rollout in rollouts for value in rollout["logprobs"]]
            summary = vars(mismatch(theirs, logprobs(model, rollouts)))
            lengths = [len(rollout["tokens"]) for rollout in rollouts]
            rows.append({"engine": engine["engine"], "moment": moment, "rollouts": len(lengths), **summary})
    Path(asked["out"]).write_text(json.dumps(rows))


def logprobs(model: Any, rollouts: list[dict[str, list[Any]]]) -> list[float]:
    """The trainer's, of every sampled token, in the order of the rollouts."""
    by_length = sorted(range(len(rollouts)), key=lambda i: len(rollouts[i]["prompt"]) + len(rollouts[i]["tokens"]))
    out: dict[int, list[float]] = {}
    for start in range(0, len(by_length), SCORED_TOGETHER):
        together = by_length[start : start + SCORED_TOGETHER]
        whole = [rollouts[i]["prompt"] + rollouts[i]["tokens"] for i in together]
        longest = max(map(len, whole))
        # Attention is causal: what pads a row on its right changes nothing before it.
        ids_BT = torch.tensor([ids + [0] * (longest - len(ids)) for ids in whole], device=DEVICE)
        logits_BTV = model(input_ids=ids_BT, use_cache=False).logits[:, :-1].float()
        chosen_BT = logits_BTV.gather(2, ids_BT[:, 1:, None])[..., 0] - logits_BTV.logsumexp(dim=2)
        for i, chosen_T in zip(together, chosen_BT.tolist(), strict=True):
            first = len(rollouts[i]["prompt"]) - 1
            out[i] = chosen_T[first : first + len(rollouts[i]["tokens"])]
    return [value for i in range(len(rollouts)) for value in out[i]]


if __name__ == "__main__":
    STEPS = {step.__name__: step for step in (train, score)}
    STEPS[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text()))
