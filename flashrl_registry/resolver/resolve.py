"""Reference + model + environment -> ResolvedPlan, or every reason why not."""

from dataclasses import dataclass
from pathlib import Path

from flashrl_registry.compiler import lower
from flashrl_registry.documents import Environment, Inventory, LockedPlan, Plan, ResolvedPlan
from flashrl_registry.documents.names import expand, natural_key
from flashrl_registry.errors import Decision, ResolutionError
from flashrl_registry.registry import PathRef, PlanRef, PlanSource, PresetRef, open_bundle
from flashrl_registry.registry.locking import lock_bundle

_SHOWN = 8


@dataclass(frozen=True)
class Resolution:
    """A plan that fits, and how it was found.

    Attributes:
        plan: The plan as published or compiled.
        resolved: The plan fixed for the environment.
        sidecar: Path of the profile's vectors, checked against their digest; None without smoothing.
        decisions: The trace.
        warnings: What whoever starts an engine should read: deprecated, withdrawn, or not asked for now.
        found_at: Where the plan was found, to the byte; None for one that was compiled here.
    """

    plan: Plan
    resolved: ResolvedPlan
    sidecar: Path | None
    decisions: tuple[Decision, ...]
    warnings: tuple[str, ...] = ()
    found_at: LockedPlan | None = None


def resolve(ref: PlanRef, inventory: Inventory | None, environment: Environment, store: PlanSource) -> Resolution:
    """Resolve a reference for one engine.

    Args:
        ref: Parsed reference.
        inventory: The engine's model; None when its tensors are not known yet (dummy weights), which leaves the
            check to the workers.
        environment: The machine.
        store: One store, or the chain of them.

    Returns:
        The resolution; pure apart from reading the store.

    Raises:
        RegistryError: Not found, or bytes that differ from their digest.
        ResolutionError: The plan is for another model or another vLLM, or leaves a tensor undecided.
    """
    warnings: tuple[str, ...] = ()
    found_at = None
    if isinstance(ref, PresetRef):
        if inventory is None:
            raise ResolutionError(
                f"'{ref}' compiles a plan from the model's tensor names, and the model has no safetensors headers",
                hint="give a plan instead of a scheme name, or a model folder with its weights",
            )
        from flashrl_registry.compiler import compile_plan, preset_rules  # no engine under a published plan compiles

        plan, sidecar = compile_plan(preset_rules(ref.scheme, inventory), inventory).plan, None
        origin = f"compiled from scheme '{ref}' for {inventory.name}"
    else:
        bundle = open_bundle(ref, store)
        plan, sidecar, origin = bundle.plan, bundle.sidecar, f"read from {bundle.origin}"
        warnings = bundle.warnings
        found_at = lock_bundle(str(ref), bundle, str(ref.path.resolve()) if isinstance(ref, PathRef) else "")
    decisions = [Decision(str(ref), accepted=True, reason=reason) for reason in (origin, *warnings)]
    if inventory is not None:
        decisions.append(_check_model(plan, inventory, str(ref)))
    resolved = lower(plan, environment, str(ref))
    decisions.append(Decision(str(ref), accepted=True, reason=f"vLLM {environment.vllm} is in {plan.engine.vllm}"))
    return Resolution(plan, resolved, sidecar, tuple(decisions), warnings, found_at)


def _check_model(plan: Plan, inventory: Inventory, ref: str) -> Decision:
    if inventory.fingerprint() == plan.base_model.fingerprint:
        return Decision(ref, accepted=True, reason=f"the model is {plan.base_model.name}")
    planned = {name: family.shape for family in plan.tensors for name in expand(family.names)}
    actual = {tensor.name: tensor.shape for tensor in inventory.tensors}
    undecided = sorted(actual.keys() - planned.keys(), key=natural_key)
    absent = sorted(planned.keys() - actual.keys(), key=natural_key)
    reshaped = sorted((n for n in actual.keys() & planned.keys() if actual[n] != planned[n]), key=natural_key)
    decisions = [
        Decision(ref, accepted=False, reason=f"{len(names)} tensors {what}: {', '.join(names[:_SHOWN])}"
                 + (" ..." if len(names) > _SHOWN else ""))
        for what, names in (
            ("of the model are not decided by the plan", undecided),
            ("of the plan are not in the model", absent),
            ("have another shape", [f"{n} {actual[n]} not {planned[n]}" for n in reshaped]),
        )
        if names
    ]  # fmt: skip
    raise ResolutionError(
        f"the plan is for {plan.base_model.name} ({plan.base_model.architecture}), "
        f"not for {inventory.name} ({inventory.architecture})",
        decisions=decisions,
        hint="compile a plan for this model with: flashrl-registry compile -m MODEL",
    )
