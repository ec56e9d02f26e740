"""How plans look on a terminal and in JSON; shared by the commands that show one."""

from typing import TYPE_CHECKING, Any

from flashrl_cli import output

if TYPE_CHECKING:
    from flashrl_registry.documents import EvidenceEvent, Plan


def plan_data(plan: "Plan") -> dict[str, Any]:
    """The parts of a plan that machines ask for first."""
    from flashrl_registry.compiler import checkpoint_bytes, weight_bytes

    return {
        "digest": plan.digest,
        "model": plan.base_model.model_dump(mode="json"),
        "treatments": plan.count_by_treatment(),
        "weight_bytes": weight_bytes(plan),
        "checkpoint_bytes": checkpoint_bytes(plan),
    }


def treatment_table(plan: "Plan") -> str:
    """Tensors and predicted bytes per treatment."""
    from flashrl_registry.compiler import tensor_bytes

    totals: dict[str, list[int]] = {}
    for family in plan.tensors:
        total = totals.setdefault(family.treatment, [0, 0, 0])
        members = family.num_members
        total[0] += members
        total[1] += members * tensor_bytes(family.shape, family.dtype)
        total[2] += members * tensor_bytes(family.shape, family.dtype, family.treatment)
    rows = [(name, str(n), output.size(old), output.size(new)) for name, (n, old, new) in sorted(totals.items())]
    counts, olds, news = (sum(total[i] for total in totals.values()) for i in range(3))
    rows.append(("total", str(counts), output.size(olds), output.size(news)))
    return output.table(("TREATMENT", "TENSORS", "CHECKPOINT", "ENGINE"), rows)


def families_table(plan: "Plan") -> str:
    """Every family and its decision."""
    rows = [
        (family.names, str(family.num_members), f"{family.dtype} {'x'.join(map(str, family.shape))}",
         family.treatment, family.rule)
        for family in plan.tensors
    ]  # fmt: skip
    return output.table(("TENSORS", "COUNT", "CHECKPOINT", "TREATMENT", "RULE"), rows)


def evidence_data(event: "EvidenceEvent") -> dict[str, Any]:
    """One piece of evidence for machines."""
    return {"at": event.at, "by": event.by, "version": event.version,
            **event.evidence.model_dump(mode="json", exclude_none=True)}  # fmt: skip


def evidence_table(events: "list[EvidenceEvent]") -> str:
    """What was measured, one line each."""
    from flashrl_registry.registry.evidence import numbers_of, versions_of

    cells = [
        (e.evidence.what, e.evidence.device, versions_of(e.evidence), numbers_of(e.evidence) or e.evidence.method,
         e.evidence.created_at[:10], e.by)
        for e in events
    ]  # fmt: skip
    rows = [[" ".join(cell.split()) for cell in row] for row in cells]  # a method may have several lines
    return output.table(("EVIDENCE", "DEVICE", "WITH", "NUMBERS", "MEASURED", "BY"), rows)
