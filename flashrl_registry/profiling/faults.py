"""Faults of a checkpoint pair: collected, then reported at once."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from flashrl_registry.documents.names import factor
from flashrl_registry.errors import CheckpointMismatchError


@dataclass(frozen=True)
class Fault:
    """One tensor that does not fit.

    Attributes:
        name: Tensor name.
        reason: What is wrong with it, as a clause that follows the name.
    """

    name: str
    reason: str


def refuse(faults: Sequence[Fault], what: str, *, hint: str | None = None) -> None:
    """Raise one error for all faults; return where there are none.

    Tensors with the same reason are written as families, so every name is there and thousands fit on a few lines.

    Args:
        faults: What was found.
        what: First line of the message, without the count.
        hint: What to do about it.

    Raises:
        CheckpointMismatchError: ``faults`` is not empty; its context holds every name and reason.
    """
    if not faults:
        return
    names_by_reason: dict[str, list[str]] = defaultdict(list)
    for fault in faults:
        names_by_reason[fault.reason].append(fault.name)
    lines = [f"{what}: {len(faults)} fault{'s' * (len(faults) != 1)}"]
    for reason, names in names_by_reason.items():
        lines += [f"  {family}: {reason}" for family in factor(names)]
    raise CheckpointMismatchError(
        "\n".join(lines), hint=hint, context={"faults": [{"name": f.name, "reason": f.reason} for f in faults]}
    )
