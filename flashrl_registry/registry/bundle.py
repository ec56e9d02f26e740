"""A plan and what belongs to it, in one folder.

``plan.yaml`` for people, ``plan.json`` (canonical) for machines, ``profile.yaml`` and the profile's sidecar. The
same layout is written by ``compile``, published in a registry and read by the runtime.
"""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from flashrl_registry.documents import (
    History,
    Hybrid,
    Manifest,
    Plan,
    Profile,
    Sidecar,
    read_document,
    write_document,
)
from flashrl_registry.documents.lock import BundledSource, HubSource, LocalSource, UrlSource
from flashrl_registry.errors import IntegrityError, InvalidRefError, NotFoundError
from flashrl_registry.registry.plan_folders import (
    HYBRID_YAML,
    PLAN_JSON,
    PLAN_YAML,
    PROFILE_YAML,
    refuse_folder,
    refuse_two_kinds,
)


@dataclass(frozen=True)
class PlanBundle:
    """A plan whose files have been checked against their digests.

    Attributes:
        plan: The plan; its digest is filled in.
        origin: Where it was read from, for messages.
        profile: Its profile, where one is beside it.
        sidecar: Path of the profile's vectors; None for a plan without smoothing.
        files: Every file of the bundle.
        source: What a lock says of where it was found; None for a path.
        warnings: What whoever uses it should read: deprecated, withdrawn, or older than the store may have.
        manifest: Of a published version; its files are those that were read.
        history: What was known of its name where that cost nothing; None where nobody was asked.
        signed_by: Fingerprints of the trusted keys that signed it; empty where no signature was asked for.
    """

    plan: Plan
    origin: str
    profile: Profile | None
    sidecar: Path | None
    files: tuple[Path, ...]
    source: HubSource | LocalSource | BundledSource | UrlSource | None = None
    warnings: tuple[str, ...] = ()
    manifest: Manifest | None = None
    history: History | None = None
    signed_by: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The plan's."""
        assert self.plan.digest is not None  # a plan without one is not opened
        return self.plan.digest

    @property
    def schemes(self) -> list[str]:
        """Of its rules, for listings."""
        return sorted({rule.shown_scheme() for rule in self.plan.rules})


def read_bundle(path: Path) -> PlanBundle:
    """Read a plan folder, or a plan file with its neighbours. Of the two spellings of a plan, one is enough.

    Raises:
        InvalidRefError: A hybrid, which is several plans; or a folder with both.
        NotFoundError: No plan there, or the sidecar that it names is missing.
        IntegrityError: A file differs from the digest recorded for it.
        DocumentError: A document is malformed.
    """
    plan_file = path
    refuse_two_kinds(path)
    if path.is_dir():
        plan_file = next((path / name for name in (PLAN_YAML, PLAN_JSON) if (path / name).is_file()), path / PLAN_YAML)
        if not plan_file.is_file() and (path / HYBRID_YAML).is_file():
            plan_file = path / HYBRID_YAML
    if plan_file.name == HYBRID_YAML and plan_file.is_file():
        raise _not_one_plan(path, plan_file)
    if not plan_file.is_file():
        what = f"{path} holds no {PLAN_YAML}" if path.is_dir() else f"no file at {path}"
        raise NotFoundError(what, hint="compile a plan with: flashrl-registry compile")
    return bundle_around(read_document(plan_file, Plan), plan_file, str(path))


def _not_one_plan(path: Path, file: Path) -> InvalidRefError:
    members = read_document(file, Hybrid).members
    plans = ", ".join(str(file.parent / member.plan) if member.is_path else member.plan for member in members)
    return InvalidRefError(
        f"{path} is a hybrid of {len(members)} plans, not one plan",
        hint=f"name one of them: {plans}",
        context={"hybrid": str(file), "members": [member.name for member in members]},
    )


def bundle_around(plan: Plan, plan_file: Path, origin: str) -> PlanBundle:
    """A plan that was just read, together with the files beside it.

    Args:
        plan: What ``plan_file`` holds.
        plan_file: Where it was read from.
        origin: As the user named it, for messages.

    Raises:
        As :func:`read_bundle`.
    """
    folder = plan_file.parent
    if plan.digest is None:
        raise IntegrityError(
            f"{plan_file} carries no digest, so nothing shows that it is what was compiled",
            hint="write it with: flashrl-registry compile",
        )
    files = [plan_file]
    twin = folder / PLAN_JSON
    if plan_file.name == PLAN_YAML and twin.exists():
        other = read_document(twin, Plan)
        if other.digest != plan.digest:
            raise IntegrityError(
                f"{plan_file} and {twin.name} hold different plans: {plan.digest} and {other.digest}",
                hint="one of them was changed; compile the plan again",
            )
        files.append(twin)
    profile, sidecar = None, None
    if plan.profile is not None:
        sidecar = folder / plan.profile.sidecar.file_name
        check_sidecar(sidecar, plan.profile.sidecar)
        files.append(sidecar)
        profile_file = folder / PROFILE_YAML
        if profile_file.exists():
            profile = read_document(profile_file, Profile)
            if profile.digest != plan.profile.digest:
                raise IntegrityError(
                    f"{profile_file} is not the profile that the plan was compiled with: "
                    f"expected {plan.profile.digest}, actual {profile.digest}"
                )
            files.append(profile_file)
    return PlanBundle(plan, origin, profile, sidecar, tuple(files))


def read_profile(path: Path) -> tuple[Profile, Path]:
    """Read a profile and check its vectors.

    Args:
        path: The document, the folder that holds ``profile.yaml``, or the ``x.pt`` that a profile run was asked for,
            beside which ``x.yaml`` was written.

    Returns:
        The profile and the path of its sidecar.

    Raises:
        NotFoundError: No profile there, or its vectors are missing.
        IntegrityError: A file differs from the digest recorded for it.
        DocumentError: The document is malformed.
    """
    file = path / PROFILE_YAML if path.is_dir() else path
    if file.suffix in {".pt", ".pth"}:
        file = file.with_suffix(".yaml")
    if not file.is_file():
        raise NotFoundError(
            f"no profile at {file}",
            hint="make one with: flashrl profile -m REFERENCE -qm QUANTIZED -o FILE.yaml; a pickled .pt is not read",
        )
    profile = read_document(file, Profile)
    sidecar = file.parent / profile.sidecar.file_name
    check_sidecar(sidecar, profile.sidecar)
    return profile, sidecar


def check_sidecar(path: Path, expected: Sidecar) -> None:
    """Hash a sidecar and compare.

    Raises:
        NotFoundError: The file is missing.
        IntegrityError: Its bytes differ.
    """
    if not path.is_file():
        raise NotFoundError(
            f"the profile's vectors are missing: {path}",
            hint="copy the .safetensors file that lies beside the profile, or pull the plan again",
        )
    actual = hash_file(path)
    if actual != expected.digest:
        raise IntegrityError(
            f"{path} does not match its digest: expected {expected.digest}, actual {actual}",
            hint="the file was changed or cut short; profile again, or pull the plan again",
            context={"expected": expected.digest, "actual": actual},
        )


def hash_file(path: Path) -> str:
    """``sha256:<hex>`` of a file's bytes."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def write_bundle(
    folder: Path, plan: Plan, *, profile: Profile | None = None, sidecar: Path | None = None
) -> tuple[Path, ...]:
    """Write a bundle's files into a folder, the plan last so that a reader never sees a plan without its vectors.

    Args:
        folder: Created where missing.
        plan: A sealed plan.
        profile: Its profile, where it has one.
        sidecar: The profile's vectors; copied.

    Returns:
        The files written.

    Raises:
        RegistryError: As :func:`refuse_folder`.
    """
    refuse_folder(folder, plan, profile)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    if sidecar is not None:
        target = folder / sidecar.name
        if not target.exists() or not target.samefile(sidecar):
            shutil.copyfile(sidecar, target)
        files.append(target)
    if profile is not None:
        write_document(profile, folder / PROFILE_YAML)
        files.append(folder / PROFILE_YAML)
    for name in (PLAN_JSON, PLAN_YAML):
        write_document(plan, folder / name)
        files.append(folder / name)
    return tuple(files)
