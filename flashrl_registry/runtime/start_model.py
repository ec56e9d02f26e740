"""The weights that an engine starts with where a plan names them: FlashRL's ``model`` key.

A checkpoint that is quantized in the plan's own format holds codes and scales that were made with care, by GPTQ for
example, and its norms carry the smoothing already. Such tensors go into the engine as they are; what they must be
(name, shape, element type) follows from the plan alone, so headers tell before the engine starts whether they fit, and
every worker checks again what it reads. Any other checkpoint must be the plan's bf16 model with other weights.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flashrl_registry.compiler.engine_config import scheme_of_op
from flashrl_registry.documents import (
    EngineFp8,
    Inventory,
    QuantizeFp8,
    QuantizeInt8,
    ResolvedPlan,
    ResolvedTensor,
    TensorSpec,
)
from flashrl_registry.documents.names import natural_key
from flashrl_registry.documents.quantization import FP8_BLOCK
from flashrl_registry.documents.strict_yaml import Parsed
from flashrl_registry.errors import Decision, ResolutionError, SchemaError
from flashrl_registry.interop.compressed_tensors import find_config, rules_from_config
from flashrl_registry.interop.findings import Findings

_SHOWN = 8
_FLOATS = frozenset({"bfloat16", "float16", "float32"})
_HEAD = "lm_head.weight"


@dataclass(frozen=True)
class ReadyMade:
    """What one tensor of a quantized checkpoint must be.

    Attributes:
        shapes: Any of these.
        dtypes: Any of these.
    """

    shapes: tuple[tuple[int, ...], ...]
    dtypes: frozenset[str]

    def fault(self, shape: tuple[int, ...], dtype: str) -> str | None:
        """Why a tensor is not this one; None where it is."""
        if shape not in self.shapes:
            return f"shape {list(shape)}, the plan's format has {list(self.shapes[0])}"
        if dtype not in self.dtypes:
            return f"{dtype}, the plan's format has {' or '.join(sorted(self.dtypes))}"
        return None


def ready_made(resolved: ResolvedPlan) -> dict[str, ReadyMade]:
    """Every tensor of a checkpoint in the plan's own format."""
    expected: dict[str, ReadyMade] = {}
    for tensor in resolved.tensors:
        if resolved.base_model.tied_embeddings and tensor.name.endswith(_HEAD):
            continue
        codes, scales = _formats(tensor)
        expected[tensor.name] = ReadyMade((tuple(tensor.shape),), codes)
        if scales is not None:
            expected[f"{tensor.name}_scale"] = ReadyMade(scales, _FLOATS)
    return expected


def _formats(tensor: ResolvedTensor) -> tuple[frozenset[str], tuple[tuple[int, ...], ...] | None]:
    """Element types of a tensor, and shapes of its scales where it has some."""
    op, rows = tensor.op, tensor.shape[0] if tensor.shape else 1
    if isinstance(op, QuantizeInt8):
        return frozenset({"int8"}), ((rows, 1),)
    if isinstance(op, QuantizeFp8):
        blocks = tuple(math.ceil(size / FP8_BLOCK) for size in tensor.shape)
        scales = {"tensor": ((1,), ()), "channel": ((rows, 1),), "block": (blocks,)}[op.strategy]
        return frozenset({"float8_e4m3fn"}), scales
    return _FLOATS | {tensor.dtype}, None


def check_start_model(resolved: ResolvedPlan, config: Mapping[str, object], tensors: Mapping[str, TensorSpec]) -> bool:
    """Compare the checkpoint that an engine is to start with to its plan, by headers.

    Args:
        resolved: The plan, which names the checkpoint.
        config: The checkpoint's config.json.
        tensors: Its tensors.

    Returns:
        Whether it is quantized in the plan's own format, so that its tensors go in as they are.

    Raises:
        ResolutionError: It is neither that nor the plan's model in bf16; every reason is listed.
    """
    model = str(resolved.engine.start_model)
    quantized = find_config(dict(config)) is not None
    reasons = _format_faults(resolved, config) if quantized else []
    expected = ready_made(resolved) if quantized else _planned(resolved)
    tied = resolved.base_model.tied_embeddings
    given = {name: spec for name, spec in tensors.items() if not (tied and name.endswith(_HEAD))}
    wrong = [
        f"{name}: {fault}"
        for name, spec in given.items()
        if name in expected and (fault := expected[name].fault(tuple(spec.shape), spec.dtype)) is not None
    ]
    for what, names in (
        ("of the plan's format are not there", expected.keys() - given.keys()),
        ("have no place in the plan's format", given.keys() - expected.keys()),
        ("are something else", wrong),
    ):
        shown = sorted(names, key=natural_key)
        if shown:
            more = " ..." if len(shown) > _SHOWN else ""
            reasons.append(f"{len(shown)} tensors {what}: {', '.join(shown[:_SHOWN])}{more}")
    if reasons:
        kind = "quantized in another way than the plan" if quantized else "not the plan's model"
        raise ResolutionError(
            f"the engine cannot start with {model}: it is {kind}",
            decisions=[Decision(model, accepted=False, reason=reason) for reason in reasons],
            hint="name a checkpoint that the plan's profile is of, or drop engine.model (FlashRL's model key)",
        )
    return quantized


def _planned(resolved: ResolvedPlan) -> dict[str, ReadyMade]:
    return {
        tensor.name: ReadyMade((tuple(tensor.shape),), _FLOATS | {tensor.dtype})
        for tensor in resolved.tensors
        if not (resolved.base_model.tied_embeddings and tensor.name.endswith(_HEAD))
    }


def _format_faults(resolved: ResolvedPlan, config: Mapping[str, object]) -> list[str]:
    """What its quantization_config says that the plan does not."""
    if any(isinstance(tensor.op, EngineFp8) for tensor in resolved.tensors):
        return ["vLLM itself quantizes under this plan, and takes no codes"]
    base = resolved.base_model
    inventory = Inventory(
        name=base.name,
        architecture=base.architecture,
        model_type=base.model_type,
        tied_embeddings=base.tied_embeddings,
        tensors=[TensorSpec(name=tensor.name, shape=tensor.shape, dtype=tensor.dtype) for tensor in resolved.tensors],
    )
    wanted = {scheme for tensor in resolved.tensors if (scheme := scheme_of_op(tensor.op)) is not None}
    try:
        rules = rules_from_config(Findings(Parsed(dict(config)), "its config.json"), inventory)
    except SchemaError as exc:
        return [f"{finding.pointer} {finding.message}" for finding in exc.findings]
    given = {scheme for rule in rules.rules if (scheme := rule.decided_scheme()) not in {None, "bf16"}}
    if given != wanted:
        return [f"it holds {_listed(given)}, and the plan makes {_listed(wanted)}"]
    return []


def _listed(schemes: Iterable[object]) -> str:
    return " and ".join(sorted(map(str, schemes))) or "nothing quantized"
