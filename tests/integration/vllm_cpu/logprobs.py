"""Programs that sample and keep the logits that each token was sampled from; run as ``scenarios.py`` is.

python logprobs.py NAME ARGS.json OUT.json
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import vllm
from scenarios import TOKENS, engine, live_model

VOCAB = 256
ROUNDING = 1e-4
"""Of a float32 sum of probabilities, where it is compared with top_p."""
SAMPLERS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "plain": {"temperature": 1.0},
    "cold": {"temperature": 0.6},
    "hot": {"temperature": 1.7},
    "top_k": {"temperature": 0.9, "top_k": 12},
    "top_p": {"temperature": 1.2, "top_p": 0.7},
    "top_k_top_p": {"temperature": 1.3, "top_k": 40, "top_p": 0.85},
}


def is_support(
    kept_V: torch.Tensor, logits_V: torch.Tensor, *, temperature: float, top_k: int = 0, top_p: float = 1.0
) -> bool:
    """Whether these are the tokens that may be sampled; logits in bf16 tie, and either of two equal ones may stay.

    Top-k keeps the k largest and all that equal the last of them, top-p the fewest of those that together reach p.
    """
    logits_V = logits_V.double() / (temperature or 1.0)
    least = logits_V.topk(top_k).values[-1] if top_k else -torch.inf
    candidates_V = logits_V >= least
    if top_p == 1:
        return bool((kept_V == candidates_V).all())
    chance_V = torch.softmax(logits_V.where(candidates_V, -torch.inf), dim=0)
    lowest = logits_V[kept_V].min()
    whole = bool(kept_V[candidates_V & (logits_V > lowest)].all()) and not bool((kept_V & ~candidates_V).any())
    mass, last = chance_V[kept_V].sum(), chance_V[kept_V].min()
    return whole and bool(mass >= top_p - ROUNDING) and bool(mass - last < top_p + ROUNDING)


def sample(llm: vllm.LLM, settings: dict[str, Any]) -> dict[str, Any]:
    """Every prompt alone.

    Returns:
        ``worst``: the largest difference between a returned logprob and the recomputed one. ``wrong_supports``: steps
        whose finite logprobs are not of the tokens that may be sampled. ``tokens``.
    """
    model = live_model(llm)
    compute, seen = model.compute_logits, []

    def compute_logits(*args: Any, **kwargs: Any) -> Any:
        logits = compute(*args, **kwargs)
        seen.append(logits.clone())  # samplers work in place
        return logits

    model.compute_logits = compute_logits
    params = vllm.SamplingParams(**settings, seed=7, max_tokens=12, ignore_eos=True, logprobs=VOCAB, detokenize=False)
    worst, wrong, tokens = 0.0, 0, []
    for prompt in TOKENS:
        seen.clear()
        output = llm.generate([{"prompt_token_ids": prompt}], params, use_tqdm=False)[0].outputs[0]
        for step, logits in zip(output.logprobs, seen, strict=True):
            given_V = torch.tensor([step[token].logprob for token in range(VOCAB)], dtype=torch.float64)
            kept_V = given_V.isfinite()
            wrong += not is_support(kept_V, logits[0], **settings)
            # From the definition, in float64: the distribution over the tokens that may be sampled.
            scaled_V = logits[0].double() / (settings["temperature"] or 1.0)
            expected_V = torch.log_softmax(scaled_V.where(kept_V, -torch.inf), dim=0)
            worst = max(worst, float((given_V - expected_V)[kept_V].abs().max()))
        tokens.append(list(output.token_ids))
    model.compute_logits = compute
    return {"worst": worst, "wrong_supports": wrong, "tokens": tokens}


def samplers(args: dict[str, Any]) -> dict[str, Any]:
    """Every sampler under every config; an empty one is an engine without a plan."""
    return {config or "unset": _under(config, args["model"]) for config in args["configs"]}


def _under(config: str, model: str) -> dict[str, Any]:
    os.environ.pop("FLASHRL_CONFIG", None)
    if config:
        os.environ["FLASHRL_CONFIG"] = config
    llm = engine(model, max_logprobs=VOCAB)
    return {name: sample(llm, settings) for name, settings in SAMPLERS.items()}


if __name__ == "__main__":
    Path(sys.argv[3]).write_text(
        json.dumps({"samplers": samplers}[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text())))
    )
