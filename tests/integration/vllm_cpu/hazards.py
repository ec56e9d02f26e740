"""What went by unseen once: each ends in the tokens of a fresh engine, or in a refusal.

python hazards.py NAME ARGS.json OUT.json
"""

import json
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import torch
import vllm
from scenarios import caching_engine, checkpoint, engine, greedy, live_model, send_folder, send_one_by_one

from flashrl_registry.errors import FlashRLError, NotServableError
from flashrl_registry.runtime import status, updating

Result = dict[str, Any]
PROMPT = {"prompt_token_ids": [(7 * i) % 250 for i in range(70)]}


def seen(llm: vllm.LLM) -> Any:
    """Tokens, or that there are none."""
    try:
        return greedy(llm)
    except NotServableError:
        return "refused"


def fresh(args: Result) -> Result:
    """An engine that was started on a model."""
    return {"tokens": seen(engine(args["model"]))}


def send_without(llm: vllm.LLM, folder: str, left_out: int = 0) -> None:
    for name, value in list(checkpoint(folder).items())[left_out:]:
        live_model(llm).load_weights([(name, value)])


def lost_first(args: Result) -> Result:
    """The first tensors of a pass never arrive and nobody is told; the passes after it are complete."""
    llm = engine(args["model"])
    result: Result = {"old": seen(llm)}
    send_without(llm, args["updated"], 1)
    result["lost"] = seen(llm)
    result["next"] = []
    for _ in range(3):
        send_one_by_one(llm, args["model"])
        result["next"].append(seen(llm))
    send_without(llm, args["updated"], 3)
    result["lost_again"] = seen(llm)
    send_one_by_one(llm, args["updated"])
    result["healed"] = seen(llm)
    return result


def diverged(args: Result) -> Result:
    """Finite weights whose forward overflows, and then good ones."""
    llm = engine(args["model"])
    model, tensors = live_model(llm), checkpoint(args["model"])
    result: Result = {"old": seen(llm)}
    bad = {name: value * 1e30 if "layernorm" in name else value for name, value in tensors.items()}
    model.load_weights(list(bad.items()))
    runner = llm.llm_engine.model_executor.driver_worker.model_runner
    greedy(llm)
    result["left_behind"] = sum(int((~cache.float().isfinite()).sum()) for cache in runner.kv_caches)
    send_one_by_one(llm, args["model"])
    result["healed"] = seen(llm)
    return result


def queued(args: Result) -> Result:
    """A prompt that is queued before an update and runs after it, with cached prefixes."""
    llm = caching_engine(args["model"])
    params = vllm.SamplingParams(temperature=0.0, max_tokens=16, detokenize=False, ignore_eos=True)

    def run() -> list[int]:
        return list(llm.generate([PROMPT], params, use_tqdm=False)[0].outputs[0].token_ids)

    old = run()
    llm.llm_engine.add_request("queued", PROMPT, params)
    send_one_by_one(llm, args["updated"])
    done: list[int] = []
    while llm.llm_engine.has_unfinished_requests():
        for out in llm.llm_engine.step():
            done = list(out.outputs[0].token_ids)
            cached = out.num_cached_tokens
    llm.reset_prefix_cache()
    return {"old": old, "queued": done, "cached": cached, "fresh": run()}


def written_over(args: Result) -> Result:
    """A checkpoint's file is written over while ``reload_weights`` reads it."""
    llm = engine(args["model"])
    folder = Path(args["model"]).with_name("written-over")
    shutil.copytree(args["model"], folder)
    planned = live_model(llm).flashrl_planned_weights
    take, file = planned._intake.take, folder / "model.safetensors"
    taken = []

    def slow(update: Any, name: str, value: torch.Tensor) -> Any:
        taken.append(name)
        if len(taken) == 10:
            with file.open("r+b") as handle:
                handle.write((Path(args["updated"]) / "model.safetensors").read_bytes())
        return take(update, name, value)

    planned._intake.take = slow
    result: Result = {"old": seen(llm), "error": ""}
    try:
        send_folder(llm, str(folder))
    except FlashRLError as exc:
        result["error"] = str(exc)
    result["after"] = seen(llm)
    del planned._intake.take
    send_folder(llm, args["updated"])
    result["healed"] = seen(llm)
    return result


def no_such_folder(args: Result) -> Result:
    """A path that is not there, and then a reload without one."""
    llm = engine(args["model"])
    result: Result = {"old": seen(llm)}
    try:
        send_folder(llm, "/no/such/folder")
    except FlashRLError as exc:
        result["error"] = str(exc)
    result["after"] = seen(llm)
    llm.collective_rpc("reload_weights")
    result["reloaded"] = seen(llm)
    return result


def threads(args: Result) -> Result:
    """Two threads send whole updates while a third one generates."""
    llm = engine(args["model"])
    both = [list(checkpoint(args[which]).items()) for which in ("model", "updated")]
    errors: list[str] = []

    def send(tensors: list[tuple[str, torch.Tensor]]) -> None:
        try:
            for _ in range(5):
                live_model(llm).load_weights(tensors)
        except Exception as exc:  # noqa: BLE001 - the test shows whatever it is
            errors.append(repr(exc))

    started = [threading.Thread(target=send, args=(tensors,)) for tensors in both]
    for thread in started:
        thread.start()
    while any(thread.is_alive() for thread in started):
        seen(llm)
    send_one_by_one(llm, args["updated"])
    return {"errors": errors, "dtype": str(torch.get_default_dtype()), "after": seen(llm)}


def kernel_format(args: Result) -> Result:
    """Tensors past the plan, by the model runner."""
    llm = engine(args["model"])
    runner = llm.llm_engine.model_executor.driver_worker.model_runner
    result: Result = {"old": seen(llm), "error": ""}
    norm = dict(live_model(llm).named_parameters())["model.norm.weight"]
    try:
        with torch.no_grad():
            runner.reload_weights(iter([("model.norm.weight", torch.zeros_like(norm))]), is_checkpoint_format=False)
    except FlashRLError as exc:
        result["error"] = str(exc)
    result["after"] = seen(llm)
    return result


def random_weights(args: Result) -> Result:
    """``load_format="dummy"``: some layers do not make it whole."""
    llm = engine(args["model"], load_format="dummy")
    result: Result = {"error": ""}
    try:
        with updating(llm, partial=True):
            pass
    except FlashRLError as exc:
        result["error"] = str(exc)
    send_one_by_one(llm, args["model"])
    result |= {"state": status(llm)[0]["state"], "after": seen(llm)}
    with updating(llm, partial=True):
        pass
    return result


SCENARIOS = {
    scenario.__name__: scenario
    for scenario in (
        diverged,
        fresh,
        kernel_format,
        lost_first,
        no_such_folder,
        queued,
        random_weights,
        threads,
        written_over,
    )
}

if __name__ == "__main__":
    Path(sys.argv[3]).write_text(json.dumps(SCENARIOS[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text()))))
