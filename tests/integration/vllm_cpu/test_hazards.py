"""Ways to a wrong token that nothing in an update shows: in its order, in what is cached, in a file, in a thread."""

from typing import Any

import pytest
from jobs import Several, job

pytestmark = pytest.mark.vllm

NAMES = (
    "diverged", "kernel_format", "lost_first", "no_such_folder", "queued", "random_weights", "written_over",
)  # fmt: skip


@pytest.fixture(scope="module")
def ran(tiny, run_several) -> Several:
    models = {"model": tiny(1), "updated": tiny(2)}
    jobs = {name: job(f"hazards.{name}", "int8", **models) for name in NAMES}
    fresh = {which: job("hazards.fresh", "int8", model=folder) for which, folder in models.items()}
    return run_several(**jobs, **fresh)


@pytest.fixture(scope="module")
def old(ran: Several) -> Any:
    """Tokens of an engine that was started on the first model."""
    return ran["model"]["tokens"]


@pytest.fixture(scope="module")
def new(ran: Several) -> Any:
    """Tokens of one that was started on the second."""
    return ran["updated"]["tokens"]


def test_a_pass_that_lost_its_first_tensor_is_never_made_whole_by_the_next_one(ran, old, new) -> None:
    result = ran["lost_first"]
    assert result["lost"] == "refused"
    assert all(tokens in ("refused", old) for tokens in result["next"])
    assert result["next"][1:] == [old, old], "what the sender's first tensor is was seen by then"
    assert result["lost_again"] == "refused"
    assert result["healed"] == new, "at once, as its first tensor is known"


def test_what_a_diverged_policy_left_in_the_kv_cache_reaches_no_token_of_good_weights(ran, old) -> None:
    result = ran["diverged"]
    assert result["left_behind"] > 0, "nothing is left behind, so the test shows nothing"
    assert result["healed"] == old


def test_a_prompt_that_was_queued_before_an_update_reads_no_prefix_of_old_weights(ran) -> None:
    result = ran["queued"]
    assert result["queued"] == result["fresh"] != result["old"]
    assert not result["cached"]


def test_a_checkpoint_that_is_written_over_while_it_is_read_is_refused(ran, old, new) -> None:
    result = ran["written_over"]
    assert "changed while they were read: model.safetensors" in result["error"]
    assert result["old"] == old
    assert result["after"] == "refused"
    assert result["healed"] == new


def test_a_path_that_is_not_there_changes_nothing(ran, old) -> None:
    result = ran["no_such_folder"]
    assert "there is no folder /no/such/folder" in result["error"]
    assert result["after"] == result["reloaded"] == old


def test_updates_and_tokens_from_several_threads_leave_a_whole_engine(tiny, run_shared, new) -> None:
    done = run_shared("hazards.py", "threads", "int8", model=tiny(1), updated=tiny(2))
    assert done.result == {"errors": [], "dtype": "torch.float32", "after": new}


def test_tensors_past_the_plan_are_refused_by_the_model_runner_too(ran, old) -> None:
    result = ran["kernel_format"]
    assert "writes past the plan" in result["error"]
    assert result["after"] == old


def test_random_weights_are_not_made_whole_by_a_partial_update(ran, old) -> None:
    result = ran["random_weights"]
    assert "cannot make the engine whole: load_format='dummy'" in result["error"]
    assert (result["state"], result["after"]) == ("serving", old)
