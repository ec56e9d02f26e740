"""A trainer with LoRA adapters that sends merged weights, as TRL does. Run as scenarios.py is."""

import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from scenarios import Result, engine, live_model, observe
from transformers import AutoModelForCausalLM


def merged(args: Result) -> Result:
    """Merge the adapters, send every full weight under its checkpoint's name through one buffer, take them out."""
    base = AutoModelForCausalLM.from_pretrained(args["model"], dtype=torch.bfloat16)
    trained = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    llm = engine(args["model"])
    result: Result = {"start": observe(llm)}
    trained.merge_adapter()
    buffer = torch.empty(max(p.numel() for p in trained.parameters()), dtype=torch.bfloat16)
    for name, parameter in trained.named_parameters():
        if "lora_" in name:
            continue
        view = buffer[: parameter.numel()].view(parameter.shape)
        view.copy_(parameter.detach())
        live_model(llm).load_weights([(name.removeprefix("base_model.model.").replace(".base_layer", ""), view)])
        buffer.fill_(float("nan"))
    result["updated"] = observe(llm)
    trained.merge_and_unload().save_pretrained(args["merged"])
    result["fresh"] = observe(engine(args["merged"]))
    return result


if __name__ == "__main__":
    _, name, given, out = sys.argv
    assert name == "merged"
    Path(out).write_text(json.dumps(merged(json.loads(Path(given).read_text()))))
