"""Everything that leans on vLLM's internals, each with the versions it was tested on and when it can go.

Tested: 0.27.1 and 0.32.0 (CPU), 0.25.1 (H100, CUDA graphs).
"""

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from flashrl_registry.documents import Environment
from flashrl_registry.documents.rules import SUPPORTED_VLLM
from flashrl_registry.errors import RuntimeLoadError
from flashrl_registry.runtime.log import logger

if TYPE_CHECKING:
    import torch

OLDEST = "0.25.1"  # layerwise reload with one bracket per update


def vllm_version() -> str:
    """Version of the installed vLLM, local label included."""
    import vllm

    return str(vllm.__version__)


def check_version() -> None:
    """Refuse a vLLM that is known not to work; warn about one that is unknown.

    Raises:
        RuntimeLoadError: Older than the oldest that works.
    """
    version = vllm_version()
    release = Version(version).public
    if Version(release) < Version(OLDEST):
        raise RuntimeLoadError(
            f"vLLM {version} cannot run a plan: its weight reload finalizes once per call, not once per update",
            hint=f"install vllm{SUPPORTED_VLLM}",
        )
    if not SpecifierSet(SUPPORTED_VLLM).contains(release, prereleases=True):
        logger.warning("vLLM %s is newer than this release was tested with (%s)", version, SUPPORTED_VLLM)


def probe_environment(tensor_parallel_size: int = 1) -> Environment:
    """The machine, and the engine's share of it, as data."""
    from vllm.platforms import current_platform

    device = current_platform.device_type
    if current_platform.is_rocm():
        device = "rocm"
    return Environment(vllm=vllm_version(), device=device, tensor_parallel_size=tensor_parallel_size)


def online_quantization(method: str, ignore: list[str]) -> Any:
    """EngineArgs' ``quantization_config`` for an online method; EngineArgs makes it from text only when constructed."""
    from vllm.config.quantization import resolve_quantization_config

    return resolve_quantization_config(method, {"ignore": ignore})


# --- Layerwise reload -------------------------------------------------------------------------------------------
# vllm.model_executor.model_loader.reload exports initialize/finalize; the per-layer state and the way to put kernel
# tensors back are private. Goes when vLLM has a transactional reload (vllm-project/vllm#48312, #54477).


def reload_is_open(model: "torch.nn.Module") -> bool:
    """A layerwise reload has begun and not been finalized.

    The root module has no weights of its own, so its part of a reload ends only with the whole.
    """
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

    return bool(get_layerwise_info(model).can_load())


def open_reload(model: "torch.nn.Module") -> None:
    """Begin a layerwise reload: layers go to the meta device and are filled as their weights arrive."""
    from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

    initialize_layerwise_reload(model)


_emptied: "WeakKeyDictionary[torch.nn.Module, list[str]]" = WeakKeyDictionary()


def remember_emptied(model: "torch.nn.Module") -> None:
    """Note which parameters a kernel has taken away and left as None.

    oneDNN keeps its own copy of a weight and sets ``layer.weight`` to None, and its matmul asks for the attribute. A
    reload that puts a layer back as it was forgets attributes that hold no tensor. Tested: 0.27.1, 0.32.0 (without it,
    a layer that an update left alone cannot run any more). Goes when vLLM restores them.
    """
    for layer in model.modules():
        if names := [name for name, value in layer._parameters.items() if value is None and name != "bias"]:
            _emptied[layer] = names


def _restore_emptied(model: "torch.nn.Module") -> None:
    for layer in model.modules():
        for name in _emptied.get(layer, ()):
            if not hasattr(layer, name):
                layer.register_parameter(name, None)


_expert_kernels: "WeakKeyDictionary[torch.nn.Module, tuple[Any, Any]]" = WeakKeyDictionary()


def remember_expert_kernels(model: "torch.nn.Module") -> None:
    """Note the kernel object of every stack of experts, and its quantization arguments.

    A reload makes a new one, with scales and strides in tensors of its own, while a captured CUDA graph reads those of
    the first: replaying it after an update of float8 experts is an illegal memory access. The first one refers to the
    tensors that a reload copies into, so it stays right; except where vLLM quantizes experts itself, which needs the
    new one. Tested: 0.25.1 on an H100. Goes when vLLM keeps it.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cuda_alike():
        return
    for layer in model.modules():
        method = getattr(layer, "quant_method", None)
        online = getattr(method, "uses_meta_device", False)
        if getattr(method, "moe_kernel", None) is not None and not online:
            _expert_kernels[layer] = (method.moe_kernel, method.moe_quant_config)  # type: ignore[union-attr]


def _restore_expert_kernels(model: "torch.nn.Module") -> None:
    for layer in model.modules():
        if layer in _expert_kernels:
            layer.quant_method.moe_kernel, layer.quant_method.moe_quant_config = _expert_kernels[layer]


def close_reload(model: "torch.nn.Module", model_config: Any) -> None:
    """Finalize a layerwise reload; a later finalize by vLLM itself finds nothing to do."""
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

    finalize_layerwise_reload(model, model_config)
    _restore_emptied(model)
    _restore_expert_kernels(model)
    refresh_tied_head(model)


def abort_reload(model: "torch.nn.Module") -> None:
    """End a layerwise reload without processing what is half loaded: put every kernel tensor back."""
    from vllm.model_executor.model_loader.reload import layerwise

    for layer in model.modules():
        info = layerwise.get_layerwise_info(layer)
        if info.can_load() and info.kernel_tensors is not None:
            layerwise._place_kernel_tensors(layer, info)
        info.reset()
    layerwise.LOADING_LAYERS.clear()
    _restore_emptied(model)
    _restore_expert_kernels(model)
    if hasattr(model, "_original_do_torchao_reload"):
        model._do_torchao_reload = model._original_do_torchao_reload


@contextmanager
def loading_context(vllm_config: Any) -> Iterator[None]:
    """What a weight loader may rely on: the current config, the model's default dtype, no autograd."""
    import torch
    from vllm.config import set_current_vllm_config
    from vllm.utils.torch_utils import set_default_torch_dtype

    with (
        set_current_vllm_config(vllm_config),
        set_default_torch_dtype(vllm_config.model_config.dtype),
        torch.no_grad(),
    ):
        yield


# --- Faults of vLLM's CPU build ---------------------------------------------------------------------------------


def refresh_tied_head(model: "torch.nn.Module") -> None:
    """Give a tied lm_head what an update has packed for the embedding that it shares.

    On CPU ``lm_head.cpu_linear`` is a prepacked copy of the embedding's weight that a reload does not refresh, so
    logits would come from the old weights. A reload does pack the embedding, which is the same weight, so the head
    takes that. Tested: 0.27.1, 0.32.0. Goes when vLLM's reload processes tied heads.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    embeddings: list[Any] = []
    heads: list[Any] = []
    for layer in model.modules():
        if isinstance(layer, VocabParallelEmbedding) and not layer.weight.is_meta:
            (heads if isinstance(layer, ParallelLMHead) else embeddings).append(layer)
    for head in heads:
        for embedding in embeddings:
            if head.weight.data_ptr() == embedding.weight.data_ptr() and hasattr(embedding, "cpu_linear"):
                head.cpu_linear = embedding.cpu_linear


def tied_head_differs(model: "torch.nn.Module", head_VH: "torch.Tensor") -> bool:
    """A sent lm_head differs from the resident embedding that the model uses in its place.

    Args:
        model: After its reload was closed.
        head_VH: The sent lm_head, (vocabulary, hidden), on the model's device.
    """
    import torch
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

    for layer in model.modules():
        if isinstance(layer, VocabParallelEmbedding) and not isinstance(layer, ParallelLMHead):
            if head_VH.shape != (layer.org_vocab_size, layer.embedding_dim):
                return True
            rows = layer.shard_indices
            mine = head_VH[rows.org_vocab_start_index : rows.org_vocab_end_index].to(layer.weight.dtype)
            return not torch.equal(layer.weight[: mine.shape[0]], mine)
    return True


def keep_onednn_scales_alive() -> None:
    """Tie the lifetime of an int8 scale to the oneDNN handler that points at it.

    The C++ handler keeps a raw pointer to the scale tensor; layerwise reload copies the values elsewhere and frees
    the tensor, after which the kernel reads freed memory and even reloading the same weights changes the output.
    Tested: 0.27.1, 0.32.0. Goes when the handler owns its scales.
    """
    from vllm import _custom_ops as ops

    original: Callable[..., Any] | None = getattr(ops, "create_onednn_scaled_mm", None)
    if platform.machine() not in {"x86_64", "AMD64", "aarch64"} or original is None:
        return
    if getattr(original, "flashrl_wrapped", False):
        return

    def create_onednn_scaled_mm(weight, weight_scales, *args, **kwargs):  # type: ignore[no-untyped-def]
        handler = original(weight, weight_scales, *args, **kwargs)
        handler.flashrl_scales = weight_scales
        return handler

    create_onednn_scaled_mm.flashrl_wrapped = True  # type: ignore[attr-defined]
    ops.create_onednn_scaled_mm = create_onednn_scaled_mm


def repack_cpu_experts() -> None:
    """Pack bf16 experts again at every reload.

    The CPU kernel reads experts in a layout of its own, which vLLM makes on the first load only: after a reload the
    kernel takes plain rows for packed ones, and every token is wrong without an error. Tested: 0.32.0 (0.27.1 packs
    at every reload by itself). Goes when ``_setup_kernel`` packs on updates too.
    """
    from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod
    from vllm.platforms import current_platform

    original: Callable[..., Any] | None = getattr(UnquantizedFusedMoEMethod, "_setup_kernel", None)
    if not current_platform.is_cpu() or original is None or getattr(original, "flashrl_wrapped", False):
        return

    def _setup_kernel(self, layer, *args, **kwargs):  # type: ignore[no-untyped-def]
        is_update = self.moe_kernel is not None
        original(self, layer, *args, **kwargs)
        if is_update:
            self.moe_kernel.fused_experts.process_weights_after_loading(layer)

    _setup_kernel.flashrl_wrapped = True  # type: ignore[attr-defined]
    UnquantizedFusedMoEMethod._setup_kernel = _setup_kernel
