"""Plan + Environment -> ResolvedPlan: per-tensor operations and arguments in the installed vLLM's vocabulary."""

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from flashrl_registry.compiler.devices import device_faults
from flashrl_registry.compiler.dialect import dialect_of
from flashrl_registry.compiler.engine_config import compressed_tensors_config, unquantized_linears
from flashrl_registry.compiler.modules import shared_side
from flashrl_registry.compiler.smoothing import smoothing_sources
from flashrl_registry.documents import (
    EngineArguments,
    EngineFp8,
    Environment,
    Keep,
    Plan,
    QuantizeFp8,
    QuantizeInt8,
    Rescale,
    ResolvedPlan,
    ResolvedTensor,
)
from flashrl_registry.documents.names import expand, natural_key
from flashrl_registry.documents.quantization import FP8_BLOCK
from flashrl_registry.documents.resolved import TensorOp
from flashrl_registry.errors import Decision, ResolutionError

_STRATEGIES = {"fp8_tensor": "tensor", "fp8_channel": "channel", "fp8_block": "block"}
_SHOWN = 4


def lower(plan: Plan, environment: Environment, source: str = "") -> ResolvedPlan:
    """Fix a plan for one environment.

    Args:
        plan: A compiled plan.
        environment: The machine that will run it.
        source: The reference that it came from, for people.

    Returns:
        The sealed ResolvedPlan; every process computes the same one.

    Raises:
        ResolutionError: The plan cannot run there; every reason is listed.
    """
    if reasons := _reasons_against(plan, environment):
        raise ResolutionError(
            f"plan {plan.digest or plan.base_model.name} cannot run here",
            decisions=[
                Decision(source or plan.base_model.name, accepted=False, reason=reason) for reason, _ in reasons
            ],
            hint="; ".join(dict.fromkeys(hint for _, hint in reasons)),
        )
    dialect = dialect_of(environment.vllm)
    tensors = operations(plan)
    online = any(isinstance(tensor.op, EngineFp8) for tensor in tensors)
    resolved = ResolvedPlan(
        source=source,
        plan_digest=plan.compute_digest(),
        base_model=plan.base_model,
        environment=environment,
        engine=EngineArguments(
            logprobs_mode=plan.engine.logprobs_mode,
            quantization_config=compressed_tensors_config(tensors),
            quantization=dialect.online_fp8 if online else None,
            online_ignore=unquantized_linears(tensors) if online else None,
            kv_cache_dtype=plan.engine.kv_cache_dtype,
            head_dtype=plan.engine.lm_head_dtype,
            start_model=plan.engine.model,
        ),
        sidecar=plan.profile.sidecar if plan.profile else None,
        update_mode="staged" if plan.update.mode == "staged" else None,
        tensors=tensors,
    )
    return resolved.model_copy(update={"digest": resolved.compute_digest()})


def _reasons_against(plan: Plan, environment: Environment) -> list[tuple[str, str]]:
    """Why the plan cannot run there, each with what to do."""
    # A local label such as '+cpu' names a build of the same release.
    release = Version(environment.vllm).public
    if not SpecifierSet(plan.engine.vllm).contains(release, prereleases=True):
        reason = f"vLLM {environment.vllm} is not in the plan's range {plan.engine.vllm}"
        return [(reason, "install a vLLM in that range, or compile the plan with a wider engine.vllm")]
    reasons = device_faults(((family.names, family.treatment) for family in plan.tensors), environment.device)
    if plan.engine.lm_head_dtype is not None and not dialect_of(environment.vllm).honours_head_dtype:
        reason = (
            f"vLLM {environment.vllm} ignores head_dtype, so lm_head_dtype {plan.engine.lm_head_dtype} would do nothing"
        )
        reasons.append((reason, "install vLLM 0.27.1 or newer, or drop engine.lm_head_dtype"))
    reasons += _uneven_blocks(plan, environment.tensor_parallel_size)
    return reasons


def _uneven_blocks(plan: Plan, size: int) -> list[tuple[str, str]]:
    """Blocks that sharding would cut."""
    if size == 1:
        return []
    wrong = [
        f"{family.names} {'x'.join(map(str, family.shape))}"
        for family in plan.tensors
        if family.treatment == "fp8_block" and family.shape[shared_side(family.names)] % (FP8_BLOCK * size)
    ]
    if not wrong:
        return []
    shown = ", ".join(wrong[:_SHOWN]) + (" ..." if len(wrong) > _SHOWN else "")
    reason = f"tensor_parallel_size {size} cuts blocks of {FP8_BLOCK} in {shown}"
    return [(reason, "use fp8_channel, or a smaller tensor_parallel_size")]


def operations(plan: Plan) -> list[ResolvedTensor]:
    """What a plan does to each tensor, whatever the environment."""
    sources = smoothing_sources(plan)
    tensors = []
    for family in plan.tensors:
        for name in expand(family.names):
            op: TensorOp
            if family.treatment == "int8":
                op = QuantizeInt8(
                    rows=sources.rows.get(name), columns=sources.columns.get(name), scales=plan.update.scales
                )
            elif family.treatment == "rescale":
                op = Rescale(rows=sources.rows[name], dead_inputs_of=sources.pruned_by.get(name))
            elif family.treatment == "fp8":
                op = EngineFp8()
            elif family.treatment == "keep":
                op = Keep()
            else:
                op = QuantizeFp8(strategy=_STRATEGIES[family.treatment])  # type: ignore[arg-type]
            tensors.append(ResolvedTensor(name=name, shape=family.shape, dtype=family.dtype, op=op))
    return sorted(tensors, key=lambda tensor: natural_key(tensor.name))
