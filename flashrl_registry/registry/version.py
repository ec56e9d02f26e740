"""One published version: a folder with a manifest that lists and hashes everything else in it."""

import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from flashrl_registry.documents import Manifest, ManifestFile, read_document, write_document
from flashrl_registry.errors import IntegrityError, ParseError, SchemaError
from flashrl_registry.registry.bundle import hash_file
from flashrl_registry.registry.folders import MANIFEST_JSON
from flashrl_registry.registry.hybrids import Bundle, HybridBundle, read_any_bundle, write_any_bundle


def write_version(folder: Path, bundle: Bundle, name: str, version: str) -> Manifest:
    """Write a version's files, check them by reading them back, and make them read-only and durable.

    The files are made from the bundle's checked values, so nothing is published that a digest does not cover.

    Args:
        folder: Empty.
        bundle: As :func:`read_any_bundle` returned it.
        name: ``namespace/name``.
        version: Semantic version.

    Returns:
        The manifest, sealed.

    Raises:
        IntegrityError: The sidecar changed since the bundle was read.
    """
    files = write_any_bundle(folder, bundle)
    staged = read_any_bundle(folder)  # hashes the sidecar as it was copied
    plan = staged.first if isinstance(staged, HybridBundle) else staged.plan
    manifest = Manifest(
        name=name,
        version=version,
        published_at=datetime.now(UTC).isoformat(timespec="seconds"),
        plan_digest=staged.digest,
        base_model=plan.base_model.name,
        schemes=staged.schemes,
        files=[
            ManifestFile(
                path=file.relative_to(folder).as_posix(), digest=hash_file(file), num_bytes=file.stat().st_size
            )
            for file in sorted(files)
        ],
    )
    manifest = manifest.model_copy(update={"digest": manifest.compute_digest()})
    write_document(manifest, folder / MANIFEST_JSON)
    for file in (*files, folder / MANIFEST_JSON):
        file.chmod(0o444)
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    for inside in {file.parent for file in files} | {folder}:
        sync_folder(inside)
    return manifest


def read_manifest(folder: Path, name: str, version: str) -> Manifest:
    """Read and check a version's manifest, not yet the files that it lists.

    Raises:
        IntegrityError: It is missing, was changed, or belongs to another version.
        SchemaVersionError: A newer release wrote it.
    """
    hint = _repair(folder)
    try:
        manifest = read_document(folder / MANIFEST_JSON, Manifest)
    except (ParseError, SchemaError, IntegrityError) as exc:
        message = f"{name}@{version}: the manifest was changed or is missing: {exc.message}"
        raise IntegrityError(message, hint=hint, context={"ref": f"{name}@{version}", **exc.context}) from exc
    if manifest.digest is None or (manifest.name, manifest.version) != (name, version):
        found = f"{manifest.name}@{manifest.version}" if manifest.digest else "no digest"
        raise IntegrityError(
            f"{folder / MANIFEST_JSON} is not the manifest of {name}@{version}: it holds {found}",
            hint=hint,
            context={"ref": f"{name}@{version}", "expected": f"{name}@{version}", "actual": found},
        )
    return manifest


def check_files(folder: Path, manifest: Manifest) -> None:
    """Hash every file of a version against its manifest.

    Raises:
        IntegrityError: Files differ, are missing, or are not listed; all of them in one error.
    """
    found = {entry.path: _hash(folder / entry.path) for entry in manifest.files}
    for path in sorted(_files_in(folder, "")):
        if path not in found and path != MANIFEST_JSON:
            found[path] = "not in the manifest"
    _compare(found, manifest, str(folder), _repair(folder))


def _files_in(folder: Path, prefix: str) -> Iterator[str]:
    """Paths under a version's folder, without hidden ones; a link is a file, wherever it leads."""
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            continue
        if entry.is_dir() and not entry.is_symlink():
            yield from _files_in(entry, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name


def check_listed(files: Mapping[str, Path], manifest: Manifest) -> None:
    """Hash the files that a manifest lists, wherever they lie; see :func:`check_files`.

    Args:
        files: Path in the manifest to the file.
        manifest: What they must be.
    """
    found = {path: _hash(file) for path, file in files.items()}
    _compare(found, manifest, "the cache", "remove them from the cache (flashrl-registry gc --all) and pull again")


def _hash(file: Path) -> str:
    return hash_file(file) if file.is_file() else "missing"


def _compare(found: Mapping[str, str], manifest: Manifest, where: str, hint: str) -> None:
    listed = {entry.path: entry.digest for entry in manifest.files}
    wrong = {path: actual for path, actual in found.items() if listed.get(path) != actual}
    if wrong:
        faults = [
            f"{path}: expected {listed.get(path, 'no such file')}, actual {actual}" for path, actual in wrong.items()
        ]
        raise IntegrityError(
            f"{manifest.name}@{manifest.version} in {where} was changed after it was published: " + "; ".join(faults),
            hint=hint,
            context={
                "ref": f"{manifest.name}@{manifest.version}",
                "expected": {path: listed.get(path) for path in wrong},
                "actual": wrong,
            },
        )


def sync_folder(folder: Path) -> None:
    """Make a rename or a new file durable; a folder cannot be opened on Windows, which orders them itself."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _repair(folder: Path) -> str:
    return f"the version is damaged; remove {folder} and publish it again from its source"
