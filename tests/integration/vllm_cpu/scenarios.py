"""Programs that use vLLM, each run in a process of its own by the tests.

    python scenarios.py NAME ARGS.json OUT.json

The environment decides whether a plan runs; no scenario patches anything. What a scenario returns is what a user
of the engine would see: tokens, errors, and what ``flashrl_registry.runtime.status`` reports.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import vllm
from safetensors.torch import load_file

from flashrl_registry.runtime import status, updating, verify

TOKENS = [[5, 6, 7], [9, 8], [100, 101, 102, 103], [40, 41], [200, 3, 77]]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Result = dict[str, Any]


def engine(model: str, **kwargs: Any) -> vllm.LLM:
    has_tokenizer = (Path(model) / "tokenizer.json").exists()
    if torch.cuda.is_available():
        # A fixed size skips the measuring of free memory, which other engines on the same GPU would disturb.
        kwargs = {"gpu_memory_utilization": 0.05, "kv_cache_memory_bytes": 1 << 28, **kwargs}
    kwargs = {"max_model_len": 128, "enable_prefix_caching": False, **kwargs}
    return vllm.LLM(
        model=model,
        skip_tokenizer_init=not has_tokenizer,
        # CUDA graphs and torch.compile are for tests/gpu; on CPU compiling takes minutes and shows nothing more.
        enforce_eager=os.environ.get("SCENARIO_EAGER", "1") == "1",
        **kwargs,
    )


def caching_engine(model: str) -> vllm.LLM:
    """One that caches prefixes, in small blocks."""
    return engine(model, max_model_len=256, enable_prefix_caching=True, block_size=32)


def greedy(llm: vllm.LLM) -> list[list[int]]:
    params = vllm.SamplingParams(temperature=0.0, max_tokens=16, detokenize=False)
    prompts = [{"prompt_token_ids": ids} for ids in TOKENS]
    return [list(out.outputs[0].token_ids) for out in llm.generate(prompts, params, use_tqdm=False)]


def observe(llm: vllm.LLM) -> Result:
    reports = status(llm, resident=True)
    return {
        "tokens": greedy(llm),
        "resident": [report.pop("resident") for report in reports],
        "status": reports[0],
        "verify": verify(llm),
    }


def checkpoint(folder: str) -> dict[str, torch.Tensor]:
    merged: dict[str, torch.Tensor] = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        merged.update(load_file(file))
    return merged


def live_model(llm: vllm.LLM) -> Any:
    return llm.llm_engine.model_executor.driver_worker.model_runner.get_model()


def send_one_by_one(llm: vllm.LLM, folder: str) -> None:
    """As TRL and OpenRLHF do, through one transport buffer that the sender overwrites."""
    model = live_model(llm)
    tensors = checkpoint(folder)
    buffer = torch.empty(max(t.numel() for t in tensors.values()), dtype=torch.bfloat16)
    for name, tensor in tensors.items():
        view = buffer[: tensor.numel()].view(tensor.shape)
        view.copy_(tensor)
        model.load_weights([(name, view)])
        buffer.fill_(float("nan"))


def send_in_buckets(llm: vllm.LLM, folder: str) -> None:
    """As veRL does: buckets that split fused layers, in an order of their own."""
    items = sorted(checkpoint(folder).items(), key=lambda item: hash_order(item[0]))
    for start in range(0, len(items), 5):
        live_model(llm).load_weights(items[start : start + 5])


def hash_order(name: str) -> int:
    return sum(ord(char) * (index + 1) for index, char in enumerate(name)) % 997


def send_folder(llm: vllm.LLM, folder: str) -> None:
    llm.collective_rpc("reload_weights", kwargs={"weights_path": folder})


def send_iterator(llm: vllm.LLM, folder: str) -> None:
    llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(checkpoint(folder).items())})


def send_announced(llm: vllm.LLM, folder: str) -> None:
    """Begin, buckets, finish."""
    with updating(llm):
        send_in_buckets(llm, folder)


FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


def fused(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors under the engine's own names, with siblings in one."""
    out = dict(tensors)
    for module, (first, *others) in FUSED.items():
        for name in [name for name in tensors if name.endswith(f".{first}.weight")]:
            parts = [out.pop(name.replace(first, shard)) for shard in (first, *others)]
            out[name.replace(first, module)] = torch.cat(parts)
    return out


def send_fused(llm: vllm.LLM, folder: str) -> None:
    """As trainers that hold the engine's module names do."""
    for name, tensor in fused(checkpoint(folder)).items():
        live_model(llm).load_weights([(name, tensor)])


def send_float32(llm: vllm.LLM, folder: str) -> None:
    """As a trainer with float32 master weights does."""
    live_model(llm).load_weights([(name, tensor.float()) for name, tensor in checkpoint(folder).items()])


def send_reused(llm: vllm.LLM, folder: str) -> None:
    """From one buffer on the engine's device, which is overwritten as soon as a call has returned."""
    tensors = checkpoint(folder)
    buffer = torch.empty(max(tensor.numel() for tensor in tensors.values()), dtype=torch.bfloat16, device=DEVICE)
    for name, tensor in tensors.items():
        view = buffer[: tensor.numel()].view(tensor.shape)
        view.copy_(tensor)
        live_model(llm).load_weights([(name, view)])
        buffer.fill_(float("nan"))


def send_transfer(llm: vllm.LLM, folder: str) -> None:
    """vLLM's native weight transfer: start, one chunk per tensor, finish."""
    llm.collective_rpc("start_weight_update")
    for name in checkpoint(folder):
        llm.collective_rpc("update_weights", args=({"folder": folder, "name": name},))
    llm.collective_rpc("finish_weight_update")


def transfer_arguments(routes: list[str]) -> dict[str, Any]:
    """The engine arguments that vLLM's weight transfer needs."""
    if "transfer" not in routes:
        return {}
    import folder_transfer
    from vllm.config import WeightTransferConfig

    folder_transfer.register()
    return {"weight_transfer_config": WeightTransferConfig(backend="folder")}


ROUTES: dict[str, Callable[[vllm.LLM, str], None]] = {
    "folder": send_folder,
    "iterator": send_iterator,
    "one_by_one": send_one_by_one,
    "buckets": send_in_buckets,
    "announced": send_announced,
    "fused": send_fused,
    "float32": send_float32,
    "reused": send_reused,
    "transfer": send_transfer,
}


def fresh(args: Result) -> Result:
    return observe(engine(args["model"]))


def updates(args: Result) -> Result:
    """Start on one checkpoint; by each route go to the other and back."""
    return go_and_come_back(args["model"], args["updated"], args["routes"])


def go_and_come_back(model: str, updated: str, routes: list[str]) -> Result:
    llm = engine(model, **transfer_arguments(routes))
    result = {"start": observe(llm)}
    for route in routes:
        ROUTES[route](llm, updated)
        result[route] = observe(llm)
        ROUTES[route](llm, model)
        result[f"{route}_back"] = observe(llm)
    return result


def every_route(args: Result) -> Result:
    """The same for several pairs, each beside a fresh engine on the second checkpoint."""
    return {
        name: {**go_and_come_back(model, updated, list(args.get("routes", ROUTES))), "fresh": observe(engine(updated))}
        for name, (model, updated) in args["pairs"].items()
    }


def _missing(tensors: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    yield from list(tensors.items())[:-1]


def _duplicate(tensors: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    items = list(tensors.items())
    yield from [*items[:4], items[2], *items[4:]]


def _with(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Iterator[Any]]:
    def stream(tensors: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
        for key, value in tensors.items():
            yield key, change(value.clone()) if key == name else value

    return stream


def _poke(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[3] = value
        return tensor

    return change


def _unknown(tensors: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    yield from tensors.items()
    yield "model.layers.0.self_attn.extra.weight", torch.zeros(2, 2)


def _raises(tensors: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    yield from list(tensors.items())[:9]
    raise ConnectionError("the sender went away")


FAULTS: dict[str, Callable[..., Iterator[Any]]] = {
    "missing_then_late": _missing,
    "missing_then_again": _missing,
    "duplicate": _duplicate,
    "nan_in_linear": _with("model.layers.1.mlp.up_proj.weight", _poke(float("nan"))),
    "inf_in_norm": _with("model.layers.1.input_layernorm.weight", _poke(float("inf"))),
    "wrong_shape": _with("model.layers.0.self_attn.k_proj.weight", lambda t: t[:-1]),
    "wrong_dtype": _with("model.layers.0.mlp.down_proj.weight", lambda t: t.to(torch.int8)),
    "unknown_name": _unknown,
    "sender_raises": _raises,
}


def faults(args: Result) -> Result:
    """Each fault on its own; then generate (must refuse), then a whole update (must heal)."""
    llm = engine(args["model"])
    result: Result = {"start": observe(llm)}
    good = checkpoint(args["updated"])
    for name, stream in FAULTS.items():
        outcome: Result = {"update_error": None, "generate_error": None}
        try:
            live_model(llm).load_weights(stream(good))
        except Exception as exc:  # noqa: BLE001 - whatever a user would see
            outcome["update_error"] = f"{type(exc).__name__}: {exc}"
        try:
            greedy(llm)
        except Exception as exc:  # noqa: BLE001
            outcome["generate_error"] = f"{type(exc).__name__}: {exc}"
        outcome["state"] = status(llm)[0]["state"]
        if name == "missing_then_late":
            live_model(llm).load_weights(list(good.items())[-1:])
        else:
            send_one_by_one(llm, args["updated"])
        outcome["healed"] = observe(llm)
        result[name] = outcome
    result["fresh"] = observe(engine(args["updated"]))
    return result


def partial(args: Result) -> Result:
    """One layer only, announced as partial: fused siblings whole, then not whole; and without an announcement."""
    llm = engine(args["model"])
    good = checkpoint(args["updated"])
    layer = {name: tensor for name, tensor in good.items() if ".layers.1." in name}
    result: Result = {}
    with updating(llm, partial=True):
        for name, tensor in layer.items():
            live_model(llm).load_weights([(name, tensor)])
    result["layer"] = observe(llm)
    for name, items in (
        ("half", [(n, t) for n, t in layer.items() if "k_proj" not in n]),
        ("unannounced", list(layer.items())),
    ):
        try:
            if name == "half":
                with updating(llm, partial=True):
                    live_model(llm).load_weights(items)
            else:
                llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(items)})
            result[name] = None
        except Exception as exc:  # noqa: BLE001
            result[name] = f"{type(exc).__name__}: {exc}"
    try:
        with updating(llm, partial=True):
            live_model(llm).load_weights(list(layer.items()))
        result["cannot_heal"] = None
    except Exception as exc:  # noqa: BLE001
        result["cannot_heal"] = f"{type(exc).__name__}: {exc}"
    send_one_by_one(llm, args["mixed"])
    result["healed"] = observe(llm)
    result["fresh"] = observe(engine(args["mixed"]))
    return result


def staged(args: Result) -> Result:
    """Under a staged plan the old weights serve, while an update is half done and after one that failed."""
    llm = engine(args["model"], **transfer_arguments(["transfer"]))
    good = checkpoint(args["updated"])
    result: Result = {"start": observe(llm)}
    items = list(good.items())
    live_model(llm).load_weights(items[:7])
    result["half"] = observe(llm)
    live_model(llm).load_weights(items[7:])
    result["updated"] = observe(llm)
    for name, stream in FAULTS.items():
        if name.startswith("missing"):
            continue
        try:
            live_model(llm).load_weights(stream(checkpoint(args["model"])))
            error = None
        except Exception as exc:  # noqa: BLE001
            error = f"{type(exc).__name__}: {exc}"
        result[name] = {"error": error, **observe(llm)}
    for route in ("folder", "transfer"):
        ROUTES[route](llm, args["model"])
        result[f"{route}_back"] = observe(llm)
        ROUTES[route](llm, args["updated"])
        result[route] = observe(llm)
    result["fresh"] = observe(engine(args["updated"]))
    return result


def tied_head(args: Result) -> Result:
    """A trainer of a tied model that also sends lm_head, last as state_dict() has it: equal, then different."""
    llm = engine(args["model"])
    good = checkpoint(args["updated"])
    head = good["model.embed_tokens.weight"]
    result: Result = {}

    def attempt(name: str, *calls: list[tuple[str, Any]]) -> None:
        """Call after call; what the sender sees, and what the next update without a head makes of it."""
        try:
            for call in calls:
                live_model(llm).load_weights(call)
            result[name] = observe(llm)
        except Exception as exc:  # noqa: BLE001
            result[name] = f"{type(exc).__name__}: {exc}"
        result["state"] = status(llm)[0]["state"]
        send_one_by_one(llm, args["updated"])
        result[f"after {name}"] = observe(llm)

    one_by_one = [[item] for item in good.items()]
    for name, sent in (("equal", head), ("different", head + 1), ("row", head[:1]), ("scalar", head[0, 0])):
        attempt(name, *one_by_one, [("lm_head.weight", sent)])
        attempt(f"whole_{name}", [("lm_head.weight", sent), *good.items()])
    attempt("whole_numpy", [("lm_head.weight", head.float().numpy()), *good.items()])
    attempt("whole_int", [("lm_head.weight", head.int()), *good.items()])
    attempt("another_name", [*good.items(), ("base_model.model.lm_head.weight", head)])
    attempt("first", [("lm_head.weight", head)], *one_by_one)
    other = checkpoint(args["model"])
    other_head = other["model.embed_tokens.weight"]
    for _ in range(2):  # an update that begins with a head that is not the old embedding
        attempt("bucket_first", [("lm_head.weight", other_head), *list(other.items())[:3]], list(other.items())[3:])
    result["fresh"] = observe(engine(args["updated"]))
    return result


def prefix_cache(args: Result) -> Result:
    """A long prompt before and after an update, with nobody resetting the prefix cache."""
    llm = caching_engine(args["model"])
    params = vllm.SamplingParams(temperature=0.0, max_tokens=8, detokenize=False, logprobs=0)

    def run() -> list[float]:
        prompt = {"prompt_token_ids": [(7 * i) % 250 for i in range(160)]}
        out = llm.generate([prompt], params, use_tqdm=False)[0]
        steps = zip(out.outputs[0].logprobs, out.outputs[0].token_ids, strict=True)
        return [out.num_cached_tokens, *(step[token].logprob for step, token in steps)]

    result: Result = {"cold": run(), "warm": run()}
    send_one_by_one(llm, args["updated"])
    result["updated"], result["updated_warm"] = run(), run()
    llm.reset_prefix_cache()
    result["reset_by_hand"] = run()
    return result


def prefix_cache_while_running(args: Result) -> Result:
    """A request that runs on, an update, and a request with the same prompt after it."""
    llm = caching_engine(args["model"])
    prompt = {"prompt_token_ids": [(7 * i) % 250 for i in range(160)]}
    params = vllm.SamplingParams(temperature=0.0, max_tokens=8, detokenize=False, ignore_eos=True)
    old = list(llm.generate([prompt], params, use_tqdm=False)[0].outputs[0].token_ids)
    running = vllm.SamplingParams(temperature=0.0, max_tokens=64, detokenize=False, ignore_eos=True)
    llm.llm_engine.add_request("before", prompt, running)
    for _ in range(4):
        llm.llm_engine.step()
    send_one_by_one(llm, args["updated"])
    llm.llm_engine.add_request("after", prompt, params)
    done: dict[str, list[int]] = {}
    while llm.llm_engine.has_unfinished_requests():
        for out in llm.llm_engine.step():
            done[out.request_id.partition("-")[0]] = list(out.outputs[0].token_ids)
    llm.reset_prefix_cache()
    fresh = list(llm.generate([prompt], params, use_tqdm=False)[0].outputs[0].token_ids)
    return {"old": old, "after": done["after"], "fresh": fresh}


def sleep_level_2(args: Result) -> Result:
    """Sleep level 2 throws the weights away: nothing is generated before an update; GPU only."""
    llm = engine(args["model"], enable_sleep_mode=True)
    result: Result = {"start": observe(llm)}
    llm.sleep(level=2)
    llm.wake_up()
    try:
        result["awake"] = greedy(llm)
    except Exception as exc:  # noqa: BLE001
        result["awake"] = f"{type(exc).__name__}: {exc}"
    send_one_by_one(llm, args["updated"])
    result["updated"] = observe(llm)
    result["fresh"] = observe(engine(args["updated"]))
    return result


def sleep_level_1(args: Result) -> Result:
    """Sleep level 1 keeps the weights in the processor's memory; an update may come while only they are awake."""
    llm = engine(args["model"], enable_sleep_mode=True)
    result: Result = {"start": observe(llm)}
    llm.sleep(level=1)
    llm.wake_up()
    result["awake"] = observe(llm)
    llm.sleep(level=1)
    llm.wake_up(tags=["weights"])
    send_one_by_one(llm, args["updated"])
    llm.wake_up(tags=["kv_cache"])
    result["updated"] = observe(llm)
    result["fresh"] = observe(engine(args["updated"]))
    return result


def kernel_format(args: Result) -> Result:
    llm = engine(args["model"])
    try:
        llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter([]), "is_checkpoint_format": False})
    except Exception as exc:  # noqa: BLE001
        return {"error": f"{type(exc).__name__}: {exc}"}
    return {"error": None}


def subprocess_core(args: Result) -> Result:
    """vLLM's normal engine-core subprocess: update, a bad update, refusal without dying, healing."""
    llm = engine(args["model"])
    result: Result = {"start": observe(llm)}
    send_folder(llm, args["updated"])
    result["updated"] = observe(llm)
    for kind in ("bad_update", "bad_generate"):
        try:
            send_folder(llm, args["bad"]) if kind == "bad_update" else greedy(llm)
            result[kind] = None
        except Exception as exc:  # noqa: BLE001
            result[kind] = f"{type(exc).__name__}: {exc}"
    send_folder(llm, args["updated"])
    result["healed"] = observe(llm)
    return result


def settings(args: Result) -> Result:
    """What FLASHRL_CONFIG changed in the engine's configuration, and the logprob of a certain token."""
    llm = engine(args["model"])
    config = llm.llm_engine.vllm_config
    certain = vllm.SamplingParams(temperature=1.0, top_k=1, max_tokens=4, logprobs=0, detokenize=False)
    out = llm.generate([{"prompt_token_ids": TOKENS[0]}], certain, use_tqdm=False)[0].outputs[0]
    logprobs = [step[token].logprob for step, token in zip(out.logprobs, out.token_ids, strict=True)]
    try:
        report = status(llm)[0]
    except Exception as exc:  # noqa: BLE001
        report = f"{type(exc).__name__}: {exc}"
    return {
        "quantization": config.model_config.quantization,
        "load_format": config.load_config.load_format,
        "logprobs_mode": config.model_config.logprobs_mode,
        "head_dtype": str(getattr(config.model_config, "head_dtype", None)),
        "top_k_1_logprobs": logprobs,
        "tokens": greedy(llm),
        "status": report,
        "imported": sorted(name for name in sys.modules if name.startswith("flashrl_registry")),
    }


def late_and_reused(args: Result) -> Result:
    """The variable is set after vLLM has loaded its plugins; one EngineArgs makes two engines under two plans."""
    from vllm.engine.arg_utils import EngineArgs

    reused = EngineArgs(model=args["model"], skip_tokenizer_init=True, max_model_len=128, enforce_eager=True)
    result: Result = {}
    for name, config in (("int8", "int8"), ("bf16", "bf16"), ("unset", None), ("unknown", "nobody/nothing@1.0.0")):
        os.environ.pop("FLASHRL_CONFIG", None)
        if config is not None:
            os.environ["FLASHRL_CONFIG"] = config
        try:
            made = reused.create_engine_config()
            result[name] = [made.model_config.quantization, made.load_config.load_format]
        except Exception as exc:  # noqa: BLE001
            result[name] = f"{type(exc).__name__}: {exc}"
    os.environ["FLASHRL_CONFIG"] = "int8"
    result["engine"] = observe(engine(args["model"]))["status"]["layers"]
    return result


def plugins_narrowed(args: Result) -> Result:
    """The driver has loaded the plugin; its workers would not."""
    from vllm.engine.arg_utils import EngineArgs

    EngineArgs(model=args["model"])
    os.environ["VLLM_PLUGINS"] = "lora_filesystem_resolver"
    return observe(engine(args["model"]))


def tried_again(args: Result) -> Result:
    """A program that catches an error of its engine's start and makes the engine once more."""
    errors: list[str] = []
    for _ in range(2):
        try:
            errors.append(f"started: {observe(engine(args['model']))['status']}")
        except Exception as exc:  # noqa: BLE001
            errors.append(f"{type(exc).__name__}: {exc}")
    return {"errors": errors}


def worker_differs(args: Result) -> Result:
    """The plan's text changes between driver and worker, as with another release on another node."""
    from vllm.engine.arg_utils import EngineArgs

    made = EngineArgs.create_engine_config

    def create(self: Any, *rest: Any, **kwargs: Any) -> Any:
        config = made(self, *rest, **kwargs)
        payload = config.load_config.model_loader_extra_config["flashrl"]
        payload["resolved_digest"] = "sha256:" + "0" * 64
        return config

    EngineArgs(model=args["model"])
    made = EngineArgs.create_engine_config
    EngineArgs.create_engine_config = create
    return observe(engine(args["model"]))


SCENARIOS = {
    scenario.__name__: scenario
    for scenario in (
        every_route,
        faults,
        fresh,
        kernel_format,
        late_and_reused,
        partial,
        plugins_narrowed,
        prefix_cache,
        prefix_cache_while_running,
        settings,
        sleep_level_1,
        sleep_level_2,
        staged,
        subprocess_core,
        tied_head,
        tried_again,
        updates,
        worker_differs,
    )
}

if __name__ == "__main__":
    Path(sys.argv[3]).write_text(json.dumps(SCENARIOS[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text()))))
