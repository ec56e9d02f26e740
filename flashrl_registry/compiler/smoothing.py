"""Which smoothing factors a plan applies to which tensor."""

from dataclasses import dataclass

from flashrl_registry.compiler.modules import module_of
from flashrl_registry.documents import Plan
from flashrl_registry.documents.names import expand


@dataclass(frozen=True)
class SmoothingSources:
    """Sources by tensor name.

    Attributes:
        rows: Tensor to the source whose factor multiplies its first dimension.
        columns: Linear weight to the source whose factor divides its input columns.
        pruned_by: Norm to the linears whose dead input columns prune its channels.
    """

    rows: dict[str, str]
    columns: dict[str, str]
    pruned_by: dict[str, list[str]]


def smoothing_sources(plan: Plan) -> SmoothingSources:
    """Expand the plan's smoothing entries; a source's bias is multiplied as its weight is."""
    rows: dict[str, str] = {}
    columns: dict[str, str] = {}
    pruned_by: dict[str, list[str]] = {}
    for smoothing in plan.smoothing:
        sources = expand(smoothing.source)
        for target_family in smoothing.targets:
            targets = expand(target_family)
            columns.update(zip(targets, sources, strict=True))
            if smoothing.prune_dead_inputs:
                for source, target in zip(sources, targets, strict=True):
                    pruned_by.setdefault(source, []).append(target)
        for source in sources:
            rows[source] = source
            rows[module_of(source) + ".bias"] = source
    return SmoothingSources(rows, columns, pruned_by)
