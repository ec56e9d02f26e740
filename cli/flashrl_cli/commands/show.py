"""``flashrl-registry show``: one plan at a glance."""

from typing import TYPE_CHECKING

from flashrl_cli import output
from flashrl_cli.arguments import AllowStale, Json, Ref, bundle_of, warn
from flashrl_cli.render import evidence_data, evidence_table, families_table, plan_data, treatment_table
from flashrl_registry.documents.plain_text import escaped

if TYPE_CHECKING:
    from flashrl_registry.documents import EvidenceEvent, Rule
    from flashrl_registry.registry import PlanBundle


def show(ref: Ref, allow_stale: AllowStale = False, as_json: Json = False) -> None:
    """Show a plan: model, digest, rules, treatments, profile, files."""
    bundle = bundle_of(ref, allow_stale=allow_stale)
    plan, evidence, signatures = bundle.plan, _evidence(bundle), _signatures(bundle)
    model = plan.base_model
    lines = [
        f"plan      {bundle.origin}",
        f"digest    {plan.digest}",
        f"model     {escaped(model.name)} ({escaped(model.architecture)}, {model.num_tensors} tensors)",
        f"engine    vLLM {escaped(plan.engine.vllm)}, {plan.engine.logprobs_mode}",
        f"update    scales: {plan.update.scales}",
        f"profile   {plan.profile.digest if plan.profile else 'none'}",
        *(f"signed    {line}" for line in signatures),
        *([f"about     {escaped(' '.join(plan.description.split()))}"] if plan.description else []),
        "",
        *(line for rule in plan.rules for line in _rule_lines(rule)),
        "",
        families_table(plan),
        "",
        treatment_table(plan),
        "",
        output.table(
            ("FILE", "SIZE"), [(file.name, output.size(file.stat().st_size)) for file in sorted(bundle.files)]
        ),
        *(["", evidence_table(evidence)] if evidence else []),
    ]
    output.result(
        {
            "origin": bundle.origin,
            **plan_data(plan),
            "profile": plan.profile and plan.profile.digest,
            "files": sorted(bundle.files),
            "source": bundle.source and bundle.source.model_dump(mode="json", exclude_none=True),
            "warnings": bundle.warnings,
            "signed_by": bundle.signed_by,
            "evidence": [evidence_data(event) for event in evidence],
            "document": plan.model_dump(mode="json", exclude_none=True),
        },
        "\n".join(lines),
        as_json=as_json,
    )
    warn(bundle.warnings, as_json=as_json)


def _evidence(bundle: "PlanBundle") -> "list[EvidenceEvent]":
    from flashrl_registry.registry.evidence import evidence_of

    manifest = bundle.manifest
    return [] if manifest is None else evidence_of(bundle.history, manifest.version, manifest.plan_digest)


def _signatures(bundle: "PlanBundle") -> list[str]:
    from flashrl_registry.documents import SignEvent

    if bundle.manifest is None or bundle.history is None:
        return []
    events = [event for event in bundle.history.events if isinstance(event, SignEvent)]
    return [
        f"{event.key} by {escaped(event.by)} on {event.at[:10]}"
        + (
            ", checked"
            if event.key in bundle.signed_by
            else ", not checked: nobody asks for it (see --require-signature)"
        )
        for event in events
        if event.version == bundle.manifest.version
    ]


def _rule_lines(rule: "Rule") -> list[str]:
    lines = [f"rule '{rule.name}': {rule.shown_scheme()}", *(f"  {target}" for target in rule.targets)]
    return [escaped(line) for line in (*lines, *(f"  not {target}" for target in rule.ignore))]
