"""``flashrl-registry show``: one plan at a glance."""

from typing import TYPE_CHECKING

from flashrl_cli import output
from flashrl_cli.arguments import AllowStale, Json, Ref, bundle_of, warn
from flashrl_cli.render import families_table, plan_data, treatment_table

if TYPE_CHECKING:
    from flashrl_registry.documents import Rule


def show(ref: Ref, allow_stale: AllowStale = False, as_json: Json = False) -> None:
    """Show a plan: model, digest, rules, treatments, profile, files."""
    bundle = bundle_of(ref, allow_stale=allow_stale)
    plan = bundle.plan
    lines = [
        f"plan      {bundle.origin}",
        f"digest    {plan.digest}",
        f"model     {plan.base_model.name} ({plan.base_model.architecture}, {plan.base_model.num_tensors} tensors)",
        f"engine    vLLM {plan.engine.vllm}, {plan.engine.logprobs_mode}",
        f"update    scales: {plan.update.scales}",
        f"profile   {plan.profile.digest if plan.profile else 'none'}",
        *([f"about     {plan.description}"] if plan.description else []),
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
    ]
    output.result(
        {
            "origin": bundle.origin,
            **plan_data(plan),
            "profile": plan.profile and plan.profile.digest,
            "files": sorted(bundle.files),
            "source": bundle.source and bundle.source.model_dump(mode="json", exclude_none=True),
            "warnings": bundle.warnings,
            "document": plan.model_dump(mode="json", exclude_none=True),
        },
        "\n".join(lines),
        as_json=as_json,
    )
    warn(bundle.warnings, as_json=as_json)


def _rule_lines(rule: "Rule") -> list[str]:
    lines = [f"rule '{rule.name}': {rule.shown_scheme()}", *(f"  {target}" for target in rule.targets)]
    return lines + [f"  not {target}" for target in rule.ignore]
