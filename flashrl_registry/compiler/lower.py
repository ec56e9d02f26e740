"""Plan + Environment -> ResolvedPlan: per-tensor operations and arguments in the installed vLLM's vocabulary."""

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from flashrl_registry.compiler.modules import is_embedding_weight, module_of
from flashrl_registry.compiler.smoothing import smoothing_sources
from flashrl_registry.documents import (
    EngineArguments,
    Environment,
    Keep,
    Plan,
    QuantizeInt8,
    Rescale,
    ResolvedPlan,
    ResolvedTensor,
    TensorSpec,
)
from flashrl_registry.documents.names import expand, natural_key
from flashrl_registry.documents.quantization import INT8_ACTIVATIONS, INT8_WEIGHTS
from flashrl_registry.errors import Decision, ResolutionError


def lower(plan: Plan, environment: Environment, source: str = "") -> ResolvedPlan:
    """Fix a plan for one environment.

    Args:
        plan: A compiled plan.
        environment: The machine that will run it.
        source: The reference that it came from, for people.

    Returns:
        The sealed ResolvedPlan; every process computes the same one.

    Raises:
        ResolutionError: The plan does not admit the installed vLLM.
    """
    # A local label such as '+cpu' names a build of the same release.
    release = Version(environment.vllm).public
    if not SpecifierSet(plan.engine.vllm).contains(release, prereleases=True):
        reason = f"vLLM {environment.vllm} is not in the plan's range {plan.engine.vllm}"
        raise ResolutionError(
            f"plan {plan.digest or plan.base_model.name} cannot run here",
            decisions=[Decision(source or plan.base_model.name, accepted=False, reason=reason)],
            hint="install a vLLM in that range, or compile the plan with a wider engine.vllm",
        )
    tensors = _tensors(plan)
    resolved = ResolvedPlan(
        source=source,
        plan_digest=plan.compute_digest(),
        base_model=plan.base_model,
        environment=environment,
        engine=EngineArguments(
            logprobs_mode=plan.engine.logprobs_mode,
            quantization_config=_compressed_tensors_config(tensors),
        ),
        sidecar=plan.profile.sidecar if plan.profile else None,
        tensors=tensors,
    )
    return resolved.model_copy(update={"digest": resolved.compute_digest()})


def _tensors(plan: Plan) -> list[ResolvedTensor]:
    sources = smoothing_sources(plan)
    tensors = []
    for family in plan.tensors:
        for name in expand(family.names):
            op: Keep | Rescale | QuantizeInt8
            if family.treatment == "int8":
                op = QuantizeInt8(
                    rows=sources.rows.get(name), columns=sources.columns.get(name), scales=plan.update.scales
                )
            elif family.treatment == "rescale":
                op = Rescale(rows=sources.rows[name])
            else:
                op = Keep()
            tensors.append(ResolvedTensor(name=name, shape=family.shape, dtype=family.dtype, op=op))
    return sorted(tensors, key=lambda tensor: natural_key(tensor.name))


def _compressed_tensors_config(tensors: list[ResolvedTensor]) -> dict[str, object] | None:
    """The ``quantization_config`` of an ``int-quantized`` checkpoint, as llm-compressor writes it.

    vLLM matches ``Linear`` by class and ``ignore`` by module name, fused shards included; a list of exact names
    says what stays unquantized without a pattern that could match too much.
    """
    if not any(isinstance(tensor.op, QuantizeInt8) for tensor in tensors):
        return None
    ignore = [
        module_of(tensor.name)
        for tensor in tensors
        if isinstance(tensor.op, Keep)
        and tensor.name.endswith(".weight")
        and len(tensor.shape) >= 2
        and not is_embedding_weight(TensorSpec(name=tensor.name, shape=tensor.shape, dtype=tensor.dtype))
    ]
    if "lm_head" not in ignore:  # tied heads have no tensor of their own
        ignore.append("lm_head")
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": INT8_WEIGHTS.model_dump(),
                "input_activations": INT8_ACTIVATIONS.model_dump(),
            }
        },
        "ignore": ignore,
    }
