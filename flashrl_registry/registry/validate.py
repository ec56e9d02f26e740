"""Check files and folders of documents, for people and for the CI of plan repositories."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flashrl_registry.documents import Document, Plan, Profile, read_any
from flashrl_registry.errors import FlashRLError
from flashrl_registry.registry.bundle import bundle_around, check_sidecar, read_bundle
from flashrl_registry.registry.plan_folders import PLAN_JSON, PLAN_YAML
from flashrl_registry.registry.search import Found, find_documents


@dataclass(frozen=True)
class Verdict:
    """What was found out about one file.

    Attributes:
        path: The file, or the folder of a plan.
        kind: Its kind of document; None where it could not be told.
        digest: Its digest; None where it is not valid.
        error: What is wrong; None where it is valid.
    """

    path: Path
    kind: str | None
    digest: str | None
    error: FlashRLError | None = None


def validate_paths(paths: Iterable[Path]) -> list[Verdict]:
    """Validate documents: syntax, schema, digests and, for plan folders, all files that belong together.

    Args:
        paths: Files, which must be documents; and folders, searched for documents. In a folder, files that do not
            look like ours are somebody else's and left alone; one without any of ours is an error.

    Returns:
        One verdict per document, in the order of the paths; before them one per folder that has none, or that cannot
        be searched.
    """
    return validate_found(find_documents(paths))


def validate_found(found: Found) -> list[Verdict]:
    """As :func:`validate_paths`, for what was found."""
    verdicts = [Verdict(path, None, None, error) for path, error in found.errors.items()]
    for file, searched in found.files.items():
        verdicts.append(_validate_file(file, with_neighbours=searched))
    return verdicts


def _validate_file(path: Path, *, with_neighbours: bool = False) -> Verdict:
    kind = None
    try:
        document = read_any(path)
        kind = document.KIND
        if isinstance(document, Profile):
            check_sidecar(path.parent / document.sidecar.file_name, document.sidecar)
        alone = path.name == PLAN_JSON and not path.with_name(PLAN_YAML).exists()
        if with_neighbours and (path.name == PLAN_YAML or alone):
            _check_neighbours(path, document)
    except FlashRLError as exc:
        return Verdict(path, kind, None, exc)
    # A digest in the file was compared with the content when it was read.
    digest: str = getattr(document, "digest", None) or document.compute_digest()
    return Verdict(path, kind, digest)


def _check_neighbours(path: Path, document: Document) -> None:
    if isinstance(document, Plan):
        bundle_around(document, path, str(path.parent))  # not read a second time: half of the time of a large folder
    else:
        read_bundle(path.parent)  # says that it is no plan
