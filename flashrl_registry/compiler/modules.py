"""What tensor names say about modules: which tensors make a linear, which linears the engine fuses."""

from flashrl_registry.documents import TensorSpec
from flashrl_registry.documents.names import is_index

# Siblings that vLLM loads into one weight; one fused weight has one format.
FUSED = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
FUSED_OF = {shard: fused for fused, shards in FUSED.items() for shard in shards}

_EMBEDDINGS = {"embed_tokens", "wte", "wpe", "word_embeddings", "embed_in", "position_embedding", "position_embeddings"}
# Linears whose input columns the engine shares out among workers; of all others it shares out the output rows.
_ROW_PARALLEL = {"o_proj", "out_proj", "down_proj", "dense", "dense_4h_to_h", "c_proj", "fc2", "w2", "wo"}
_HEADS = {"lm_head", "embed_out", "score"}
# A router picks experts from small logits; vLLM keeps it unquantized.
_ROUTERS = {"gate", "router", "shared_expert_gate"}


def module_of(tensor: str) -> str:
    """Module that owns a tensor: ``a.q_proj.weight`` -> ``a.q_proj``."""
    return tensor.rpartition(".")[0] or tensor


def is_linear_weight(spec: TensorSpec) -> bool:
    """A matrix that a matmul uses: not an embedding, a head, a router, a norm or a bias."""
    leaf = module_of(spec.name).rpartition(".")[2]
    return spec.name.endswith(".weight") and len(spec.shape) == 2 and leaf not in _EMBEDDINGS | _HEADS | _ROUTERS


def what_it_is(spec: TensorSpec) -> str:
    """Why a tensor is not a linear weight, in words."""
    leaf = module_of(spec.name).rpartition(".")[2]
    for leaves, what in ((_EMBEDDINGS, "an embedding"), (_HEADS, "an output head"), (_ROUTERS, "a router")):
        if leaf in leaves:
            return what
    return f"not a linear weight (shape {spec.shape})"


def shared_side(tensor: str) -> int:
    """The dimension of a linear weight that tensor parallelism shares out: 0 output rows, 1 input columns."""
    return 1 if module_of(tensor).rpartition(".")[2] in _ROW_PARALLEL else 0


def is_embedding_weight(tensor: str) -> bool:
    """A table that is looked up, not multiplied."""
    return module_of(tensor).rpartition(".")[2] in _EMBEDDINGS


def engine_module(tensor: str) -> str:
    """The engine's module that a tensor goes into, by its siblings alone.

    ``a.q_proj.bias`` -> ``a.qkv_proj``, ``m.experts.3.up_proj.weight`` -> ``m.experts``, ``a.norm.weight`` ->
    ``a.norm``.
    """
    module = module_of(tensor)
    layer, experts, expert = module.rpartition(".experts.")
    if experts and is_index(expert.partition(".")[0]):
        return layer + ".experts"
    parent, _, leaf = module.rpartition(".")
    return f"{parent}.{FUSED_OF[leaf]}" if leaf in FUSED_OF else module


def fused_place(tensor: str) -> tuple[str, str] | None:
    """Where the engine fuses a weight with its siblings.

    Returns:
        The fused module and the weight's own name in it: ``a.q_proj.weight`` -> ``('a.qkv_proj', 'q_proj')``,
        ``m.experts.3.up_proj.weight`` -> ``('m.experts', '3.up_proj')``; None for a weight that stays alone.
    """
    module, fused = module_of(tensor), engine_module(tensor)
    if not tensor.endswith(".weight") or fused == module:
        return None
    inside = module.startswith(fused + ".")
    return fused, module.removeprefix(fused + ".") if inside else module.rpartition(".")[2]
