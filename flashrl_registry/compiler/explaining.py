"""Why a plan treats a tensor as it does: the rule, the target that matched, the smoothing, the bytes."""

from collections.abc import Mapping
from dataclasses import dataclass

from flashrl_registry.compiler.match import dead_target, matching, partly_dead
from flashrl_registry.compiler.memory import tensor_bytes
from flashrl_registry.compiler.notes import notes_of, why_chosen
from flashrl_registry.compiler.smoothing import SmoothingSources, smoothing_sources
from flashrl_registry.documents import Plan, PlannedFamily, Rule
from flashrl_registry.documents.names import expand, factor
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
        rows: Source, or family of sources, of the factor that multiplies its rows, or None.
        columns: Source, or family of sources, of the factor that divides its input columns, or None.
        bytes_before: Bytes of one tensor in the checkpoint.
        bytes_after: Bytes of one tensor in the engine.
        chosen: Why ``compile --auto`` chose this for its group; None for what a person decided.
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
    chosen: str | None = None


def explain(plan: Plan, target: str | None = None) -> tuple[Explanation, ...]:
    """Explain a plan.

    Args:
        plan: A compiled plan.
        target: A tensor or module name, family, glob or ``re:`` expression; None explains every family.

    Returns:
        One entry per family, of the plan or of what the target matches in it.

    Raises:
        CompileError: The target is malformed or matches nothing; the hint names the nearest.
    """
    sources = smoothing_sources(plan)
    if target is None:
        return tuple(_explanation(plan, family, sources, family.names) for family in plan.tensors)
    all_names = [name for family in plan.tensors for name in expand(family.names)]
    try:
        wanted = set(matching(target, all_names))
    except ValueError as exc:
        raise CompileError([Diagnostic("bad-target", "error", "explain", str(exc))]) from exc
    if not wanted:
        raise CompileError([dead_target("explain", target, all_names)])
    if (partly := partly_dead("explain", target, wanted)) is not None:
        raise CompileError([partly])
    return tuple(
        _explanation(plan, family, sources, pattern)
        for family in plan.tensors
        if (mine := wanted.intersection(expand(family.names)))
        for pattern in factor(mine)
    )


def _explanation(plan: Plan, family: PlannedFamily, sources: SmoothingSources, pattern: str) -> Explanation:
    rule = next(rule for rule in plan.rules if rule.name == family.rule)
    names = expand(pattern)
    rows = None if family.treatment == "keep" else _family_of(sources.rows, names)
    columns = _family_of(sources.columns, names)
    return Explanation(
        names=pattern,
        num_tensors=len(names),
        shape=tuple(family.shape),
        dtype=family.dtype,
        rule=rule.name,
        scheme=rule.shown_scheme(),
        target=next((target for target in rule.targets if _matches(target, names[0])), ""),
        treatment=family.treatment,
        reason=_reason(plan, family, rule, rows, columns),
        rows=rows,
        columns=columns,
        bytes_before=tensor_bytes(family.shape, family.dtype),
        bytes_after=tensor_bytes(family.shape, family.dtype, family.treatment),
        chosen=why_chosen(notes, names) if (notes := notes_of(plan)) is not None else None,
    )


def _family_of(source_of: Mapping[str, str], names: list[str]) -> str | None:
    """The sources of some tensors, as one pattern; members of a family have sources of a family."""
    found = dict.fromkeys(source_of[name] for name in names if name in source_of)
    return " and ".join(factor(found)) if found else None


def _matches(target: str, name: str) -> bool:
    return bool(matching(target, [name]))


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
