"""Documents of an older schema major to the one that this release reads.

A step is a pure function from the data of one major to the data of the next. Readers know one major; whoever has an
older file runs ``flashrl-registry migrate`` once, instead of every reader accepting every shape for ever.

Retiring a major takes: the model with ``MAJOR`` raised, a step in :data:`STEPS`, and golden files under
``tests/data/migrations/<kind>/v<N>/``. Tests hold that the steps of a kind have no gap and that each has its files.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flashrl_registry.documents._base import EDITOR_KEY, SCHEMA_BASE_URL
from flashrl_registry.documents.kinds import KINDS

Data = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One major to the next.

    Attributes:
        kind: The word in ``schema_version``.
        from_major: What the function takes; it returns the next major.
        what: What changes, in one sentence for people.
        function: Data to data. ``schema_version``, ``schema_revision``, ``digest``, ``$schema`` and ``x-*`` keys are
            not its business: :func:`migrate` sets, resets, drops, renews and keeps them.
    """

    kind: str
    from_major: int
    what: str
    function: Callable[[Data], Data]

    @property
    def to_major(self) -> int:
        """What the function returns."""
        return self.from_major + 1


STEPS: tuple[Step, ...] = ()
"""Every step of every kind, in order. No major has been retired yet."""


def migrate(
    data: Data, kind: str, *, major: int, target: int | None = None, steps: Sequence[Step] = STEPS
) -> tuple[Data, tuple[Step, ...]]:
    """Bring data to the major that this release reads.

    Args:
        data: A document of ``kind``. Not modified.
        kind: The word in its ``schema_version``.
        major: The major in its ``schema_version``.
        target: The major wanted; by default the one that this release reads.
        steps: The table.

    Returns:
        The new data, without ``digest`` if a step ran, and the steps that ran. With none, the data as it was.
    """
    target = KINDS[kind].MAJOR if target is None else target
    by_major = {step.from_major: step for step in steps if step.kind == kind}
    path = tuple(by_major[number] for number in range(major, target))
    if not path:
        return data, ()
    ours = {EDITOR_KEY, "schema_version", "schema_revision", "digest"}
    notes = {key: value for key, value in data.items() if key.startswith("x-")}
    body = copy.deepcopy({key: value for key, value in data.items() if key not in ours and key not in notes})
    for step in path:
        body = step.function(body)
    head = {"schema_version": f"flashrl.{kind}/v{target}", "schema_revision": 0}
    if EDITOR_KEY in data:
        head = {EDITOR_KEY: f"{SCHEMA_BASE_URL}/{kind}/v{target}.json", **head}
    return {**head, **body, **copy.deepcopy(notes)}, path
