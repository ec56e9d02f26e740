"""The local registry: a folder of published plans.

Layout: ``<root>/<namespace>/<name>/<version>/`` with ``manifest.json`` and the bundle's files, and beside the versions
``history.json`` once something was said about one of them. Invariants:

* A version appears in one rename and never changes; a history is replaced in one rename. Whatever is written before
  that lies in ``<root>/.staging``, so a process killed at any point leaves the registry as it was or as it is after.
* Reads trust nothing: every file is hashed against the manifest, the plan against the reference's digest.
* Names come from a pattern without separators or leading dots, so none leaves the root; neither does a link in the
  way of one. Two names that some file system takes for one are not both published.
* Everything under a name beginning with a dot can be removed at any time; nothing is lost with it.
"""

import builtins
import difflib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from flashrl_registry.documents import History, read_document
from flashrl_registry.documents.history import Event
from flashrl_registry.documents.lock import LocalSource
from flashrl_registry.errors import (
    AlreadyPublishedError,
    ConflictError,
    DocumentError,
    FlashRLError,
    IntegrityError,
    NotFoundError,
)
from flashrl_registry.registry.bundle import PlanBundle
from flashrl_registry.registry.channels import local_user
from flashrl_registry.registry.folders import HISTORY_JSON, check_new_name, entries, version_folder
from flashrl_registry.registry.hybrids import Bundle, identity_of, one_plan, read_version
from flashrl_registry.registry.local_listing import list_folder
from flashrl_registry.registry.local_writing import staging, writing
from flashrl_registry.registry.ref import NamedRef, in_order, is_name, is_version
from flashrl_registry.registry.root import REGISTRY_VARIABLE, default_registry_root
from flashrl_registry.registry.standing import select, standing_of
from flashrl_registry.registry.store import Listed, Published
from flashrl_registry.registry.version import check_files, read_manifest, sync_folder, write_version

__all__ = ["REGISTRY_VARIABLE", "LocalStore", "default_registry_root"]


class LocalStore:
    """A folder of published plans.

    Args:
        root: The folder; created at the first publish.
    """

    kind = "local"

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def place(self) -> str:
        """Which registry, for people."""
        return f"the local registry {self.root}"

    def whoami(self) -> str:
        """The user of this process."""
        return local_user()

    def publish(self, bundle: Bundle, name: str, version: str) -> Published:
        """Publish a bundle; all of it becomes visible at once, or nothing.

        Args:
            bundle: As :func:`read_any_bundle` returned it.
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
        with writing(self.root):
            check_new_name(self.root, name)
            with staging(self.root) as stage:
                manifest = write_version(stage, bundle, name, version)
                if folder.exists():
                    return self._published_before(bundle, name, version)
                folder.parent.mkdir(parents=True, exist_ok=True)
                stage.rename(folder)
                for parent in (folder.parent, folder.parent.parent, self.root):
                    sync_folder(parent)
        return Published(name, version, manifest, self.place, folder)

    def history(self, name: str) -> History:
        """What was said about a name's versions.

        Raises:
            InvalidRefError: The name is malformed.
            IntegrityError: The file was changed to something that is no history.
        """
        file = self._folder(name, "0.0.0").parent / HISTORY_JSON
        if not file.exists():
            return History(name=name)
        try:
            found = read_document(file, History)
        except DocumentError as exc:
            hint = f"restore {file}, or remove it: channels, deprecations and withdrawals are in it"
            raise IntegrityError(f"the history of {name} is damaged: {exc.message}", hint=hint) from exc
        if found.name != name:
            raise IntegrityError(f"{file} is the history of {found.name}, not of {name}")
        return found

    def append(self, name: str, event: Event, expected: int) -> History:
        """Add an event to a history that still has ``expected`` events.

        Raises:
            ConflictError: It has others by now.
            NotFoundError: Nothing is published under the name.
            StoreUnavailableError: The folder cannot be written.
        """
        folder = self._folder(name, "0.0.0").parent
        with writing(self.root):
            if not self.versions(name):
                raise self._not_found(NamedRef(name))
            history = self.history(name)
            if len(history.events) != expected:
                raise ConflictError(
                    f"the history of {name} has {len(history.events)} events by now, not {expected}",
                    context={"expected": expected, "actual": len(history.events)},
                )
            # Built anew, not copied: the rules about what may follow what are checked.
            history = History(name=name, events=[*history.events, event])
            with staging(self.root) as stage:
                file = stage / HISTORY_JSON
                with file.open("wb") as handle:
                    handle.write(history.json_file())
                    handle.flush()
                    os.fsync(handle.fileno())
                file.rename(folder / HISTORY_JSON)
                sync_folder(folder)
        return history

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
        return one_plan(self.open(ref), ref)

    def open(self, ref: NamedRef) -> Bundle:
        """As :meth:`get`; a hybrid where the reference names one."""
        published, warnings, history = self._find(ref)
        folder = self._folder(published.name, published.version)
        check_files(folder, published.manifest)
        return read_version(
            folder, published.manifest, ref, str(self.root), origin=f"{published.ref} in {self.root}",
            source=LocalSource(name=published.name, version=published.version), warnings=warnings, history=history,
        )  # fmt: skip

    def versions(self, name: str) -> builtins.list[str]:
        """Published versions of a name, lowest first; empty for an unknown name."""
        if not is_name(name):
            return []
        folder = self.root / name
        return in_order([entry.name for entry in entries(folder) if is_version(entry.name)])

    def listing(self) -> Iterator[Listed | FlashRLError]:
        """Every published version by name and version; an error for each that cannot be read.

        What was read once is kept in an index, so that ten thousand plans are listed in a second; :meth:`get` and
        ``verify`` check the bytes.
        """
        return list_folder(self.root)

    def scan(self) -> tuple[builtins.list[Published], builtins.list[FlashRLError]]:
        """Every published version by name and version, and what is wrong with those that cannot be read.

        Reads manifests only; :meth:`get` checks the files.
        """
        found: list[Published] = []
        damaged: list[FlashRLError] = []
        for name in self.names():
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

    def names(self) -> Iterator[str]:
        """Names under which something is published, in their order."""
        for namespace in entries(self.root):
            for entry in entries(namespace):
                if is_name(name := f"{namespace.name}/{entry.name}"):
                    yield name

    def _folder(self, name: str, version: str) -> Path:
        return version_folder(self.root, name, version)

    def _find(self, ref: NamedRef) -> tuple[Published, tuple[str, ...], History]:
        self._folder(ref.name, "0.0.0")  # refuses a malformed name before it becomes a path
        versions = self.versions(ref.name)
        if not versions:
            raise self._not_found(ref)
        history = self.history(ref.name)
        version, warnings = select(ref, versions, standing_of(history), self.place)
        return self._manifest(ref.name, version), warnings, history

    def _not_found(self, ref: NamedRef) -> NotFoundError:
        names = list(self.names())
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
        return Published(name, version, read_manifest(folder, name, version), self.place, folder)

    def _published_before(self, bundle: Bundle, name: str, version: str) -> Published:
        there = self.open(NamedRef(name, version))
        if there.digest != bundle.digest:
            old, new = identity_of(there), identity_of(bundle)
            fields = [key for key in {**old, **new} if old.get(key) != new.get(key)]
            ref = f"{name}@{version}"
            raise AlreadyPublishedError(
                f"{ref} is published already and holds another plan: it differs in {', '.join(fields)} "
                f"(published {there.digest}, yours {bundle.digest})",
                hint="a published version never changes; publish yours under the next version",
                context={"ref": ref, "expected": there.digest, "actual": bundle.digest, "fields": fields},
            )
        return replace(self._manifest(name, version), created=False)
