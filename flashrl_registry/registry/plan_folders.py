"""Names of files in a plan's folder, and which folders are refused: those that mean something else already."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flashrl_registry.documents import Plan, Profile, claimed_kind, read_document
from flashrl_registry.documents.io import read_text
from flashrl_registry.errors import FlashRLError, InvalidRefError, RegistryError

PLAN_YAML, PLAN_JSON, PROFILE_YAML, HYBRID_YAML = "plan.yaml", "plan.json", "profile.yaml", "hybrid.yaml"


def refuse_two_kinds(path: Path) -> None:
    """Refuse a folder that holds a plan and a hybrid: which of them it means, nobody could tell.

    Raises:
        InvalidRefError: It holds both.
    """
    plans = [name for name in (PLAN_YAML, PLAN_JSON) if (path / name).is_file()]
    if plans and (path / HYBRID_YAML).is_file():
        raise InvalidRefError(
            f"{path} holds a plan ({plans[0]}) and a hybrid ({HYBRID_YAML}), and could mean either",
            hint=f"name the file, {path / plans[0]} or {path / HYBRID_YAML}, or move one of them to another folder",
            context={"folder": str(path)},
        )


def refuse_checkpoint_folder(folder: Path) -> None:
    """A sidecar among a model's shards would become part of the model.

    Raises:
        RegistryError: The folder holds a checkpoint.
    """
    if (folder / "config.json").exists():
        raise RegistryError(
            f"{folder} holds a checkpoint; its next reader would take a plan's vectors for weights",
            hint="write to a folder of its own",
        )


def refuse_file(folder: Path) -> None:
    """Refuse to take a file for a folder.

    Raises:
        RegistryError: It is one.
    """
    if folder.exists() and not folder.is_dir():
        raise RegistryError(
            f"{folder} is a file, and a plan is written into a folder",
            hint="name a folder; nothing was changed",
            context={"folder": str(folder)},
        )


def refuse_other_kind(folder: Path, names: tuple[str, ...], kind: str) -> None:
    """Refuse to write beside what the folder is now.

    Args:
        folder: Where to write.
        names: Files that must not lie there.
        kind: What they make of the folder.

    Raises:
        RegistryError: One lies there.
    """
    there = [name for name in names if (folder / name).is_file()]
    if there:
        raise RegistryError(
            f"{folder} holds a {kind} already: {', '.join(there)}; beside it, nobody could tell what the folder means",
            hint="write to a folder of its own, or move it away first; nothing was changed",
            context={"folder": str(folder), "files": there},
        )


def refuse_folder(folder: Path, plan: Plan, profile: Profile | None, *, replacing: bool = False) -> None:
    """Refuse what :func:`write_bundle` refuses, before several bundles are written.

    Args:
        folder: Where to write.
        plan: What is written.
        profile: Its profile, where it has one.
        replacing: The profile of the plan there may go with it; see :func:`replaced_profile`.

    Raises:
        RegistryError: The folder holds a checkpoint; a hybrid, of which this plan is not; or a profile, which would
            pass for this plan's. Or it is a file.
    """
    refuse_file(folder)
    refuse_checkpoint_folder(folder)
    refuse_other_kind(folder, (HYBRID_YAML,), "hybrid")
    file = folder / PROFILE_YAML
    if profile is not None or not file.is_file() or claimed_kind(text := read_text(file)) != Profile.KIND:
        return
    if plan.profile is not None and plan.profile.digest in text:
        return
    if replacing and file in replaced_profile(folder, plan):
        return
    vectors = (vectors for vectors in sorted(folder.glob("*.safetensors")) if vectors.stem in text)
    names = ", ".join([PROFILE_YAML, *(vectors.name for vectors in vectors)])
    raise RegistryError(
        f"{folder} holds a profile that this plan does not use: {names}",
        hint="it may be the only copy: move or delete it, or write to another folder",
    )


def replaced_profile(folder: Path, plan: Plan) -> list[Path]:
    """Files of the profile of the plan that lies in a folder, as far as another plan in its place does not use them.

    Args:
        folder: Where the plan lies that is to be replaced.
        plan: What replaces it.
    """
    file = folder / PROFILE_YAML
    text = read_text(file) if file.is_file() else ""
    found: list[Path] = []
    for there in _plans_in(folder):
        if there.profile is None or (plan.profile is not None and plan.profile.digest == there.profile.digest):
            continue
        if there.profile.digest in text:
            found.append(file)
        if plan.profile is None or plan.profile.sidecar != there.profile.sidecar:
            found.append(folder / there.profile.sidecar.file_name)
    return [path for path in dict.fromkeys(found) if path.is_file()]


@contextmanager
def without_replaced_profile(folder: Path, plan: Plan) -> Iterator[None]:
    """Inside, a plan is written over another, whose profile goes: its vectors last, without which a plan is none."""
    gone = replaced_profile(folder, plan)
    for path in gone:
        if path.name == PROFILE_YAML:
            path.unlink()
    yield
    for path in gone:
        if path.name != PROFILE_YAML:
            path.unlink(missing_ok=True)


def _plans_in(folder: Path) -> list[Plan]:
    """The plans that a folder holds: one, or two where somebody who replaced it was stopped in between."""
    plans = []
    for name in (PLAN_YAML, PLAN_JSON):
        try:
            plans.append(read_document(folder / name, Plan))
        except FlashRLError:  # a plan that cannot be read has no profile that could be told
            continue
    return plans


def refuse_hybrid_folder(folder: Path) -> None:
    """Refuse a folder that a hybrid is not written into.

    Raises:
        RegistryError: It holds a plan or a checkpoint, or is a file.
    """
    refuse_file(folder)
    refuse_checkpoint_folder(folder)
    refuse_other_kind(folder, (PLAN_YAML, PLAN_JSON), "plan")
