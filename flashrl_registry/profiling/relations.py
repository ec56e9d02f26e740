"""Which tensor's output channels usually feed which linears: hints by name.

A hint orders the candidates and names what is expected where the tensors themselves say nothing: it never decides.
Every relation of a profile is found on the tensors (see ``groups.py``). All members of a hint share a prefix such as
``model.layers.3.``; a ``*`` stands for an expert's number.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Relation:
    """A factor that may have been moved from a source into its targets.

    Attributes:
        source: Weight tensor whose output channels carry the factor.
        kind: ``norm``: an elementwise weight. ``linear``: rows of a matrix.
        targets: Linear weights whose input columns carry its inverse.
    """

    source: str
    kind: Literal["norm", "linear"]
    targets: tuple[str, ...]


_ATTENTION = (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.qkv_proj", "self_attn.q_a_proj",
    "self_attn.kv_a_proj_with_mqa",
)  # fmt: skip
_MLP = (
    "mlp.gate_proj", "mlp.up_proj", "mlp.gate_up_proj", "mlp.gate", "mlp.experts.*.gate_proj",
    "mlp.experts.*.up_proj", "mlp.experts.gate_up_proj", "mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj",
    "mlp.shared_expert_gate", "mlp.shared_experts.gate_proj", "mlp.shared_experts.up_proj", "block_sparse_moe.gate",
    "block_sparse_moe.experts.*.w1", "block_sparse_moe.experts.*.w3",
)  # fmt: skip

_HINTS: tuple[tuple[str, Literal["norm", "linear"], tuple[str, ...]], ...] = (
    ("input_layernorm", "norm", _ATTENTION),
    ("pre_feedforward_layernorm", "norm", _MLP),
    ("post_attention_layernorm", "norm", _MLP),
    ("self_attn.q_a_layernorm", "norm", ("self_attn.q_b_proj",)),
    ("self_attn.kv_a_layernorm", "norm", ("self_attn.kv_b_proj",)),
    ("mlp.up_proj", "linear", ("mlp.down_proj",)),
    ("mlp.gate_up_proj", "linear", ("mlp.down_proj",)),
    ("mlp.experts.*.up_proj", "linear", ("mlp.experts.*.down_proj",)),
    ("mlp.experts.gate_up_proj", "linear", ("mlp.experts.down_proj",)),
    ("mlp.shared_expert.up_proj", "linear", ("mlp.shared_expert.down_proj",)),
    ("mlp.shared_experts.up_proj", "linear", ("mlp.shared_experts.down_proj",)),
    ("block_sparse_moe.experts.*.w3", "linear", ("block_sparse_moe.experts.*.w2",)),
    ("self_attn.v_proj", "linear", ("self_attn.o_proj",)),
    ("self_attn.qkv_proj", "linear", ("self_attn.o_proj",)),
)
MEASURED_ALWAYS = ("mlp.up_proj", "mlp.down_proj")
"""The pair whose factor FlashRL stores whether or not anything was folded into it."""

_INDEX = re.compile(r"(?<=\.experts\.)\d+(?=\.)")


def module_pattern(name: str) -> tuple[str, str, str]:
    """A name's layer, its module with ``*`` for an expert's number, and that number: hints are looked up by these."""
    module = name.removesuffix(".weight")
    found = re.match(r"(.*?\.\d+)\.", module)
    prefix, rest = (found[1] + ".", module[found.end() :]) if found else ("", module)
    expert = _INDEX.search("." + rest)
    return prefix, _INDEX.sub("*", "." + rest)[1:], expert[0] if expert else ""


def find_relations(names: Iterable[str]) -> list[Relation]:
    """Every hinted relation whose source and at least one target are among these tensor names.

    Where two hints name the same target, the first one in the order of the hints keeps it.
    """
    places: dict[tuple[str, str], dict[str, str]] = {}
    for name in names:
        prefix, module, expert = module_pattern(name)
        places.setdefault((prefix, module), {})[expert] = name
    prefixes = dict.fromkeys(prefix for prefix, _ in places)
    taken: set[str] = set()
    found = []
    for prefix in prefixes:
        for source_module, kind, modules in _HINTS:
            for expert, source in places.get((prefix, source_module), {}).items():
                targets = tuple(
                    target
                    for module in modules
                    for index, target in places.get((prefix, module), {}).items()
                    if target not in taken and ("*" not in source_module or index == expert)
                )
                if targets:
                    found.append(Relation(source, kind, targets))
                    taken.update(targets)
    return found


def is_measured_always(source: str, target: str) -> bool:
    """Whether a profile holds this factor even where it is near one."""
    ours, theirs = module_pattern(source), module_pattern(target)
    return ours[0] == theirs[0] and (ours[1], theirs[1]) == MEASURED_ALWAYS
