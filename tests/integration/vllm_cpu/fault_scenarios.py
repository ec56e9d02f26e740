"""Every fault that is injected, and what an engine under a plan is seen to do about it.

    python fault_scenarios.py updates|starts ARGS.json OUT.json

Faults of updates alternate between two checkpoints: each tries to bring the one that the engine does not hold, so a
fault that slips half of it in is seen.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import receiver
import torch
import vllm
from scenarios import engine, fused, greedy, live_model, send_one_by_one
from vllm.config import WeightTransferConfig
from vllm.model_executor.layers import linear

from flashrl_registry.errors import RuntimeLoadError, WeightMismatchError
from flashrl_registry.runtime import status, updating, verify

Tensors = dict[str, torch.Tensor]
Result = dict[str, Any]


@dataclass
class Sender:
    """One faulty update.

    Attributes:
        llm: The engine.
        folder: The checkpoint that it should bring.
        tensors: Its tensors.
        held: The tensors of the checkpoint that the engine holds.
        plan: The plan's folder.
    """

    llm: vllm.LLM
    folder: str
    tensors: Tensors
    held: Tensors
    plan: Path

    def load(self, weights: Any) -> None:
        """As a framework does, in the worker."""
        live_model(self.llm).load_weights(weights)

    def one_by_one(self, items: Any) -> None:
        """One call per tensor."""
        for item in items:
            self.load([item])

    def changed(self, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Everything in one call, one tensor changed."""
        self.load([(key, change(value.clone()) if key == name else value) for key, value in self.tensors.items()])

    def rpc(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """A call that reaches every worker."""
        return self.llm.collective_rpc(method, args=args, kwargs=kwargs)

    def chunk(self, name: str) -> None:
        """One tensor by vLLM's weight transfer."""
        self.rpc("update_weights", {"folder": self.folder, "name": name})


# --- What goes wrong --------------------------------------------------------------------------------------------

Q, K, UP, DOWN = (
    f"model.layers.1.{leaf}.weight" for leaf in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "mlp.down_proj")
)
NORM, BIAS, EMBEDDING = "model.norm.weight", "model.layers.0.self_attn.k_proj.bias", "model.embed_tokens.weight"


def poke(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def change(tensor: torch.Tensor) -> torch.Tensor:
        tensor.view(-1)[3] = value
        return tensor

    return change


def overflow(dtype: torch.dtype, value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda tensor: poke(value)(tensor.float()).to(dtype)


def raising(exception: BaseException, after: int) -> Callable[[Sender], None]:
    def stream(tensors: Tensors) -> Iterator[tuple[str, torch.Tensor]]:
        yield from list(tensors.items())[:after]
        raise exception

    return lambda sender: sender.load(stream(sender.tensors))


def missing(sender: Sender) -> None:
    sender.load(list(sender.tensors.items())[:-1])


def duplicate(sender: Sender) -> None:
    items = list(sender.tensors.items())
    sender.load([*items[:4], items[2], *items[4:]])


def duplicate_in_later_call(sender: Sender) -> None:
    items = list(sender.tensors.items())
    sender.one_by_one(items[:5])
    sender.load([items[5], items[2]])


def two_senders(sender: Sender) -> None:
    for mine, other in zip(sender.tensors.items(), list(sender.held.items())[:-1], strict=False):
        sender.load([mine])
        sender.load([other])


def two_announced_senders(sender: Sender) -> None:
    mine, other = list(sender.tensors.items()), list(sender.held.items())
    with updating(sender.llm):
        sender.one_by_one(mine[:3])
        with updating(sender.llm):
            for pair in zip(mine[3:], other, strict=False):
                sender.one_by_one(pair)


def started_twice(sender: Sender) -> None:
    sender.rpc("start_weight_update")
    sender.chunk(NORM)
    sender.rpc("start_weight_update")


def goes_on_after_a_refusal(sender: Sender) -> None:
    """As senders that look at errors only at the end: every other tensor of the pass still arrives."""
    errors = []
    for name, value in sender.tensors.items():
        try:
            sender.load([(name, value * float("nan") if name == Q.replace("layers.1", "layers.0") else value)])
        except WeightMismatchError as exc:
            errors.append(exc)
    raise errors[0]


def first_one_refused(sender: Sender) -> None:
    """The same, with the first tensor of the pass."""
    errors = []
    for index, (name, value) in enumerate(sender.tensors.items()):
        try:
            sender.load([(name, value if index else value * float("nan"))])
        except WeightMismatchError as exc:
            errors.append(exc)
    raise errors[0]


def finish_what_was_started(sender: Sender) -> None:
    for name in sender.tensors:
        if name != NORM:
            sender.chunk(name)
    sender.rpc("finish_weight_update")


def finished_too_early(sender: Sender) -> None:
    with updating(sender.llm):
        sender.one_by_one(list(sender.tensors.items())[:3])


def transfer_finished_too_early(sender: Sender) -> None:
    sender.rpc("start_weight_update")
    sender.chunk(NORM)
    sender.rpc("finish_weight_update")


def transfer_of_unknown(sender: Sender) -> None:
    sender.rpc("start_weight_update")
    sender.chunk(UP)
    sender.load([("model.layers.7.mlp.up_proj.weight", sender.tensors[UP])])


def end_the_session(sender: Sender) -> None:
    """What a careful framework does after a refusal: end vLLM's session, then send everything again."""
    try:
        sender.rpc("finish_weight_update")
    except RuntimeLoadError:
        sender.rpc("start_weight_update")
    for name in sender.tensors:
        sender.chunk(name)
    sender.rpc("finish_weight_update")


def half_way(sender: Sender) -> None:
    sender.one_by_one(list(sender.tensors.items())[:9])


def unknown_name(sender: Sender) -> None:
    sender.load([*sender.tensors.items(), ("model.layers.0.self_attn.extra.weight", torch.zeros(2, 2))])


def empty_name(sender: Sender) -> None:
    sender.load([*list(sender.tensors.items())[:6], ("", torch.zeros(2, 2))])


def shard_of(sender: Sender) -> None:
    """What FSDP holds: one rank's part, which says that it has the whole's shape."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (1,))
    sender.changed(UP, lambda t: distribute_tensor(t, mesh, [Shard(0)]))


def nameless(sender: Sender) -> None:
    sender.load([*list(sender.tensors.items())[:6], (None, sender.tensors[UP])])


def fused_as_numpy(sender: Sender) -> None:
    items = fused(sender.tensors)
    name = next(name for name in items if "qkv_proj.weight" in name)
    sender.one_by_one([(key, value.float().numpy() if key == name else value) for key, value in items.items()])


def fused_of_wrong_size(sender: Sender) -> None:
    items = fused(sender.tensors)
    name = next(name for name in items if "qkv_proj.weight" in name)
    sender.load([(key, value[:-2] if key == name else value) for key, value in items.items()])


def loader_raises(sender: Sender) -> None:
    original = linear.RowParallelLinear.break_next  # type: ignore[attr-defined]
    original[0] = True
    try:
        sender.one_by_one(sender.tensors.items())
    finally:
        original[0] = False


def breakable_loader() -> None:
    """vLLM's own weight loader of row-parallel linears raises when told to: full memory, a bug."""
    switch = [False]
    for name in ("weight_loader", "weight_loader_v2"):
        original = getattr(linear.RowParallelLinear, name)

        def wrapped(self: Any, param: Any, *args: Any, _original: Any = original, **kwargs: Any) -> Any:
            if switch[0] and param.dim() == 2 and not param.is_meta:
                raise MemoryError("vLLM's own loader gave up")
            return _original(self, param, *args, **kwargs)

        setattr(linear.RowParallelLinear, name, wrapped)
    linear.RowParallelLinear.break_next = switch  # type: ignore[attr-defined]


def plan_damaged(sender: Sender) -> None:
    """In place, as ``rsync --inplace`` or a torn copy does: first the profile's values, then the files' lengths."""
    files = [*sender.plan.glob("plan.*"), *sender.plan.glob("*.safetensors")]
    for file in files:
        file.chmod(0o644)
        with file.open("r+b") as opened:
            size = file.stat().st_size
            opened.seek(size // 2)
            opened.write(b"\x40" * (size - size // 2))
    sender.one_by_one(sender.held.items())
    for file in files:
        os.truncate(file, 7)
    sender.rpc("reload_weights", weights_path=sender.folder)


def engines_own_memory(sender: Sender) -> None:
    """As a trainer in the engine's process that holds the engine's tensors: an update of the engine by itself."""
    own = dict(live_model(sender.llm).named_parameters())
    sender.load([(name, own[name].data if name in (EMBEDDING,) else value) for name, value in sender.held.items()])


def partial_unannounced(sender: Sender) -> None:
    layer = [(name, value) for name, value in sender.tensors.items() if ".layers.1." in name]
    sender.rpc("reload_weights", weights_iterator=iter(layer))


def partial_with_half_a_fused_layer(sender: Sender) -> None:
    with updating(sender.llm, partial=True):
        sender.load([(name, value) for name, value in sender.tensors.items() if ".layers.1." in name and name != K])


def partial_that_raises(sender: Sender) -> None:
    with updating(sender.llm, partial=True):
        sender.load([(name, value) for name, value in sender.tensors.items() if ".layers.1." in name][:2])
        raise ConnectionError("the trainer died")


KEEP, HEAL, SAME, DONE = (
    "refused before anything changed", "quarantined, healed bit for bit", "made no difference",
    "complete and bit-equal in spite of it",
)  # fmt: skip
OLD = "old weights served bit for bit"
SILENT, NOT_HEALED = "SILENT", "NOT HEALED"


@dataclass(frozen=True)
class Fault:
    """One injected fault.

    Attributes:
        what: In words.
        inject: Does it; what it raises is what the sender sees.
        expected: Under a plan that quarantines.
        staged: Under a staged plan.
        heal: Instead of a complete update, one tensor per call.
        told: The sender sees an error.
        says: Part of that error.
    """

    what: str
    inject: Callable[[Sender], None]
    expected: str = HEAL
    staged: str = OLD
    heal: Callable[[Sender], None] | None = None
    told: bool = True
    says: str = ""


def kernel_format(sender: Sender) -> None:
    sender.rpc("reload_weights", weights_iterator=iter([]), is_checkpoint_format=False)


UPDATES: dict[str, Fault] = {
    "missing": Fault("a tensor never arrives, then another complete update", missing, told=False),
    "missing-then-late": Fault(
        "a tensor arrives late, after somebody tried to generate", missing, told=False,
        heal=lambda sender: sender.load(list(sender.tensors.items())[-1:]),
    ),
    "half-way": Fault("generate while half of the tensors have arrived", half_way, told=False),
    "duplicate": Fault("a tensor twice in one call", duplicate, says="sent twice"),
    "duplicate-in-later-call": Fault("a tensor again in a later call", duplicate_in_later_call),
    "two-senders": Fault("two senders at once, tensor by tensor", two_senders, told=False),
    "two-announced-senders": Fault("two announced updates at once", two_announced_senders),
    "goes-on": Fault("a sender that goes on after a refusal", goes_on_after_a_refusal),
    "goes-on-after-the-first": Fault("the same after a refusal of its first tensor", first_one_refused),
    "started-twice": Fault("start_weight_update twice", started_twice, heal=finish_what_was_started),
    "finish-without-begin": Fault("an update is finished that nobody began",
                                  lambda sender: sender.rpc("flashrl_finish_update"), KEEP),
    "transfer-finish-without-start": Fault("finish_weight_update without start_weight_update",
                                           lambda sender: sender.rpc("finish_weight_update"), KEEP),
    "finished-too-early": Fault("an announced update is finished too early", finished_too_early),
    "transfer-finished-too-early": Fault("finish_weight_update too early", transfer_finished_too_early),
    "transfer-of-unknown": Fault("a stranger sends into an open weight transfer", transfer_of_unknown,
                                 heal=end_the_session),
    "nan-in-linear": Fault("NaN in a linear", lambda sender: sender.changed(UP, poke(float("nan"))),
                           says=f"{UP}: holds NaN or infinity"),
    "nan-in-norm": Fault("NaN in a norm", lambda sender: sender.changed(NORM, poke(float("nan")))),
    "nan-in-bias": Fault("NaN in a bias", lambda sender: sender.changed(BIAS, poke(float("nan")))),
    "nan-in-embedding": Fault("NaN in the embedding", lambda sender: sender.changed(EMBEDDING, poke(float("nan")))),
    "inf-in-linear": Fault("infinity in a linear", lambda sender: sender.changed(DOWN, poke(float("-inf")))),
    "inf-in-norm": Fault("infinity in a norm", lambda sender: sender.changed(NORM, poke(float("inf"))),
                         says=f"{NORM}: holds NaN or infinity"),
    "float16-overflow": Fault("float16 that overflowed at the sender",
                              lambda sender: sender.changed(NORM, overflow(torch.float16, 1e5))),
    "bfloat16-overflow": Fault("float32 that overflows the engine's bfloat16",
                               lambda sender: sender.changed(NORM, overflow(torch.float32, 3.4e38))),
    "wrong-shape": Fault("a row too few", lambda sender: sender.changed(K, lambda t: t[:-1]), says="the plan says"),
    "wrong-rank": Fault("one dimension for two", lambda sender: sender.changed(K, lambda t: t.reshape(-1))),
    "transposed": Fault("rows and columns exchanged", lambda sender: sender.changed(K, lambda t: t.t())),
    "scalar": Fault("a scalar", lambda sender: sender.changed(K, lambda t: t[0, 0])),
    "int8": Fault("int8 without scales", lambda sender: sender.changed(DOWN, lambda t: t.to(torch.int8)),
                  says="dtype torch.int8"),
    "float64": Fault("float64", lambda sender: sender.changed(DOWN, lambda t: t.double())),
    "bool": Fault("bool", lambda sender: sender.changed(NORM, lambda t: t > 0)),
    "numpy": Fault("a numpy array", lambda sender: sender.changed(NORM, lambda t: t.float().numpy()),
                   says=f"{NORM}: ndarray, and not a torch.Tensor; a trainer sends dense torch tensors"),
    "fused-numpy": Fault("a fused qkv_proj as a numpy array", fused_as_numpy, says="qkv_proj.weight: ndarray, and not"),
    "none": Fault("None for a tensor", lambda sender: sender.changed(K, lambda _: None),
                  says=f"{K}: NoneType, and not a torch.Tensor"),
    "sparse": Fault("a sparse tensor", lambda sender: sender.changed(UP, lambda t: t.to_sparse()),
                    says=f"{UP}: layout torch.sparse_coo; send to_dense()"),
    "meta": Fault("a tensor on the meta device", lambda sender: sender.changed(UP, lambda t: t.to("meta")),
                  says=f"{UP}: a meta tensor, which has no values"),
    "sharded": Fault("a shard of a distributed tensor (DTensor)", shard_of, says="send full_tensor()"),
    "nameless": Fault("None for a name", nameless, says="a name of type NoneType"),
    "empty-call": Fault("a call without tensors", lambda sender: sender.load([]), SAME, told=False),
    "empty-reload": Fault("reload_weights with an iterator without tensors",
                          lambda sender: sender.rpc("reload_weights", weights_iterator=iter([]))),
    "empty-name": Fault("a tensor without a name", empty_name),
    "unknown-name": Fault("a tensor too many", unknown_name, says="does not decide"),
    "fused-of-wrong-size": Fault("a fused qkv_proj of wrong size", fused_of_wrong_size),
    "raises-first": Fault("the sender fails before its first tensor", raising(ConnectionError("gone"), 0), KEEP),
    "raises-in-the-middle": Fault("the sender fails in the middle", raising(ConnectionError("gone"), 9), says="gone"),
    "raises-last": Fault("the sender fails before its last tensor", raising(ConnectionError("gone"), 24)),
    "interrupted": Fault("Ctrl-C in the middle", raising(KeyboardInterrupt(), 11)),
    "loader-raises": Fault("vLLM's own weight loader raises", loader_raises, staged=HEAL),
    "kernel-format": Fault("reload_weights(is_checkpoint_format=False)", kernel_format, KEEP,
                           says="writes past the plan"),
    "partial-unannounced": Fault("some layers only, not announced", partial_unannounced),
    "partial-half-fused": Fault("an announced partial update with q and v without k", partial_with_half_a_fused_layer),
    "partial-raises": Fault("the trainer dies inside an announced partial update", partial_that_raises),
    "own-memory": Fault("the engine's own memory is sent to it", engines_own_memory, SAME, told=False),
    "plan-damaged": Fault("the plan's files are damaged after the start", plan_damaged, DONE, DONE, told=False),
}  # fmt: skip


def injected(fault: Fault, sender: Sender) -> Result:
    """What the sender and a caller of generate see."""
    outcome: Result = {"error": None, "generate": None}
    try:
        fault.inject(sender)
    except BaseException as exc:  # noqa: BLE001 - whatever a user would see, Ctrl-C included
        outcome["error"] = f"{type(exc).__name__}: {exc}"
    try:
        outcome["tokens"] = greedy(sender.llm)
    except Exception as exc:  # noqa: BLE001
        outcome["generate"] = f"{type(exc).__name__}: {exc}"
    report = status(sender.llm)[0]
    outcome["state"], outcome["last_failure"] = report["state"], report["last_failure"]
    return outcome


def seen(llm: vllm.LLM) -> Result:
    return {"tokens": greedy(llm), "resident": status(llm, resident=True)[0]["resident"]}


def classify(fault: Fault, outcome: Result, after: Result | None, *, held: Result, wanted: Result, staged: bool) -> str:
    """Name the outcome; SILENT where it is none of those that are allowed, or where nobody told the sender."""
    if fault.told and not outcome["error"]:
        return SILENT
    if "NotServableError" in (outcome["generate"] or ""):
        return HEAL
    if after == held and outcome["tokens"] == held["tokens"]:
        if staged:
            return OLD
        return KEEP if outcome["error"] else SAME
    return DONE if after == wanted else SILENT


def updates(args: Result) -> Result:
    """Inject every fault into one engine; heal it each time."""
    breakable_loader()
    folders = args["models"]
    references = [seen(engine(folder)) for folder in folders]
    llm = engine(
        folders[0],
        worker_extension_cls="receiver.Receiver",
        weight_transfer_config=WeightTransferConfig(backend="folder"),
    )
    visible = references[0]["tokens"] != references[1]["tokens"]
    out: Result = {"visible": visible, "start": seen(llm) == references[0], "faults": {}}
    holds = 0
    for name, fault in UPDATES.items():
        folder, other = folders[1 - holds], folders[holds]
        sender = Sender(llm, folder, receiver.checkpoint(folder), receiver.checkpoint(other), Path(args["plan"]))
        outcome = injected(fault, sender)
        after = seen(llm) if outcome["generate"] is None else None
        try:
            (fault.heal or (lambda given: send_one_by_one(given.llm, given.folder)))(sender)
            healed = seen(llm) == references[1 - holds]
        except Exception as exc:  # noqa: BLE001
            healed, outcome["not_healed"] = False, f"{type(exc).__name__}: {exc}"
        found = classify(
            fault, outcome, after, held=references[holds], wanted=references[1 - holds], staged=args["staged"]
        )
        outcome.pop("tokens", None)
        expected = fault.staged if args["staged"] else fault.expected
        out["faults"][name] = {
            "what": fault.what, "says": fault.says, "expected": expected,
            "outcome": found if healed else NOT_HEALED, **outcome,
        }  # fmt: skip
        holds = 1 - holds
    return out


# --- Engines that must not start --------------------------------------------------------------------------------


def empty_loader() -> None:
    """A loader of another plugin that writes parameters itself."""
    from vllm.model_executor.model_loader import register_model_loader
    from vllm.model_executor.model_loader.base_loader import BaseModelLoader

    @register_model_loader("writes_past")
    class WritesPast(BaseModelLoader):  # type: ignore[misc]
        def download_model(self, model_config: Any) -> None:
            """Nothing to fetch."""

        def load_weights(self, model: Any, model_config: Any) -> None:
            """Never calls model.load_weights."""


def name_taken(args: Result) -> None:
    """Another plugin has registered a loader under our name."""
    from vllm.model_executor import model_loader

    ours = model_loader._LOAD_FORMAT_TO_MODEL_LOADER.pop("flashrl", None)
    model_loader._LOAD_FORMAT_TO_MODEL_LOADER["flashrl"] = model_loader._LOAD_FORMAT_TO_MODEL_LOADER["auto"]
    try:
        engine(args["models"][0])
    finally:
        model_loader._LOAD_FORMAT_TO_MODEL_LOADER.pop("flashrl")
        if ours is not None:
            model_loader._LOAD_FORMAT_TO_MODEL_LOADER["flashrl"] = ours


def served_dummy(args: Result) -> Result:
    """Random weights that the program asked for: served, and said to be random."""
    llm = engine(args["models"][0], load_format="dummy")
    return {"tokens": greedy(llm), "status": status(llm)[0], "verify": verify(llm)[0]}


def with_weight_transfer(backend: str) -> Callable[[Result], None]:
    return lambda args: engine(args["models"][0], weight_transfer_config=WeightTransferConfig(backend=backend))


STARTS: dict[str, tuple[Any, ...]] = {
    # id: what, FLASHRL_CONFIG (@: a key of the arguments' configs), start, parts of the error
    "unknown-reference": ("FLASHRL_CONFIG names no plan", "nobody/nothing@1.0.0",
                          lambda args: engine(args["models"][0]), "nobody/nothing"),
    "malformed-reference": ("FLASHRL_CONFIG is no reference", "not a ref",
                            lambda args: engine(args["models"][0]), "not a plan reference", "namespace/name"),
    "reference-too-long": ("FLASHRL_CONFIG is longer than a path can be", "x" * 5000,
                           lambda args: engine(args["models"][0]), "not a plan reference", "File name too long"),
    "plan-altered": ("the plan's text was changed", "@altered",
                     lambda args: engine(args["models"][0]), "does not match its digest", "recorded sha256:"),
    "sidecar-altered": ("the profile's vectors were changed", "@sidecar",
                        lambda args: engine(args["models"][0]), "does not match its digest", ".safetensors"),
    "sidecar-missing": ("the profile's vectors are gone", "@nosidecar",
                        lambda args: engine(args["models"][0]), ".safetensors"),
    "vllm-out-of-range": ("the plan is for other vLLM releases", "@range",
                          lambda args: engine(args["models"][0]), "vLLM"),
    "another-model": ("the plan is for another model", "@plan", lambda args: engine(args["another"]),
                      "the plan is for", "not for another"),
    "lock-of-another-plan": ("a lock pins another plan than lies there", "@lock",
                             lambda args: engine(args["models"][0]), "is not the plan that the reference pins"),
    "replica-not-numbered": ("a hybrid, and nothing tells which replica the engine is", "@hybrid",
                             lambda args: engine(args["models"][0]),
                             "nothing tells this engine which replica it is", "FLASHRL_REPLICA=RANK/SIZE"),
    "undecided-tensor": ("the checkpoint has a tensor that the plan does not decide", "@plan",
                         lambda args: engine(args["grown"]),
                         "not decided by the plan", "model.layers.0.mlp.up_proj.bias"),
    "missing-tensor": ("the checkpoint lacks a tensor of the plan", "@plan",
                       lambda args: engine(args["shrunk"]), "model.layers.1.mlp.up_proj.weight"),
    "nan-in-checkpoint": ("NaN in the checkpoint itself", "@plan",
                          lambda args: engine(args["nan"]), "NaN or infinity"),
    "own-quantization-config": ("the model's config.json has a quantization_config", "int8",
                                lambda args: engine(args["quantized"]), "quantiz"),
    "program-quantizes": ("the program passes quantization=", "int8",
                          lambda args: engine(args["models"][0], quantization="fp8"), "one must decide"),
    "program-overrides": ("the program passes hf_overrides['quantization_config']", "int8",
                          lambda args: engine(args["models"][0], hf_overrides={"quantization_config": {}}),
                          "one must decide"),
    "overrides-function": ("the program passes hf_overrides as a function", "int8",
                           lambda args: engine(args["models"][0], hf_overrides=lambda config: config), "as a dict"),
    "pipeline-parallel": ("pipeline parallelism under a plan that quantizes", "int8",
                          lambda args: engine(args["models"][0], pipeline_parallel_size=2),
                          "pipeline parallelism is not supported", "use tensor_parallel_size"),
    "adapters-on-cpu": ("LoRA adapters on int8 linears of the CPU build", "int8",
                        lambda args: engine(args["models"][0], enable_lora=True),
                        "cannot put adapters on int8 linears", "merge the adapters"),
    "sharded-state": ("load_format='sharded_state' writes past the plan", "int8",
                      lambda args: engine(args["models"][0], load_format="sharded_state"),
                      "past model.load_weights", "sharded_state"),
    "tensorizer": ("load_format='tensorizer' writes past the plan", "int8",
                   lambda args: engine(args["models"][0], load_format="tensorizer"), "past model.load_weights"),
    "sparse-nccl": ("weight transfer 'sparse_nccl' writes past the plan", "int8",
                    with_weight_transfer("sparse_nccl"), "past model.load_weights"),
    "nccl-m2n": ("weight transfer 'nccl_m2n' writes past the plan", "int8",
                 with_weight_transfer("nccl_m2n"), "past model.load_weights"),
    "loader-writes-past": ("another plugin's loader never calls model.load_weights", "int8",
                           lambda args: engine(args["models"][0], load_format="writes_past"), "never called"),
    "loader-name-taken": ("another plugin's loader is registered under our name", "int8", name_taken,
                          "another plugin has registered"),
    "plugin-not-allowed": ("VLLM_PLUGINS keeps the plugin out", "int8",
                           lambda args: engine(args["models"][0]), "VLLM_PLUGINS"),
}  # fmt: skip


def starts(args: Result) -> Result:
    """Each must end with an error that says why."""
    from vllm.engine.arg_utils import EngineArgs

    EngineArgs(model=args["models"][0])  # vLLM loads its plugins once, with what VLLM_PLUGINS says now
    empty_loader()
    out: Result = {"faults": {}}
    for name, (what, config, start, *texts) in STARTS.items():
        os.environ["FLASHRL_CONFIG"] = args["configs"][config[1:]] if config.startswith("@") else config
        os.environ.pop("VLLM_PLUGINS", None)
        if name == "plugin-not-allowed":
            os.environ["VLLM_PLUGINS"] = "lora_filesystem_resolver"
        try:
            start(args)
            error = None
        except Exception as exc:  # noqa: BLE001
            error = f"{type(exc).__name__}: {exc}"
        out["faults"][name] = {"what": what, "says": texts, "error": error}
    os.environ.pop("VLLM_PLUGINS", None)
    os.environ["FLASHRL_CONFIG"] = "int8"
    out["dummy"] = served_dummy(args)
    return out


if __name__ == "__main__":
    SCENARIOS = {"updates": updates, "starts": starts}
    Path(sys.argv[3]).write_text(json.dumps(SCENARIOS[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text()))))
