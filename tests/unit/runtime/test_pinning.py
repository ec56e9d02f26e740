"""A channel that moves cannot split a job: the first process resolves, those that it starts take its answer."""

from pathlib import Path

import pytest

from flashrl_registry.errors import InvalidRefError
from flashrl_registry.registry import LocalStore, NamedRef, PathRef, PlanBundle, parse_ref
from flashrl_registry.registry.channels import announce, move_channel
from flashrl_registry.runtime.pinning import PINNED, pin_for_children

CONFIG = "team/toy@stable"


@pytest.fixture
def store(tmp_path: Path, bundle: PlanBundle, other_bundle: PlanBundle) -> LocalStore:
    """Two versions; stable is at the first."""
    store = LocalStore(tmp_path / "registry")
    store.publish(bundle, "team/toy", "1.0.0")
    store.publish(other_bundle, "team/toy", "2.0.0")
    move_channel(store, "team/toy", "stable", "1.0.0")
    return store


def test_a_child_runs_what_its_parent_resolved_though_the_channel_moved(store: LocalStore, bundle: PlanBundle) -> None:
    environ = {"FLASHRL_REGISTRY": str(store.root)}
    pinned = pin_for_children(CONFIG, parse_ref(CONFIG), environ)
    assert pinned == NamedRef("team/toy", "1.0.0", bundle.plan.digest)
    move_channel(store, "team/toy", "stable", "2.0.0")
    assert pin_for_children(CONFIG, parse_ref(CONFIG), dict(environ)) == pinned


def test_what_was_said_against_a_version_is_logged_at_the_start(
    store: LocalStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flashrl_registry.runtime.pinning.logger.propagate", True)
    announce(store, "team/toy", "1.0.0", "deprecate", reason="clips the head", replacement="2.0.0")
    pin_for_children(CONFIG, parse_ref(CONFIG), {"FLASHRL_REGISTRY": str(store.root)})
    assert "clips the head; use 2.0.0" in caplog.text


def test_another_config_or_a_new_job_resolves_anew(store: LocalStore, other_bundle: PlanBundle) -> None:
    environ = {"FLASHRL_REGISTRY": str(store.root)}
    pin_for_children(CONFIG, parse_ref(CONFIG), environ)
    newest = pin_for_children("team/toy", parse_ref("team/toy"), environ)
    assert newest == NamedRef("team/toy", "2.0.0", other_bundle.plan.digest)
    move_channel(store, "team/toy", "stable", "2.0.0")
    again = pin_for_children(CONFIG, parse_ref(CONFIG), {"FLASHRL_REGISTRY": str(store.root)})
    assert again == NamedRef("team/toy", "2.0.0", other_bundle.plan.digest)


def test_a_path_is_left_alone_and_a_changed_variable_is_an_error(tmp_path: Path) -> None:
    environ: dict[str, str] = {}
    assert pin_for_children("./x", PathRef(tmp_path), environ) == PathRef(tmp_path)
    assert environ == {}
    with pytest.raises(InvalidRefError, match="FLASHRL_PINNED was changed"):
        pin_for_children(CONFIG, parse_ref(CONFIG), {PINNED: f"{CONFIG} -> nonsense at all"})
