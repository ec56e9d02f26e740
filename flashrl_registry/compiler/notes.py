"""What ``compile --auto`` writes into a plan beside its identity: the choice, the alternatives and the front.

Strangers write plans too, and this key is free: what does not look like ours is left unread.
"""

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field, ValidationError

from flashrl_registry.compiler.groups import fused_groups
from flashrl_registry.documents import Frozen, Plan

KEY = "x-auto"
"""The plan's free key; it does not count in the digest."""

_Number = Annotated[float, Field(ge=0)]
_Format = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,32}$")]


class Cost(Frozen):
    """Of one group in one format."""

    predicted_kl: _Number
    """What it adds to the predicted KL, in nats."""
    bytes: Annotated[int, Field(ge=0)]
    """Of the group's weights or codes, scales left out."""


class Chosen(Cost):
    """One group and its format."""

    module: str
    """The group."""
    format: _Format
    """``bf16``, or the scheme; ``int8_plain`` is int8 without smoothing."""
    others: dict[_Format, Cost]
    """What the other formats would cost."""


class Point(Frozen):
    """One plan of the Pareto front."""

    avg_bits: _Number
    """Bits per weight of all linears, scales left out."""
    bf16_share: _Number
    """Share of their weights in bf16."""
    predicted_kl: _Number
    """In nats."""
    chosen: bool = False
    """It is the plan's own."""


class Checked(Frozen):
    """The plan's KL as it was measured."""

    kl: _Number
    """In nats."""
    kl_standard_error: _Number
    """Tokens taken as independent."""
    num_tokens: Annotated[int, Field(ge=1)]
    """Tokens of the text."""
    text: str
    """Digest of the token ids."""


class Notes(Frozen):
    """The whole key."""

    budget: str
    """As it was given."""
    sensitivity: str
    """Digest of the scores."""
    predicted_kl: _Number
    """Of the plan, in nats."""
    front: list[Point]
    """The least predicted KL for bits from the fewest to bf16, ascending."""
    groups: list[Chosen]
    """Every group, in natural order."""
    measured: Checked | None = None
    """None where nobody gave text to measure on."""


def notes_of(plan: Plan) -> Notes | None:
    """The notes of a plan that ``compile --auto`` made; None for any other."""
    written = (plan.__pydantic_extra__ or {}).get(KEY)
    try:
        return None if written is None else Notes.model_validate(written)
    except ValidationError:
        return None


def with_notes(plan: Plan, notes: Notes) -> Plan:
    """The same plan with these notes."""
    return plan.model_copy(update={KEY: notes.model_dump(mode="json", exclude_none=True)})


def why_chosen(notes: Notes, names: Iterable[str]) -> str | None:
    """Why some tensors have the format that they have; None where nothing was chosen for them.

    Args:
        notes: Of their plan.
        names: Tensors of one rule.
    """
    modules = fused_groups(names)
    groups = [group for group in notes.groups if group.module in modules]
    if not groups:
        return None
    whom = groups[0].module if len(groups) == 1 else f"{len(groups)} groups"
    own = sum(group.predicted_kl for group in groups)
    alternatives = []
    for other in dict.fromkeys(name for group in groups for name in group.others):
        having = [group for group in groups if other in group.others]
        change = sum(group.others[other].predicted_kl - group.predicted_kl for group in having)
        size = sum(group.others[other].bytes - group.bytes for group in having)
        of = "" if len(having) == len(groups) else f" for {len(having)} of them"
        alternatives.append(f"{other}{of} {change:+.2g} nat and {size / 1e6:+.1f} MB")
    formats = " and ".join(sorted({group.format for group in groups}))
    text = f"chosen for {notes.budget}: {formats} of {whom} has {own:.2g} of the predicted {notes.predicted_kl:.2g} nat"
    return text + ("; instead " + ", ".join(alternatives) if alternatives else "")
