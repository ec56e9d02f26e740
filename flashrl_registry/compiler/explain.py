"""Why a plan treats a tensor as it does: the rule, the target that matched, the smoothing, the bytes."""

from collections.abc import Iterator
from dataclasses import dataclass

from flashrl_registry.compiler.match import dead_target, matcher
from flashrl_registry.compiler.memory import tensor_bytes
from flashrl_registry.compiler.modules import module_of
from flashrl_registry.compiler.smoothing import SmoothingSources, smoothing_sources
from flashrl_registry.documents import Plan, PlannedFamily, Rule
from flashrl_registry.documents.names import expand
from flashrl_registry.errors import CompileError, Diagnostic


@dataclass(frozen=True)
class Explanation:
    """One family, or one tensor, and its decision.

    Attributes:
        names: Tensor name, or a family of names.
        num_tensors: How many tensors that is.
        shape: Sizes per dimension.
        dtype: Element type in the checkpoint.
        rule: The rule that claims it.
        scheme: The rule's scheme.
        target: The rule's target that matches.
        treatment: What happens to it, as the plan says.
        reason: What happens to it and why, in one sentence.
        rows: Source of the factor that multiplies its rows, or None.
        columns: Source of the factor that divides its input columns, or None.
        bytes_before: Bytes of one tensor in the checkpoint.
        bytes_after: Bytes of one tensor in the engine.
    """

    names: str
    num_tensors: int
    shape: tuple[int, ...]
    dtype: str
    rule: str
    scheme: str
    target: str
    treatment: str
    reason: str
    rows: str | None
    columns: str | None
    bytes_before: int
    bytes_after: int


def explain(plan: Plan, target: str | None = None) -> tuple[Explanation, ...]:
    """Explain a plan.

    Args:
        plan: A compiled plan.
        target: A tensor or module name, family, glob or ``re:`` expression; None explains every family.

    Returns:
        One entry per family, or one per tensor that the target matches. For a family, ``rows`` and ``columns`` are
        those of its first member.

    Raises:
        CompileError: The target is malformed or matches nothing; the hint names the nearest.
    """
    sources = smoothing_sources(plan)
    if target is None:
        return tuple(_explanation(plan, family, sources, family.names, expand(family.names)) for family in plan.tensors)
    try:
        test = matcher(target)
    except ValueError as exc:
        raise CompileError([Diagnostic("bad-target", "error", "explain", str(exc))]) from exc
    found = tuple(
        _explanation(plan, family, sources, name, [name])
        for family, name in _tensors(plan)
        if test(name) or test(module_of(name))
    )
    if not found:
        raise CompileError([dead_target("explain", target, [name for _, name in _tensors(plan)])])
    return found


def _tensors(plan: Plan) -> Iterator[tuple[PlannedFamily, str]]:
    for family in plan.tensors:
        for name in expand(family.names):
            yield family, name


def _explanation(
    plan: Plan, family: PlannedFamily, sources: SmoothingSources, shown: str, names: list[str]
) -> Explanation:
    rule = next(rule for rule in plan.rules if rule.name == family.rule)
    name = names[0]
    rows = None if family.treatment == "keep" else sources.rows.get(name)
    columns = sources.columns.get(name)
    return Explanation(
        names=shown,
        num_tensors=len(names),
        shape=tuple(family.shape),
        dtype=family.dtype,
        rule=rule.name,
        scheme=rule.shown_scheme(),
        target=next((target for target in rule.targets if _matches(target, name)), ""),
        treatment=family.treatment,
        reason=_reason(plan, family, rule, rows, columns),
        rows=rows,
        columns=columns,
        bytes_before=tensor_bytes(family.shape, family.dtype),
        bytes_after=tensor_bytes(family.shape, family.dtype, family.treatment),
    )


def _matches(target: str, name: str) -> bool:
    test = matcher(target)
    return test(name) or test(module_of(name))


def _reason(plan: Plan, family: PlannedFamily, rule: Rule, rows: str | None, columns: str | None) -> str:
    if family.treatment == "keep":
        why = "a bias stays as it is" if rule.scheme != "bf16" else f"rule '{rule.name}' says {rule.scheme}"
        return f"enters the engine as the trainer sends it: {why}"
    if family.treatment == "rescale":
        return f"multiplied by inv_smoothing of {rows}, which the linears behind it divide out; stays {family.dtype}"
    if family.treatment != "int8":
        return _FP8_REASONS[family.treatment]
    steps = []
    if rows is not None:
        steps.append(f"rows multiplied by inv_smoothing of {rows}")
    if columns is not None:
        steps.append(f"columns divided by inv_smoothing of {columns}")
    scales = "row absmax at every update" if plan.update.scales == "recompute" else "the profile's, at every update"
    steps.append(f"int8 codes and one float32 scale per row ({scales})")
    return "; ".join(steps)


_FP8_REASONS = {
    "fp8": "sent as it is; vLLM quantizes it as it loads, with one scale per engine weight",
    "fp8_tensor": "float8_e4m3fn codes and one float32 scale (tensor absmax at every update)",
    "fp8_channel": "float8_e4m3fn codes and one float32 scale per row (row absmax at every update)",
    "fp8_block": "float8_e4m3fn codes and one float32 scale per 128 x 128 block (block absmax at every update)",
}
