"""Bundles: what belongs together is checked together."""

from pathlib import Path

import pytest

from flashrl_registry.documents import Plan, Profile
from flashrl_registry.errors import IntegrityError, InvalidRefError, NotFoundError, RegistryError, SchemaError
from flashrl_registry.registry import (
    PathRef,
    PlanBundle,
    PresetRef,
    open_bundle,
    read_bundle,
    read_profile,
    write_bundle,
)
from flashrl_registry.registry.local import LocalStore


def test_a_bundle_is_its_plan_profile_and_vectors(bundle: PlanBundle, smoothed_plan: Plan, profile: Profile) -> None:
    assert bundle.plan == smoothed_plan
    assert bundle.profile == profile
    assert bundle.sidecar is not None
    assert {file.name for file in bundle.files} == {"plan.yaml", "plan.json", "profile.yaml", bundle.sidecar.name}


@pytest.mark.parametrize("name", ["plan.yaml", "plan.json"])
def test_a_plan_file_is_a_bundle_with_its_neighbours(bundle: PlanBundle, name: str) -> None:
    assert read_bundle(Path(bundle.origin) / name).plan == bundle.plan


@pytest.mark.parametrize("name", ["plan.yaml", "plan.json", "profile.yaml", "sidecar"])
def test_any_changed_file_is_refused(bundle: PlanBundle, name: str) -> None:
    assert bundle.sidecar is not None
    file = bundle.sidecar if name == "sidecar" else Path(bundle.origin) / name
    file.write_bytes(file.read_bytes().replace(b"LlamaFor", b"OtherFor").replace(b"vectors", b"numbers"))
    with pytest.raises(IntegrityError) as caught:
        read_bundle(Path(bundle.origin))
    assert "digest" in str(caught.value)


def test_two_spellings_of_two_plans_are_refused(bundle: PlanBundle, other_bundle: PlanBundle) -> None:
    twin = Path(other_bundle.origin) / "plan.json"
    (Path(bundle.origin) / "plan.json").write_bytes(twin.read_bytes())
    with pytest.raises(IntegrityError, match="hold different plans"):
        read_bundle(Path(bundle.origin))


def test_missing_vectors_are_named(bundle: PlanBundle) -> None:
    assert bundle.sidecar is not None
    bundle.sidecar.unlink()
    with pytest.raises(NotFoundError, match="the profile's vectors are missing"):
        read_bundle(Path(bundle.origin))


def test_a_plan_without_a_digest_proves_nothing(bundle: PlanBundle) -> None:
    file = Path(bundle.origin) / "plan.yaml"
    lines = [line for line in file.read_text().splitlines() if not line.startswith("digest:")]
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(IntegrityError, match="carries no digest"):
        read_bundle(Path(bundle.origin))


def test_another_profile_is_refused(bundle: PlanBundle, profile: Profile) -> None:
    file = Path(bundle.origin) / "profile.yaml"
    file.write_text(file.read_text().replace(f"digest: {profile.digest}\n", "", 1).replace("toy-w8a8", "toy-other"))
    with pytest.raises(IntegrityError, match="is not the profile that the plan was compiled with"):
        read_bundle(Path(bundle.origin))


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"holds no plan\.yaml"):
        read_bundle(tmp_path)
    with pytest.raises(NotFoundError, match="no file at"):
        read_bundle(tmp_path / "plan.yaml")


@pytest.mark.parametrize("left", ["plan.yaml", "plan.json"])
def test_one_spelling_of_a_plan_is_enough(bundle: PlanBundle, left: str) -> None:
    folder = Path(bundle.origin)
    for name in {"plan.yaml", "plan.json"} - {left}:
        (folder / name).unlink()
    again = read_bundle(folder)
    assert (again.plan, again.profile) == (bundle.plan, bundle.profile)
    assert bundle.sidecar is not None
    bundle.sidecar.unlink()
    with pytest.raises(NotFoundError, match="the profile's vectors are missing"):
        read_bundle(folder)


@pytest.mark.parametrize("name", ["", "hybrid.yaml"])
def test_a_hybrid_is_said_to_be_one_with_its_members(bundle: PlanBundle, tmp_path: Path, name: str) -> None:
    (tmp_path / "hybrid.yaml").write_text(
        "schema_version: flashrl.hybrid/v1\n"
        "members: [{name: a, plan: ./bundle}, {name: b, plan: bf16}, {name: c, plan: me/plan@1.0.0}]\n"
    )
    with pytest.raises(InvalidRefError) as caught:
        read_bundle(tmp_path / name)
    assert caught.value.message == f"{tmp_path / name} is a hybrid of 3 plans, not one plan"
    assert caught.value.hint == f"name one of them: {bundle.origin}, bf16, me/plan@1.0.0"


def test_a_plan_is_not_written_beside_a_profile_that_is_not_its_own(
    bundle: PlanBundle, other_bundle: PlanBundle, profile: Profile
) -> None:
    folder = Path(bundle.origin)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert bundle.sidecar is not None
    with pytest.raises(RegistryError, match=f"does not use: profile.yaml, {bundle.sidecar.name}"):
        write_bundle(folder, other_bundle.plan)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    write_bundle(folder, bundle.plan, sidecar=bundle.sidecar)  # its own may stay
    assert read_bundle(folder).profile == profile
    for name in ("profile.yaml", bundle.sidecar.name):
        (folder / name).unlink()
    write_bundle(folder, other_bundle.plan)
    assert read_bundle(folder).plan == other_bundle.plan


def test_a_pinned_path_must_hold_that_plan(bundle: PlanBundle, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "registry")
    assert open_bundle(PathRef(Path(bundle.origin), bundle.plan.digest), store).plan == bundle.plan
    with pytest.raises(IntegrityError, match="is not the plan that the reference pins"):
        open_bundle(PathRef(Path(bundle.origin), "sha256:" + "0" * 64), store)


def test_a_scheme_name_has_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="is a scheme name, not a compiled plan"):
        open_bundle(PresetRef("int8"), LocalStore(tmp_path))


def test_a_profile_is_found_by_file_folder_and_the_name_that_was_asked_for(
    bundle: PlanBundle, profile: Profile
) -> None:
    folder = Path(bundle.origin)
    for path in (folder, folder / "profile.yaml", folder / "profile.pt"):
        assert read_profile(path) == (profile, bundle.sidecar)


def test_a_profile_that_is_not_there_or_none(bundle: PlanBundle, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no profile at"):
        read_profile(tmp_path / "x.pt")
    with pytest.raises(SchemaError, match="this is a plan; a profile was asked for"):
        read_profile(Path(bundle.origin) / "plan.yaml")
    assert bundle.sidecar is not None
    bundle.sidecar.write_bytes(b"other")
    with pytest.raises(IntegrityError, match="does not match its digest"):
        read_profile(Path(bundle.origin))
