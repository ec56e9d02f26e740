"""Rules + tensor names (+ profile) -> Plan, or every reason why not."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from flashrl_registry.compiler.checks import (
    check_arguments,
    check_checkpoint,
    check_frozen,
    check_fused,
    check_profile,
    check_pruning,
    check_tensors,
    members,
)
from flashrl_registry.compiler.match import claims
from flashrl_registry.compiler.modules import is_linear_weight, module_of
from flashrl_registry.compiler.summary import diagnostic_lines
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
    if unusable := check_checkpoint(inventory):
        raise CompileError(unusable, lines=diagnostic_lines(unusable))
    diagnostics += check_arguments(rules.rules)
    diagnostics += check_tensors(rule_of, inventory)
    diagnostics += check_fused(rule_of)
    wrong_profile = check_profile(rules, inventory, profile)
    diagnostics += wrong_profile
    treatment = {
        tensor.name: _treatment(rule_of[tensor.name], tensor) for tensor in inventory.tensors if tensor.name in rule_of
    }
    active, dropped = _split_smoothing(profile, treatment)
    pruned = {group.source for group in active if _prunes(group, rule_of)}
    if profile is not None and not wrong_profile and rules.update.scales == "frozen":
        diagnostics += check_frozen(profile, treatment, dropped)
    if not wrong_profile:
        diagnostics += check_pruning(rules.rules, pruned)
    if diagnostics:
        raise CompileError(diagnostics, lines=diagnostic_lines(diagnostics))
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
        smoothing=_smoothing_families(active, pruned),
        tensors=_families(inventory.tensors, rule_of, treatment),
    )
    return Compiled(
        plan.model_copy(update={"digest": plan.compute_digest()}), tuple(_dropped_notes(dropped, treatment))
    )


def _treatment(rule: Rule, tensor: TensorSpec) -> Treatment:
    scheme = rule.decided_scheme()
    if scheme is None or scheme == "bf16" or not is_linear_weight(tensor):
        return "keep"
    return "int8" if scheme == "int8_prune" else scheme


def _prunes(group: SmoothingGroup, rule_of: dict[str, Rule]) -> bool:
    """A norm's dead channels can go only where every linear behind it is to be pruned."""
    return group.kind == "norm" and all(rule_of[name].decided_scheme() == "int8_prune" for name in group.targets)


def _split_smoothing(
    profile: Profile | None, treatment: dict[str, Treatment]
) -> tuple[list[SmoothingGroup], list[SmoothingGroup]]:
    """A factor may move only where every consumer divides it out, so a group is applied whole or not at all."""
    active: list[SmoothingGroup] = []
    dropped: list[SmoothingGroup] = []
    for group in profile.smoothing if profile else ():
        whole = group.not_applicable is None and all(treatment.get(name) == "int8" for name in members(group))
        (active if whole else dropped).append(group)
    return active, dropped


def _dropped_notes(dropped: list[SmoothingGroup], treatment: dict[str, Treatment]) -> list[Diagnostic]:
    notes = []
    for group in dropped:
        other = [name for name in members(group) if treatment[name] != "int8"]
        leaves = ", ".join(dict.fromkeys(module_of(name).rpartition(".")[2] for name in other))
        message = f"its smoothing is not applied, for not all that share it are int8: not {leaves}"
        if group.not_applicable is not None:
            message = f"its smoothing is not applied: {group.not_applicable}, which plans cannot say yet"
        notes.append(Diagnostic("smoothing-dropped", "note", group.source, message))
    return notes


def _smoothing_families(groups: Iterable[SmoothingGroup], pruned: set[str]) -> list[Smoothing]:
    """Groups that differ only in their indices become one entry."""
    alike: dict[tuple[str, tuple[str, ...], bool], list[str]] = defaultdict(list)
    entries = []
    for group in groups:
        source, indices = split_indices(group.source)
        targets = [split_indices(target) for target in group.targets]
        prune = group.source in pruned
        if all(target_indices == indices for _, target_indices in targets):
            alike[source, tuple(shape for shape, _ in targets), prune].append(group.source)
        else:
            entries.append(_smoothing(group.source, list(group.targets), prune=prune))
    for (_, shapes, prune), sources in alike.items():
        for pattern in factor(sources):
            braces = split_indices(pattern)[1]
            entries.append(_smoothing(pattern, [join_indices(shape, braces) for shape in shapes], prune=prune))
    return sorted(entries, key=lambda entry: natural_key(entry.source))


def _smoothing(source: str, targets: list[str], *, prune: bool) -> Smoothing:
    return Smoothing(source=source, targets=targets, prune_dead_inputs=prune or None)


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
