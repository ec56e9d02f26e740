"""What no plan can run with, found before an engine starts."""

from collections.abc import Mapping
from typing import Any

from flashrl_registry.compiler.engine_config import online_experts
from flashrl_registry.errors import FlashRLError, PluginNotActiveError
from flashrl_registry.resolver import Resolution

PLUGIN_NAME = "flashrl_registry"

# These never call model.load_weights, so a plan could not see the weights.
_BYPASSING_FORMATS = {"sharded_state", "runai_streamer_sharded", "ipc_cache", "tensorizer"}
_BYPASSING_TRANSFERS = {"sparse_nccl", "nccl_m2n", "sharded_rdt", "modelexpress"}


def check_plugins(environ: Mapping[str, str]) -> None:
    """The driver has the plugin; its workers read VLLM_PLUGINS again.

    Raises:
        PluginNotActiveError: They will not have it.
    """
    allowed = environ.get("VLLM_PLUGINS")
    if allowed is not None and PLUGIN_NAME not in [part.strip() for part in allowed.split(",")]:
        raise PluginNotActiveError(
            f"VLLM_PLUGINS={allowed} keeps the plan out of the engine's workers",
            hint=f"add {PLUGIN_NAME} to VLLM_PLUGINS, or unset FLASHRL_CONFIG",
        )


def check_arguments(args: Any) -> None:
    """Nothing in the program's arguments decides what the plan decides, or writes weights past it.

    Args:
        args: ``vllm.EngineArgs``.

    Raises:
        FlashRLError: Something does.
    """
    if args.load_format in _BYPASSING_FORMATS:
        raise FlashRLError(
            f"load_format='{args.load_format}' writes weights past model.load_weights, so no plan can quantize them",
            hint="use load_format='auto', or unset FLASHRL_CONFIG",
        )
    transfer = getattr(getattr(args, "weight_transfer_config", None), "backend", None)
    if transfer in _BYPASSING_TRANSFERS:
        raise FlashRLError(
            f"weight transfer backend '{transfer}' writes weights past model.load_weights, so no plan can see them",
            hint="use the backend 'nccl' or 'ipc', or unset FLASHRL_CONFIG",
        )
    if args.quantization is not None or getattr(args, "quantization_config", None) is not None:
        raise FlashRLError(
            f"the program passes quantization={args.quantization!r} and FLASHRL_CONFIG names a plan; one must decide",
            hint="drop the program's quantization argument, or unset FLASHRL_CONFIG",
        )
    if callable(args.hf_overrides):
        raise FlashRLError(
            "the program passes hf_overrides as a function, and a plan needs to add to it as a dict",
            hint="pass hf_overrides as a dict",
        )
    if "quantization_config" in (args.hf_overrides or {}):
        raise FlashRLError(
            "the program passes hf_overrides['quantization_config'] and FLASHRL_CONFIG names a plan; one must decide",
            hint="drop the program's entry, or unset FLASHRL_CONFIG",
        )


def check_resolution(args: Any, resolution: Resolution) -> None:
    """The engine can run this plan.

    Args:
        args: ``vllm.EngineArgs``.
        resolution: The plan, for this machine.

    Raises:
        FlashRLError: It cannot.
    """
    _check_parallel(args, resolution)
    _check_adapters(args, resolution)
    _check_experts(args, resolution)


def _check_parallel(args: Any, resolution: Resolution) -> None:
    quantized = resolution.plan.count_by_treatment().keys() - {"keep", "rescale"}
    if args.pipeline_parallel_size > 1 and quantized:
        raise FlashRLError(
            f"pipeline_parallel_size={args.pipeline_parallel_size}: pipeline parallelism is not supported under a plan "
            "that quantizes; each worker would hold some of the layers only",
            hint="use tensor_parallel_size, or data_parallel_size",
        )


def _check_adapters(args: Any, resolution: Resolution) -> None:
    """LoRA layers look for weights that oneDNN has taken away. Tested: 0.32.0; it fails on W8A8 without a plan, too."""
    device = resolution.resolved.environment.device
    if args.enable_lora and device == "cpu" and "int8" in resolution.plan.count_by_treatment():
        raise FlashRLError(
            "enable_lora=True: vLLM's CPU build cannot put adapters on int8 linears",
            hint="merge the adapters into the weights that the trainer sends, or use FLASHRL_CONFIG=bf16 on CPU",
        )


def _check_experts(args: Any, resolution: Resolution) -> None:
    """A captured CUDA graph of experts that vLLM itself quantizes gives other tokens after an update.

    Seen: 0.25.1 on an H100; eager engines are bit-equal to fresh ones, and so are experts that get our codes, eager or
    not (``compat.remember_expert_kernels``). Goes when the cause is found.
    """
    experts = online_experts(resolution.plan)
    if experts and not args.enforce_eager:
        raise FlashRLError(
            f"experts that vLLM quantizes itself do not survive a weight update under CUDA graphs: {experts[0]}",
            hint="use scheme fp8_channel or fp8_block, which do, or pass enforce_eager=True",
        )
