"""Where senders without an end mark are in their sequence of tensors.

Such a sender sends every tensor once, in the same order at every update, and an update is complete when the last
expected tensor has arrived. That holds as long as both sides agree on which tensor is the first. After a refused
update they may not: a sender that does not look at errors goes on with the rest of its tensors, which would begin
an update here that the sender's next pass completes in its middle, with weights of two steps. So the first tensors of
undisturbed passes are remembered, and while it is in doubt where a pass began, one of them begins a new pass.

A sender may also lose its first tensor without an error, and then asks for tokens, in vain: its pass is over and ours
is not. The tensor that follows may be the last one of a slow pass, or the first one of the next. It is the latter where
it has begun passes before. Where nothing is known, it is taken, and what happens next tells: tokens are asked for after
a pass; more tensors without a token in between belong to the pass that it began, so the update that it completed was a
mixture of two, of which nobody has seen a token.
"""

from collections.abc import Collection


class Passes:
    """First tensors of passes, over the life of an engine."""

    def __init__(self) -> None:
        self._first: set[str] = set()
        self._disturbed = False
        self._in_doubt = False
        self._refused: str | None = None
        self._interrupted = False
        self._after: str | None = None
        self._unconfirmed: str | None = None

    def begins(self, name: str) -> None:
        """An update begins with this tensor."""
        if self._unconfirmed is not None:  # nobody asked for tokens: the pass before ended before its last tensor
            self._first.discard(name)
            self._first.add(self._unconfirmed)
            self._disturbed, self._refused = True, self._unconfirmed
        self._interrupted, self._after, self._unconfirmed = False, None, None
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
        if self._interrupted:
            self._interrupted = False
            if name in self._first:
                return True
            self._after = name
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
        self._unconfirmed, self._after = self._after, None

    def interrupted(self) -> None:
        """Tokens were asked for while an update was open, and refused."""
        self._interrupted = True

    def generated(self) -> None:
        """Tokens were made: whoever sends has ended its pass."""
        self._unconfirmed = None
