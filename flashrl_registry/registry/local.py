"""The local registry: a folder of published plans.

Layout: ``<root>/<namespace>/<name>/<version>/`` with ``manifest.json`` and the bundle's files. Invariants:

* A version appears in one rename and never changes. Whatever is written before that lies in ``<root>/.staging``,
  so a process killed at any point leaves the registry as it was before or as it is after.
* Reads trust nothing: every file is hashed against the manifest, the plan against the reference's digest.
* Names come from a pattern without separators or leading dots, so none leaves the root.
"""

import builtins
import difflib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout
from packaging.version import Version
from platformdirs import user_data_path

from flashrl_registry.documents import Manifest, Plan
from flashrl_registry.documents.manifest import NAME_PATTERN, VERSION_PATTERN
from flashrl_registry.errors import (
    AlreadyPublishedError,
    FlashRLError,
    IntegrityError,
    InvalidRefError,
    NotFoundError,
    StoreUnavailableError,
)
from flashrl_registry.registry.bundle import PlanBundle, read_bundle
from flashrl_registry.registry.ref import NamedRef
from flashrl_registry.registry.version import check_files, read_manifest, sync_folder, write_version

REGISTRY_VARIABLE = "FLASHRL_REGISTRY"

_STAGING, _LOCK = ".staging", ".lock"
_LOCK_SECONDS = 60.0
_NAME, _VERSION = re.compile(NAME_PATTERN), re.compile(VERSION_PATTERN)


def default_registry_root(environ: Mapping[str, str]) -> Path:
    """Folder of the local registry: ``FLASHRL_REGISTRY``, or the user's data folder.

    Args:
        environ: Environment variables, as the program's edge read them.
    """
    given = environ.get(REGISTRY_VARIABLE, "").strip()
    return Path(given).expanduser() if given else user_data_path("flashrl-registry", appauthor=False)


@dataclass(frozen=True)
class Published:
    """One published version.

    Attributes:
        name: ``namespace/name``.
        version: Semantic version.
        manifest: What it consists of.
        folder: Where it lies.
        created: False when a publish found the same plan there already and changed nothing.
    """

    name: str
    version: str
    manifest: Manifest
    folder: Path
    created: bool = True

    @property
    def ref(self) -> str:
        """``namespace/name@version``."""
        return f"{self.name}@{self.version}"


class LocalStore:
    """A folder of published plans.

    Args:
        root: The folder; created at the first publish.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def publish(self, bundle: PlanBundle, name: str, version: str) -> Published:
        """Publish a bundle; all of it becomes visible at once, or nothing.

        Args:
            bundle: As :func:`read_bundle` returned it.
            name: ``namespace/name``.
            version: Semantic version.

        Returns:
            The published version; ``created`` is False when the same plan was there already.

        Raises:
            InvalidRefError: The name or the version is malformed.
            AlreadyPublishedError: Another plan is published under this version.
            IntegrityError: The bundle's files changed since they were read, or the version there is damaged.
            StoreUnavailableError: The folder cannot be written.
        """
        folder = self._folder(name, version)
        try:
            with self._locked(), self._staging() as stage:
                manifest = write_version(stage, bundle, name, version)
                if folder.exists():
                    return self._published_before(bundle.plan, name, version)
                folder.parent.mkdir(parents=True, exist_ok=True)
                stage.rename(folder)
                sync_folder(folder.parent)
        except OSError as exc:
            raise StoreUnavailableError(
                f"the registry at {self.root} cannot be written: {exc}",
                hint=f"make the folder writable, or set {REGISTRY_VARIABLE} to another one",
                context={"store": str(self.root)},
            ) from exc
        return Published(name, version, manifest, folder)

    def get(self, ref: NamedRef) -> PlanBundle:
        """Read a published plan and check all of its bytes.

        Args:
            ref: Without a version, the highest one is meant.

        Returns:
            The checked bundle; its files lie in the registry and must not be changed.

        Raises:
            InvalidRefError: The name is malformed.
            NotFoundError: Nothing is published under it; names the nearest.
            IntegrityError: A file differs from the manifest, or the plan from the reference's digest.
        """
        published = self._find(ref)
        check_files(published.folder, published.manifest)
        bundle = read_bundle(published.folder)
        for expected, what in ((published.manifest.plan_digest, "its manifest"), (ref.digest, "the reference")):
            if expected is not None and expected != bundle.plan.digest:
                raise IntegrityError(
                    f"{published.ref} in {self.root} is not the plan that {what} names: expected {expected}, "
                    f"actual {bundle.plan.digest}",
                    context={"ref": published.ref, "expected": expected, "actual": bundle.plan.digest},
                )
        return replace(bundle, origin=f"{published.ref} in {self.root}")

    def versions(self, name: str) -> builtins.list[str]:
        """Published versions of a name, lowest first; empty for an unknown name."""
        if not _NAME.fullmatch(name):
            return []
        folder = self.root / name
        found = [entry.name for entry in _entries(folder) if _VERSION.fullmatch(entry.name)]
        return sorted(found, key=Version)

    def scan(self) -> tuple[builtins.list[Published], builtins.list[FlashRLError]]:
        """Every published version by name and version, and what is wrong with those that cannot be read.

        Reads manifests only; :meth:`get` checks the files.
        """
        found: list[Published] = []
        damaged: list[FlashRLError] = []
        for name in self._names():
            for version in self.versions(name):
                try:
                    found.append(self._manifest(name, version))
                except FlashRLError as exc:
                    damaged.append(exc)
        return found, damaged

    def list(self) -> builtins.list[Published]:
        """Every published version, by name and version.

        Raises:
            IntegrityError: A version is damaged; :meth:`scan` returns the others.
        """
        found, damaged = self.scan()
        if damaged:
            raise IntegrityError(
                "\n".join(error.message for error in damaged), hint=damaged[0].hint, context={"store": str(self.root)}
            )
        return found

    def _names(self) -> Iterator[str]:
        for namespace in _entries(self.root):
            for entry in _entries(namespace):
                if _NAME.fullmatch(name := f"{namespace.name}/{entry.name}"):
                    yield name

    def _folder(self, name: str, version: str) -> Path:
        if not _NAME.fullmatch(name):
            raise InvalidRefError(
                f"'{name}' is not a plan name",
                hint="write namespace/name: letters, digits, '.', '_' and '-', each starting with a letter or digit",
                context={"ref": name},
            )
        if not _VERSION.fullmatch(version):
            raise InvalidRefError(
                f"'{version}' is not a version", hint="write a semantic version such as 1.0.0", context={"ref": name}
            )
        return self.root / name / version

    def _find(self, ref: NamedRef) -> Published:
        self._folder(ref.name, "0.0.0")  # refuses a malformed name before it becomes a path
        versions = self.versions(ref.name)
        version = ref.version or (versions[-1] if versions else None)
        if version is None or version not in versions:
            raise self._not_found(ref, versions)
        return self._manifest(ref.name, version)

    def _not_found(self, ref: NamedRef, versions: builtins.list[str]) -> NotFoundError:
        if versions:
            near = difflib.get_close_matches(ref.version or "", versions, n=3, cutoff=0.0)
            hint = f"published versions: {', '.join(versions[-8:])}"
        else:
            names = list(self._names())
            near = difflib.get_close_matches(ref.name, names, n=3, cutoff=0.4)
            hint = f"nearest names: {', '.join(near)}" if near else f"{len(names)} names are published there"
            hint += "; see all with: flashrl-registry list"
        return NotFoundError(
            f"nothing is published as {ref} in the local registry {self.root}",
            hint=hint,
            context={"ref": str(ref), "stores": [str(self.root)], "nearest": near},
        )

    def _manifest(self, name: str, version: str) -> Published:
        folder = self.root / name / version
        return Published(name, version, read_manifest(folder, name, version), folder)

    def _published_before(self, plan: Plan, name: str, version: str) -> Published:
        there = self.get(NamedRef(name, version)).plan
        if there.digest != plan.digest:
            old, new = there.identity(), plan.identity()
            fields = [key for key in {**old, **new} if old.get(key) != new.get(key)]
            ref = f"{name}@{version}"
            raise AlreadyPublishedError(
                f"{ref} is published already and holds another plan: it differs in {', '.join(fields)} "
                f"(published {there.digest}, yours {plan.digest})",
                hint="a published version never changes; publish yours under the next version",
                context={"ref": ref, "expected": there.digest, "actual": plan.digest, "fields": fields},
            )
        return replace(self._manifest(name, version), created=False)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.root / _LOCK, timeout=_LOCK_SECONDS)
        try:
            lock.acquire()
        except Timeout as exc:
            raise StoreUnavailableError(
                f"another process has been publishing to {self.root} for {_LOCK_SECONDS:.0f} seconds",
                hint="wait for it to end and publish again",
                context={"store": str(self.root)},
            ) from exc
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _staging(self) -> Iterator[Path]:
        """A folder in the registry's own file system; under the lock, whatever else lies there is dead."""
        staging = self.root / _STAGING
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        try:
            folder = Path(tempfile.mkdtemp(dir=staging))
            folder.chmod(0o755)
            yield folder
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _entries(folder: Path) -> list[Path]:
    """Sub-folders without a leading dot, by name; none where the folder is missing."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as exc:
        raise StoreUnavailableError(f"{folder} cannot be read: {exc.strerror}", context={"store": str(folder)}) from exc
