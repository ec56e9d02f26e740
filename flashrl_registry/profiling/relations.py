"""Which tensor's output channels feed which linears: a small table of name hints.

The names are those of Llama, Qwen2, Qwen3 and Mistral. A hint is only where to look: every relation that is taken
from here is checked on the tensors afterwards (see ``profile.py``), and a quantized linear that no hint knows is
refused. All members of a relation share a prefix such as ``model.layers.3.``.
"""

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


_HINTS: tuple[tuple[str, Literal["norm", "linear"], tuple[str, ...]], ...] = (
    ("input_layernorm", "norm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    ("post_attention_layernorm", "norm", ("mlp.gate_proj", "mlp.up_proj")),
    ("mlp.up_proj", "linear", ("mlp.down_proj",)),
)
_UNSMOOTHED = ("self_attn.o_proj",)
"""Known linears that nothing is folded into."""

_KNOWN = {target for _, _, targets in _HINTS for target in targets} | set(_UNSMOOTHED)


def is_known_linear(name: str) -> bool:
    """Whether a hint says what feeds this linear weight."""
    return any(_prefix(name, module) is not None for module in _KNOWN)


def find_relations(names: Iterable[str]) -> list[Relation]:
    """Every relation whose source and at least one target are among these tensor names."""
    present = set(names)
    found = []
    for name in present:
        for source, kind, modules in _HINTS:
            prefix = _prefix(name, source)
            if prefix is None:
                continue
            targets = tuple(f"{prefix}{module}.weight" for module in modules if f"{prefix}{module}.weight" in present)
            if targets:
                found.append(Relation(name, kind, targets))
    return found


def _prefix(name: str, module: str) -> str | None:
    """``model.layers.3.`` for ``model.layers.3.mlp.up_proj.weight`` and ``mlp.up_proj``; None where it is another."""
    prefix = name.removesuffix(f"{module}.weight")
    return prefix if prefix != name and (not prefix or prefix.endswith(".")) else None
