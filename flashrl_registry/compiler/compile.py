"""Rules + tensor names (+ profile) -> Plan, or every reason why not."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from flashrl_registry.compiler.match import claims
from flashrl_registry.compiler.modules import FUSED_OF, is_embedding_weight, is_linear_weight, module_of
from flashrl_registry.documents import (
    Inventory,
    Plan,
    PlannedFamily,
    Profile,
    ProfileRef,
    Rule,
    Rules,
    Smoothing,
    SmoothingGroup,
    TensorSpec,
    base_model_info,
)
from flashrl_registry.documents.names import expand, factor, join_indices, natural_key, split_indices
from flashrl_registry.documents.plan import Treatment
from flashrl_registry.errors import CompileError, Diagnostic

_FLOATS = {"bfloat16", "float16", "float32"}


@dataclass(frozen=True)
class Compiled:
    """A plan and what its author should know.

    Attributes:
        plan: Sealed: its digest is filled in.
        notes: Diagnostics that do not stop the compile.
    """

    plan: Plan
    notes: tuple[Diagnostic, ...]


def compile_plan(rules: Rules, inventory: Inventory, profile: Profile | None = None) -> Compiled:
    """Compile rules for one model.

    Args:
        rules: What a person wrote, or a preset.
        inventory: Names, shapes and dtypes of the bf16 checkpoint.
        profile: Smoothing to apply; must be of the same model.

    Returns:
        The sealed plan; the same input gives the same bytes.

    Raises:
        CompileError: Every tensor without a decision and every other error, all at once.
    """
    rule_of, diagnostics = claims(rules.rules, inventory.tensors)
    diagnostics += _check_schemes(rule_of, inventory)
    diagnostics += _check_fused(rule_of)
    wrong_profile = _check_profile(rules, inventory, profile)
    diagnostics += wrong_profile
    treatment: dict[str, Treatment] = {
        tensor.name: "int8" if rule_of[tensor.name].scheme == "int8" and is_linear_weight(tensor) else "keep"
        for tensor in inventory.tensors
        if tensor.name in rule_of
    }
    active, dropped = _split_smoothing(profile, treatment)
    if profile is not None and not wrong_profile and rules.update.scales == "frozen":
        diagnostics += _check_frozen(profile, treatment, dropped)
    if diagnostics:
        raise CompileError(diagnostics)
    for group in active:
        if treatment[group.source] == "keep":
            treatment[group.source] = "rescale"
        bias = module_of(group.source) + ".bias"
        if treatment.get(bias) == "keep":
            treatment[bias] = "rescale"
    # Frozen scales come from the profile's sidecar even where no smoothing does.
    needs_profile = profile is not None and (active or rules.update.scales == "frozen")
    plan = Plan(
        description=rules.description,
        base_model=base_model_info(inventory),
        engine=rules.engine,
        update=rules.update,
        rules=rules.rules,
        profile=ProfileRef(digest=profile.compute_digest(), sidecar=profile.sidecar)
        if profile and needs_profile
        else None,
        smoothing=_smoothing_families(active),
        tensors=_families(inventory.tensors, rule_of, treatment),
    )
    return Compiled(
        plan.model_copy(update={"digest": plan.compute_digest()}), tuple(_dropped_notes(dropped, treatment))
    )


def _check_schemes(rule_of: dict[str, Rule], inventory: Inventory) -> list[Diagnostic]:
    found = []
    for tensor in inventory.tensors:
        rule = rule_of.get(tensor.name)
        if rule is None:
            continue
        if tensor.dtype not in _FLOATS and rule.scheme != "bf16":
            message = f"is {tensor.dtype}; only bf16, fp16 and fp32 weights can be quantized"
            found.append(Diagnostic("not-a-float", "error", tensor.name, message, "give the bf16 model with --model"))
        if rule.scheme != "int8" or tensor.name.endswith(".bias") or is_linear_weight(tensor):
            continue
        what = "an embedding" if is_embedding_weight(tensor) else f"not a linear weight (shape {tensor.shape})"
        found.append(
            Diagnostic("cannot-quantize", "error", tensor.name, f"rule '{rule.name}' says int8, but it is {what}",
                       "give it to a bf16 rule")
        )  # fmt: skip
    return found


def _check_fused(rule_of: dict[str, Rule]) -> list[Diagnostic]:
    """Siblings that the engine fuses into one weight must have one scheme."""
    schemes: dict[str, dict[str, str]] = defaultdict(dict)
    for name, rule in rule_of.items():
        parent, _, leaf = module_of(name).rpartition(".")
        if name.endswith(".weight") and leaf in FUSED_OF:
            schemes[f"{parent}.{FUSED_OF[leaf]}"][leaf] = rule.scheme
    return [
        Diagnostic("fused-shards-disagree", "error", fused,
                   "the engine fuses these into one weight: " + ", ".join(f"{k}={v}" for k, v in shards.items()),
                   "give all of them to one scheme")
        for fused, shards in schemes.items()
        if len(set(shards.values())) > 1
    ]  # fmt: skip


def _check_profile(rules: Rules, inventory: Inventory, profile: Profile | None) -> list[Diagnostic]:
    if profile is None:
        if rules.update.scales == "frozen":
            message = "scales: frozen takes its scales from a profile, and none was given"
            return [Diagnostic("frozen-needs-profile", "error", "update.scales", message, "give --profile")]
        return []
    ours, theirs = inventory.fingerprint(), profile.reference.fingerprint
    if ours != theirs:
        message = (
            f"the profile is of {profile.reference.name} ({theirs[:19]}), the model is {inventory.name} ({ours[:19]})"
        )
        return [Diagnostic("profile-of-another-model", "error", "profile", message, "profile this model's own pair")]
    return []


def _check_frozen(profile: Profile, treatment: dict[str, Treatment], dropped: list[SmoothingGroup]) -> list[Diagnostic]:
    """Frozen scales fit only the weights that they were measured on: those linears, with all of their factors."""
    measured = {name for family in profile.tensors if family.role == "quantized" for name in expand(family.names)}
    low = [name for name, how in treatment.items() if how == "int8"]
    found = [
        Diagnostic("frozen-needs-scales", "error", name, "scales: frozen, but the profile has no scale for it",
                   "give it to a bf16 rule, or use scales: recompute")
        for name in low
        if name not in measured
    ]  # fmt: skip
    unsmoothed = {name: group.source for group in dropped for name in _members(group)}
    found += [
        Diagnostic("frozen-needs-smoothing", "error", name,
                   f"its frozen scale was measured with the factor of {unsmoothed[name]}, which cannot be applied here",
                   "quantize all linears that share the factor, or use scales: recompute")
        for name in low
        if name in unsmoothed
    ]  # fmt: skip
    return found


def _members(group: SmoothingGroup) -> list[str]:
    """The linears of a group: a norm only takes its factor, and stays what it is otherwise."""
    return group.targets if group.kind == "norm" else [group.source, *group.targets]


def _split_smoothing(
    profile: Profile | None, treatment: dict[str, Treatment]
) -> tuple[list[SmoothingGroup], list[SmoothingGroup]]:
    """A factor may move only where every consumer divides it out, so a group is applied whole or not at all."""
    active: list[SmoothingGroup] = []
    dropped: list[SmoothingGroup] = []
    for group in profile.smoothing if profile else ():
        whole = all(treatment.get(name) == "int8" for name in _members(group))
        (active if whole else dropped).append(group)
    return active, dropped


def _dropped_notes(dropped: list[SmoothingGroup], treatment: dict[str, Treatment]) -> list[Diagnostic]:
    notes = []
    for group in dropped:
        kept = ", ".join(name for name in _members(group) if treatment[name] != "int8")
        message = f"smoothing is not applied: {kept} stays unquantized"
        notes.append(Diagnostic("smoothing-dropped", "note", group.source, message))
    return notes


def _smoothing_families(groups: Iterable[SmoothingGroup]) -> list[Smoothing]:
    """Groups that differ only in their indices become one entry."""
    alike: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    entries = []
    for group in groups:
        source, indices = split_indices(group.source)
        targets = [split_indices(target) for target in group.targets]
        if all(target_indices == indices for _, target_indices in targets):
            alike[source, tuple(shape for shape, _ in targets)].append(group.source)
        else:
            entries.append(Smoothing(source=group.source, targets=list(group.targets)))
    for (_, shapes), sources in alike.items():
        for pattern in factor(sources):
            braces = split_indices(pattern)[1]
            entries.append(Smoothing(source=pattern, targets=[join_indices(shape, braces) for shape in shapes]))
    return sorted(entries, key=lambda entry: natural_key(entry.source))


def _families(
    tensors: Iterable[TensorSpec], rule_of: dict[str, Rule], treatment: dict[str, Treatment]
) -> list[PlannedFamily]:
    alike: dict[tuple[tuple[int, ...], str, str, Treatment], list[str]] = defaultdict(list)
    for tensor in tensors:
        key = (tuple(tensor.shape), tensor.dtype, rule_of[tensor.name].name, treatment[tensor.name])
        alike[key].append(tensor.name)
    families = [
        PlannedFamily(names=pattern, shape=list(shape), dtype=dtype, treatment=how, rule=rule)  # type: ignore[arg-type]
        for (shape, dtype, rule, how), names in alike.items()
        for pattern in factor(names)
    ]
    return sorted(families, key=lambda family: natural_key(expand(family.names)[0]))
