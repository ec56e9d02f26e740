"""Senders without an end mark, after a refused update."""

from flashrl_registry.runtime.passes import Passes

NAMES = ["a", "b", "c", "d"]


def send(passes: Passes, open_update: set[str] | None, names: list[str]) -> tuple[set[str] | None, int]:
    """One tensor per call, as ``PlannedWeights`` asks; returns what the open update lacks, and complete updates."""
    complete = 0
    for name in names:
        if open_update is not None and passes.starts_over(name, open_update):
            passes.disturbed()
            open_update = None
        if open_update is None:
            open_update = set(NAMES)
            passes.begins(name)
        open_update.discard(name)
        if not open_update:
            passes.completed()
            open_update, complete = None, complete + 1
    return open_update, complete


def test_undisturbed_passes_of_any_order_complete() -> None:
    passes = Passes()
    for order in (NAMES, NAMES[::-1], ["b", "a", "d", "c"], NAMES):
        assert send(passes, None, order) == (None, 1)


def test_a_sender_that_ignores_a_refusal_is_complete_with_its_next_pass() -> None:
    passes = Passes()
    assert send(passes, None, NAMES) == (None, 1)
    send(passes, None, ["a"])
    passes.disturbed()  # "b" was refused
    rest, complete = send(passes, None, ["c", "d"])
    assert (rest, complete) == ({"a", "b"}, 0)
    assert send(passes, rest, NAMES) == (None, 1), "one update of one pass, not of the halves of two"


def test_so_is_one_whose_very_first_pass_was_refused() -> None:
    passes = Passes()
    passes.begins("a")
    passes.disturbed()
    rest, _ = send(passes, None, ["c", "d"])
    assert send(passes, rest, NAMES) == (None, 1)


def test_after_two_senders_at_once_one_of_them_is_complete_with_its_next_pass() -> None:
    passes = Passes()
    both = [name for name in NAMES[:-1] for _ in range(2)]
    rest, complete = send(passes, None, both)
    assert (rest, complete) == ({"a", "b", "d"}, 0)
    assert send(passes, rest, NAMES) == (None, 1)


def test_another_order_heals_too() -> None:
    passes = Passes()
    passes.begins("a")
    passes.disturbed()
    assert send(passes, None, NAMES[::-1]) == (None, 1)


def test_a_call_that_begins_in_the_middle_is_taken_while_nothing_is_in_doubt() -> None:
    passes = Passes()
    assert send(passes, None, ["c", "a", "b", "d"]) == (None, 1)
    assert send(passes, None, ["a", "b", "c", "d"]) == (None, 1), "c has begun a pass before, and does not now"


def test_a_sender_whose_first_tensor_was_refused_is_complete_with_its_next_pass() -> None:
    passes = Passes()
    assert send(passes, None, NAMES) == (None, 1)
    passes.begins("a")
    passes.disturbed("a")
    rest, _ = send(passes, None, ["b", "c", "d"])
    assert rest == {"a"}
    assert send(passes, rest, NAMES) == (None, 1)


def lost(passes: Passes, names: list[str]) -> set[str]:
    """A pass that lacks tensors, after which tokens are asked for in vain."""
    rest, complete = send(passes, None, names)
    assert complete == 0
    assert rest is not None
    passes.interrupted()
    return rest


def test_a_sender_that_lost_its_first_tensor_is_complete_with_its_next_pass() -> None:
    passes = Passes()
    assert send(passes, None, NAMES) == (None, 1)
    passes.generated()
    rest = lost(passes, ["b", "c", "d"])
    assert send(passes, rest, NAMES) == (None, 1), "the one of the new pass, not one that its first tensor completes"


def test_one_that_lost_it_in_its_very_first_pass_is_complete_with_the_pass_after_the_next() -> None:
    passes = Passes()
    rest = lost(passes, ["b", "c", "d"])
    mixed, complete = send(passes, rest, ["a"])
    assert (mixed, complete) == (None, 1), "it may be the last one of a slow pass"
    rest, complete = send(passes, None, ["b", "c", "d"])  # and was not: no token came in between
    assert (rest, complete) == ({"a"}, 0)
    passes.interrupted()
    assert send(passes, rest, NAMES) == (None, 1)


def test_a_request_in_the_middle_of_a_pass_does_not_end_it() -> None:
    passes = Passes()
    rest = lost(passes, ["a", "b"])
    assert send(passes, rest, ["c", "d"]) == (None, 1)
    passes.generated()
    assert send(passes, None, NAMES) == (None, 1)
    rest = lost(passes, ["a", "b", "c"])
    assert send(passes, rest, ["d"]) == (None, 1)
