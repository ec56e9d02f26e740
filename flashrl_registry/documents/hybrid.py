"""Hybrid: different plans for different data-parallel replicas of one job.

FlashRL's ``configs`` list, as a document: replica ``rank`` runs ``configs[rank % len(configs)]``. Weights say it
shorter where one plan serves most of the replicas, and a digest can pin what each of them runs.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from flashrl_registry.documents._base import Digest, Document, Frozen
from flashrl_registry.documents.rules import RuleName


def _check_place(plan: str) -> str:
    if plan != plan.strip() or not plan.isprintable():
        raise ValueError(f"{plan!r} is not a plan: spaces at its ends, or characters that do not print")
    if plan.startswith(("/", "~")):
        raise ValueError(f"'{plan}' is a place on one machine; write a path relative to this file, such as ./int8")
    return plan


class HybridMember(Frozen):
    """One plan and its share of the replicas."""

    name: RuleName
    """Shown in logs and errors."""
    plan: Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_check_place)]
    """A path relative to this document, starting with ``./`` or ``../``; a registry reference; or a scheme name."""
    digest: Digest | None = None
    """Digest of the plan; where given, no other plan runs."""
    weight: Annotated[int, Field(ge=1, le=65536)] = 1
    """How many replicas in a row run this plan before the next member's turn."""

    @property
    def is_path(self) -> bool:
        """Whether ``plan`` is a path; anything without a leading dot is a reference or a scheme name."""
        return self.plan.startswith(".")


def _unique_names(members: list[HybridMember]) -> list[HybridMember]:
    seen: set[str] = set()
    for member in members:
        if member.name in seen:
            raise ValueError(f"two members are named '{member.name}'; logs and errors name members")
        seen.add(member.name)
    return members


class Hybrid(Document):
    """Different plans for different data-parallel replicas."""

    KIND: ClassVar[str] = "hybrid"

    schema_version: Literal["flashrl.hybrid/v1"] = "flashrl.hybrid/v1"
    """Document kind and schema major."""
    schema_revision: Annotated[int, Field(ge=0)] = 0
    """Additive revision of the schema; not part of the identity."""
    description: str = ""
    """For people; not part of the identity."""
    members: Annotated[list[HybridMember], Field(min_length=1, max_length=1024), AfterValidator(_unique_names)]
    """In the order in which replicas take them."""

    @property
    def period(self) -> int:
        """Replicas after which the members repeat: the sum of the weights."""
        return sum(member.weight for member in self.members)

    def member_for(self, rank: int, size: int) -> HybridMember:
        """The member that a replica runs.

        With every weight 1 this is FlashRL's ``configs[rank % len(configs)]``.

        Args:
            rank: Data-parallel rank, from 0.
            size: Number of data-parallel replicas.

        Raises:
            ValueError: No such replica.
        """
        if not 0 <= rank < size:
            raise ValueError(f"there is no replica {rank} among {size}")
        left = rank % self.period
        for member in self.members:
            if left < member.weight:
                return member
            left -= member.weight
        raise AssertionError("the weights sum to the period")

    def schedule(self, size: int) -> list[HybridMember]:
        """The member of each replica, by rank.

        Args:
            size: Number of data-parallel replicas.
        """
        return [self.member_for(rank, size) for rank in range(size)]
