"""Documents of one model to the facts of a report."""

from importlib.metadata import version

from flashrl_registry.compiler import Budget, auto_plan
from flashrl_registry.compiler.notes import Chosen, Notes, notes_of
from flashrl_registry.documents import Inventory, Plan, Profile, ScoredGroup, Sensitivity, TensorSpec
from flashrl_registry.documents.names import expand
from flashrl_registry.errors import DocumentError, Finding
from flashrl_registry.report.facts import Facts, Front, Group, GroupScore, Linear, PlanFacts, Scores, Summary
from flashrl_registry.report.names import Place, in_order, places


def gather(
    profile: Profile, *, sensitivity: Sensitivity | None = None, plan: Plan | None = None, device: str = "cuda"
) -> Facts:
    """Bring documents of one model together.

    Args:
        profile: Of the checkpoint pair.
        sensitivity: Scores of the same model.
        plan: A plan for the same model.
        device: Device whose formats the front may use, where it is computed from the scores.

    Raises:
        DocumentError: The scores or the plan are of another model or another profile.
        MissingDependencyError: SciPy is not installed, and the front has to be computed.
    """
    if findings := _of_another(profile, sensitivity, plan):
        raise DocumentError(findings, hint="a report is about one model: give documents that were made for it")
    notes = notes_of(plan) if plan is not None else None
    treatments = {name: f.treatment for f in plan.tensors for name in expand(f.names)} if plan is not None else {}
    place = places(linear.name for linear in profile.linears)
    facts = {linear.name: linear for linear in profile.linears}
    return Facts(
        written_by=f"flashrl-registry {version('flashrl-registry')}",
        profile=profile.compute_digest(),
        scheme=profile.scheme,
        reference=profile.reference,
        quantized=profile.quantized,
        sidecar=profile.sidecar,
        no_frozen_scales=profile.no_frozen_scales,
        summary=_summary(profile),
        linears=[
            Linear(
                layer=place[name].layer, projection=place[name].projection, facts=facts[name],
                treatment=treatments.get(name),
            )
            for name in in_order(facts)
        ],
        smoothing=profile.smoothing,
        sensitivity=_scores(sensitivity, notes) if sensitivity is not None else None,
        plan=_plan_facts(plan, notes) if plan is not None else None,
        front=_front(profile, sensitivity, notes, device),
    )  # fmt: skip


def _of_another(profile: Profile, sensitivity: Sensitivity | None, plan: Plan | None) -> list[Finding]:
    findings = []
    ours, digest = profile.reference.fingerprint, profile.compute_digest()
    if sensitivity is not None:
        if (theirs := sensitivity.reference.fingerprint) != ours:
            message = f"the scores are of {sensitivity.reference.name} ({theirs[:19]}), and the profile is of"
            findings.append(
                Finding("sensitivity", f"{message} {profile.reference.name} ({ours[:19]})", code="other-model")
            )
        elif sensitivity.profile not in {None, digest}:
            message = f"int8 was scored with profile {sensitivity.profile[:19]}, and this is {digest[:19]}"
            findings.append(Finding("sensitivity", message, code="other-profile"))
    if plan is not None:
        if (theirs := plan.base_model.fingerprint) != ours:
            message = f"the plan is for {plan.base_model.name} ({theirs[:19]}), and the profile is of"
            findings.append(Finding("plan", f"{message} {profile.reference.name} ({ours[:19]})", code="other-model"))
        elif plan.profile is not None and plan.profile.digest != digest:
            message = f"the plan was compiled with profile {plan.profile.digest[:19]}, and this is {digest[:19]}"
            findings.append(Finding("plan", message, code="other-profile"))
    return findings


def _summary(profile: Profile) -> Summary:
    rounding: dict[str, int] = {}
    for linear in profile.linears:
        kind = linear.rounding or "not measured"
        rounding[kind] = rounding.get(kind, 0) + 1
    roles: dict[str, int] = {}
    for family in profile.tensors:
        roles[family.role] = roles.get(family.role, 0) + family.num_members
    headroom = [linear.headroom for linear in profile.linears if linear.headroom is not None]
    return Summary(
        num_linears=len(profile.linears),
        num_all_codes_equal=sum(linear.codes_equal == 1 for linear in profile.linears),
        least_codes_equal=min((linear.codes_equal for linear in profile.linears), default=None),
        largest_clip_rate=max((linear.clip_rate for linear in profile.linears), default=None),
        least_headroom=min(headroom, default=None),
        rounding=dict(sorted(rounding.items())),
        num_smoothing=len(profile.smoothing),
        tensors=dict(sorted(roles.items())),
    )


def _scores(sensitivity: Sensitivity, notes: Notes | None) -> Scores:
    totals: dict[str, float] = {}
    for group in sensitivity.groups:
        for entry in group.scores:
            totals[entry.scheme] = totals.get(entry.scheme, 0.0) + entry.score
    # Notes of other scores say nothing of these groups.
    mine = notes is not None and notes.sensitivity == sensitivity.compute_digest()
    chosen = {entry.module: entry for entry in notes.groups} if notes is not None and mine else {}
    place = places(group.module for group in sensitivity.groups)
    return Scores(
        digest=sensitivity.compute_digest(),
        text=sensitivity.text,
        device=sensitivity.device,
        versions=sensitivity.versions,
        schemes=sensitivity.schemes,
        groups=[_group(group, place[group.module], totals, chosen.get(group.module)) for group in sensitivity.groups],
        not_scored=sensitivity.not_scored,
    )


def _group(group: ScoredGroup, place: Place, totals: dict[str, float], chosen: Chosen | None) -> Group:
    return Group(
        module=group.module,
        layer=place.layer,
        projection=place.projection,
        tensors=[name for family in group.tensors for name in expand(family)],
        num_weights=group.num_weights,
        peak_over_rms=group.peak_over_rms,
        scores={
            entry.scheme: GroupScore(
                score=entry.score,
                share=entry.score / (totals[entry.scheme] or 1.0),
                output_error=entry.output_error,
            )
            for entry in group.scores
        },
        chosen=chosen.format if chosen is not None else None,
    )


def _plan_facts(plan: Plan, notes: Notes | None) -> PlanFacts:
    return PlanFacts(
        digest=plan.compute_digest(),
        description=plan.description,
        model=plan.base_model.name,
        profile=plan.profile.digest if plan.profile is not None else None,
        treatments=dict(sorted(plan.count_by_treatment().items())),
        notes=notes,
    )


def _front(profile: Profile, sensitivity: Sensitivity | None, notes: Notes | None, device: str) -> Front | None:
    if notes is not None and notes.front:
        return Front(origin="plan", device=None, points=notes.front)
    if sensitivity is None:
        return None
    scored_with = profile if sensitivity.profile is not None else None
    # A budget that allows everything: the plan is of no interest, and every point of the front is in its notes.
    chosen = auto_plan(_inventory(profile), sensitivity, Budget("bf16", 1.0), profile=scored_with, device=device)
    points = [point.model_copy(update={"chosen": False}) for point in chosen.notes.front]
    return Front(origin="sensitivity", device=device, points=points)


def _inventory(profile: Profile) -> Inventory:
    """The reference checkpoint's tensors, as the profile lists them."""
    return Inventory(
        name=profile.reference.name,
        architecture=profile.reference.architecture,
        model_type=profile.reference.model_type,
        tied_embeddings=profile.reference.tied_embeddings,
        tensors=[
            TensorSpec(name=name, shape=family.shape, dtype=family.dtype)
            for family in profile.tensors
            for name in expand(family.names)
        ],
    )
