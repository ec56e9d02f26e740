"""Where senders without an end mark are in their sequence of tensors.

Such a sender sends every tensor once, in the same order at every update, and an update is complete when the last
expected tensor has arrived. That holds as long as both sides agree on which tensor is the first. After a refused
update they may not: a sender that does not look at errors goes on with the rest of its tensors, which would begin
an update here that the sender's next pass completes in its middle, with weights of two steps. So the first tensors of
undisturbed passes are remembered, and while it is in doubt where a pass began, one of them begins a new pass.
"""

from collections.abc import Collection


class Passes:
    """First tensors of passes, over the life of an engine."""

    def __init__(self) -> None:
        self._first: set[str] = set()
        self._disturbed = False
        self._in_doubt = False
        self._refused: str | None = None

    def begins(self, name: str) -> None:
        """An update begins with this tensor."""
        self._in_doubt = self._disturbed and name not in self._first
        if not self._in_doubt:
            self._first.add(name)

    def starts_over(self, name: str, missing: Collection[str]) -> bool:
        """Whether a call that begins with this tensor begins a pass, and the open update is dropped.

        Args:
            name: Of the call's first tensor.
            missing: What the open update lacks.
        """
        if name not in missing:
            return True
        if not self._in_doubt or name not in self._first:
            return False
        # The last one that lacks completes an update of another order, unless it was refused in the pass before:
        # a pass has it once, so that pass is over.
        return len(missing) > 1 or name == self._refused

    def disturbed(self, refused: str | None = None) -> None:
        """An update was refused or dropped; the sender may be anywhere in its pass.

        Args:
            refused: The tensor that was looked at last.
        """
        self._disturbed, self._refused = True, refused

    def completed(self) -> None:
        """An update is complete, and with it the sender's pass."""
        self._disturbed = False
