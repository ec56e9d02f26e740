"""Plans in an object store or on a shared mount, by any fsspec address: ``s3://``, ``gs://``, ``file://``.

One operation is enough for every guarantee: creating an object that must not exist yet.

* ``objects/<sha256>`` holds a file under its hash; two writers of one object write the same bytes.
* ``plans/<namespace>/<name>/versions/<version>.json`` is the manifest. Creating it publishes the version, after all of
  its objects are there; the second of two writers finds it taken.
* ``plans/<namespace>/<name>/history/<n>.json`` is the n-th event. Creating it is the compare-and-swap.

A file system that cannot create exclusively is read and never written: with it, two writers could both believe that
they won.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from flashrl_registry.documents import History, Manifest, parse_document, write_atomically
from flashrl_registry.documents.history import Event
from flashrl_registry.documents.lock import UrlSource
from flashrl_registry.errors import (
    AccessDeniedError,
    AlreadyPublishedError,
    ConflictError,
    FlashRLError,
    IntegrityError,
    InvalidRefError,
    MissingDependencyError,
    NotFoundError,
    StoreUnavailableError,
)
from flashrl_registry.registry.bundle import PlanBundle
from flashrl_registry.registry.channels import local_user
from flashrl_registry.registry.folders import check_name, check_new_name_among, refuse_links
from flashrl_registry.registry.hybrids import Bundle, files_for, one_plan, read_version
from flashrl_registry.registry.ref import NamedRef, in_order, is_name, is_version
from flashrl_registry.registry.standing import Standing, select, standing_of
from flashrl_registry.registry.store import Listed, Published
from flashrl_registry.registry.transfer import moving, one_file
from flashrl_registry.registry.version import check_listed, write_version

# fsspec's own `mode="create"` looks and then writes, unless a file system does better; these do.
_EXCLUSIVE = {"memory", "s3", "s3a", "gs", "gcs", "abfs", "az"}
_LOCAL = {"file", "local"}
_MAX_DOCUMENT_BYTES = 1 << 20


class UrlStore:
    """A store at an fsspec address.

    Args:
        address: Such as ``s3://bucket/plans``; credentials are the file system's own.
        cache: Folder for what is fetched.
    """

    kind = "url"

    def __init__(self, address: str, cache: Path) -> None:
        self._protocol, scheme, place = address.partition("://")
        if not scheme:
            raise InvalidRefError(
                f"'{address}' is no store's address",
                hint=f"write file://{Path(address).absolute()} for the folder",
                context={"store": address},
            )
        place = place.rstrip("/")
        if "@" in place.partition("/")[0]:
            raise InvalidRefError("a store's address carries no credentials", hint="use the file system's own way")
        if not place or any(character.isspace() or character in "?#" for character in place):
            raise InvalidRefError(
                f"'{address}' names no place in {self._protocol}://",
                hint="write SCHEME://PLACE, such as s3://bucket/plans or file:///mnt/plans",
                context={"store": address},
            )
        self.address = f"{self._protocol}://{place}"
        self._cache = cache / "objects"

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        """The file system and the path in it; opened when it is asked for, so that stores before it need no driver.

        Raises:
            MissingDependencyError: Its driver is not installed.
            StoreUnavailableError: It does not answer, or does not take the address.
        """
        import fsspec

        context = {"store": self.address}
        hint = f"{self._protocol}:// is a file system of fsspec; is the address what it asks for?"
        try:
            system, root = fsspec.core.url_to_fs(self.address)
            return system, str(root)
        except ImportError as exc:
            driver = f"install the fsspec file system for {self._protocol}://"
            raise MissingDependencyError(f"{self.address}: {exc}", hint=driver, context=context) from exc
        except FileNotFoundError as exc:
            raise NotFoundError(f"{self.address} is not there: {exc}", hint=hint, context=context) from exc
        except OSError as exc:
            raise StoreUnavailableError(f"{self.address}: {exc}", hint=hint, context=context) from exc
        except Exception as exc:  # a driver raises whatever it likes at an address that it cannot use
            raise _unusable(self.address, exc, hint) from exc

    @property
    def _fs(self) -> Any:
        return self._opened[0]

    @property
    def _root(self) -> str:
        return self._opened[1]

    @property
    def place(self) -> str:
        """Which store, for people."""
        return self.address

    def whoami(self) -> str:
        """The user of this process: object stores do not say."""
        return local_user()

    def versions(self, name: str) -> list[str]:
        """Published versions, lowest first; empty for an unknown name."""
        if not is_name(name):
            return []
        stems = (entry.removesuffix(".json") for entry in self._names(f"plans/{name}/versions"))
        return in_order([stem for stem in stems if is_version(stem)])

    def history(self, name: str) -> History:
        """What was said about a name's versions."""
        self._check(name)
        numbers = sorted(entry for entry in self._names(f"plans/{name}/history") if entry.endswith(".json"))
        events: list[Event] = []
        for number, entry in enumerate(numbers):
            path = f"plans/{name}/history/{entry}"
            if entry != _event_file(number):
                raise IntegrityError(f"{path} in {self.place}: event {number} is missing")
            one = parse_document(self._text(path), f"{self.address}/{path}", _OneEvent)
            if one.name != name or len(one.events) != 1:
                raise IntegrityError(f"{path} in {self.place} is not one event of {name}")
            events += one.events
        return History(name=name, events=events)

    def get(self, ref: NamedRef) -> PlanBundle:
        """Read a plan and check all of its bytes."""
        return one_plan(self.open(ref), ref)

    def open(self, ref: NamedRef) -> Bundle:
        """As :meth:`get`; a hybrid where the reference names one."""
        self._check(ref.name)
        versions = self.versions(ref.name)
        if not versions:
            what = f"{ref.name} is not published in {self.place}"
            raise NotFoundError(what, context={"ref": str(ref), "stores": [self.place]})
        history = self.history(ref.name)
        version, warnings = select(ref, versions, standing_of(history), self.place)
        manifest = self._manifest(ref.name, version)
        folder = self._materialized(manifest, files_for(manifest, ref.member))
        return read_version(
            folder, manifest, ref, self.place, origin=f"{ref.name}@{version} in {self.place}",
            source=UrlSource(url=self.address, name=ref.name, version=version), warnings=warnings, history=history,
        )  # fmt: skip

    def publish(self, bundle: Bundle, name: str, version: str) -> Published:
        """Publish a bundle; creating its manifest makes it visible."""
        self._check(name, version)
        self._check_writable()
        check_new_name_among(name, lambda above: self._names(f"plans/{above}".rstrip("/")))
        with tempfile.TemporaryDirectory(prefix="flashrl-push-") as scratch:
            manifest = write_version(Path(scratch), bundle, name, version)
            before = version in self.versions(name)
            if not before:
                with moving(sum(entry.num_bytes for entry in manifest.files)):
                    for entry in manifest.files:
                        with one_file(entry.path, entry.num_bytes):
                            self._put_object(entry.digest, (Path(scratch) / entry.path).read_bytes())
            created = not before and self._create(f"plans/{name}/versions/{version}.json", manifest.json_file())
        if created:
            return Published(name, version, manifest, self.place)
        there = self._manifest(name, version)
        if there.plan_digest == manifest.plan_digest:
            return Published(name, version, there, self.place, created=False)
        kind = AlreadyPublishedError if before else ConflictError
        when = "already" if before else "while yours was on its way"
        raise kind(
            f"{name}@{version} was published in {self.place} {when} and holds another plan "
            f"(published {there.plan_digest}, yours {manifest.plan_digest})",
            hint="a published version never changes; publish yours under the next version",
            context={
                "ref": f"{name}@{version}", "expected": there.plan_digest, "actual": manifest.plan_digest,
            },
        )  # fmt: skip

    def append(self, name: str, event: Event, expected: int) -> History:
        """Add an event to a history that still has ``expected`` events."""
        self._check_writable()
        if not self.versions(name):
            raise NotFoundError(f"nothing is published as {name} in {self.place}", context={"ref": name})
        history = self.history(name)
        if len(history.events) == expected:
            longer = History(name=name, events=[*history.events, event])  # checks what may follow what
            one = _OneEvent(name=name, events=[event])
            if self._create(f"plans/{name}/history/{_event_file(expected)}", one.json_file()):
                return longer
        raise ConflictError(
            f"the history of {name} in {self.place} does not have {expected} events any more",
            context={"expected": expected, "actual": len(self.history(name).events)},
        )

    def listing(self, detailed: Callable[[Listed], bool] | None = None) -> Iterator[Listed | FlashRLError]:
        """Every published version by name and version; an error for each that cannot be read.

        Args:
            detailed: Of which lines also architecture, vLLM range and devices are wanted, which are in the plans: one
                more object for each.
        """
        for name in self.names():
            yield from self._listed(name, detailed)

    def names(self) -> Iterator[str]:
        """Names under which something lies, in their order."""
        for namespace in self._names("plans"):
            for leaf in self._names(f"plans/{namespace}"):
                yield f"{namespace}/{leaf}"

    def _listed(self, name: str, detailed: Callable[[Listed], bool] | None) -> Iterator[Listed | FlashRLError]:
        try:
            self._check(name)
        except FlashRLError as exc:
            yield exc
            return
        try:
            standing = standing_of(self.history(name))
        except FlashRLError as exc:
            yield exc
            standing = Standing()
        for version in self.versions(name):
            try:
                manifest = self._manifest(name, version)
                line = Listed(
                    name, version, manifest.base_model, "", tuple(s.replace(" ", "_") for s in manifest.schemes), "",
                    manifest.plan_digest, manifest.published_at, standing.state(version), self.kind,
                )  # fmt: skip
                if detailed is not None and detailed(line):
                    architecture, vllm, devices = self._facts(manifest)
                    line = replace(line, architecture=architecture, vllm=vllm, devices=devices)
            except FlashRLError as exc:
                yield exc
                continue
            yield line

    def _facts(self, manifest: Manifest) -> tuple[str, str, tuple[str, ...]]:
        """What a version's plans say; their bytes are compared with the manifest."""
        from flashrl_registry.registry.plan_facts import facts_of, plans_in

        paths = plans_in(manifest)
        folder = self._materialized(manifest, paths)
        return facts_of([json.loads((folder / path).read_bytes()) for path in paths])

    def _manifest(self, name: str, version: str) -> Manifest:
        path = f"plans/{name}/versions/{version}.json"
        manifest = parse_document(self._text(path), f"{self.address}/{path}", Manifest)
        if manifest.digest is None or (manifest.name, manifest.version) != (name, version):
            raise IntegrityError(f"{path} in {self.place} is not the manifest of {name}@{version}")
        return manifest

    def _materialized(self, manifest: Manifest, paths: list[str]) -> Path:
        """A folder with files of a version, from the cache where they are; hashed every time."""
        assert manifest.digest is not None
        folder = self._cache.parent / "versions" / manifest.digest.removeprefix("sha256:")
        needed = [entry for entry in manifest.files if entry.path in paths]
        absent = [entry for entry in needed if _size(folder / entry.path) != entry.num_bytes]
        with moving(sum(entry.num_bytes for entry in absent)):
            for entry in absent:
                with one_file(entry.path, entry.num_bytes):
                    data = self._read(f"objects/{entry.digest.removeprefix('sha256:')}", entry.num_bytes)
                    write_atomically(folder / entry.path, data)
        check_listed({path: folder / path for path in paths}, manifest)
        return folder

    def _put_object(self, digest: str, data: bytes) -> None:
        path = f"objects/{digest.removeprefix('sha256:')}"
        with self._typed(path):
            there = self._fs.exists(self._at(path)) and self._fs.size(self._at(path)) == len(data)
        # A half-written object of a writer that died has another size; the same bytes again heal it.
        if not there and not self._create(path, data):
            with self._typed(path):
                self._fs.pipe_file(self._at(path), data)

    def _create(self, path: str, data: bytes) -> bool:
        """Create an object; False where it exists."""
        target = self._at(path)
        try:
            with self._typed(path):
                if self._protocol in _LOCAL:
                    _create_file(Path(target), data)
                else:
                    self._fs.pipe_file(target, data, mode="create")
        except _TakenError:
            return False
        return True

    def _check(self, name: str, version: str = "0.0.0") -> None:
        """Refuse a malformed name, and in a folder a link in its way, which would lead out of the store."""
        check_name(name, version)
        if self._protocol in _LOCAL:
            parts = ["plans", *name.split("/")]
            for last in ("versions", "history"):
                refuse_links(Path(self._root), [*parts, last], name)
            refuse_links(Path(self._root), ["objects"], name)

    def _check_writable(self) -> None:
        if self._protocol not in _EXCLUSIVE | _LOCAL:
            raise StoreUnavailableError(
                f"{self.place} is read-only: {self._protocol}:// is not known to create exclusively",
                hint="two people who publish at once could both believe that they won; use s3, gs, az or a mount",
                context={"store": self.place},
            )

    def _names(self, folder: str) -> list[str]:
        try:
            with self._typed(folder):
                self._fs.invalidate_cache()
                found = self._fs.ls(self._at(folder), detail=False)
        except NotFoundError:
            return []
        return sorted(name for path in found if (name := str(path).rstrip("/").rpartition("/")[2])[:1] != ".")

    def _text(self, path: str) -> str:
        try:
            return self._read(path, _MAX_DOCUMENT_BYTES).decode()
        except UnicodeDecodeError as exc:
            raise IntegrityError(f"{path} in {self.place} is not text: {exc.reason}") from exc

    def _read(self, path: str, limit: int) -> bytes:
        with self._typed(path):
            size = self._fs.size(self._at(path))
            if size is not None and size > limit:
                raise IntegrityError(f"{path} in {self.place} has {size} bytes; at most {limit} are read")
            data: bytes = self._fs.cat_file(self._at(path))
        return data

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    @contextmanager
    def _typed(self, path: str) -> Iterator[None]:
        context: dict[str, Any] = {"store": self.place, "object": path}
        try:
            yield
        except FileExistsError as exc:
            raise _TakenError from exc
        except FileNotFoundError as exc:
            raise NotFoundError(f"{self.place} has no {path}", context=context) from exc
        except PermissionError as exc:
            raise AccessDeniedError(f"{self.place} says no to {path}: {exc}", context=context) from exc
        except FlashRLError:
            raise
        except OSError as exc:
            raise StoreUnavailableError(f"{self.place}: {path}: {exc}", hint="try again", context=context) from exc
        except Exception as exc:  # see _opened
            hint = f"is {self._protocol}:// a place for files?"
            raise _unusable(f"{self.place}: {path}", exc, hint) from exc


def _unusable(what: str, exc: Exception, hint: str) -> StoreUnavailableError:
    return StoreUnavailableError(f"{what}: {type(exc).__name__}: {exc}", hint=hint, context={"store": what})


class _TakenError(Exception):
    """The object exists."""


class _OneEvent(History):
    """One event in a file of its own; what it may follow is checked where all of them are together."""

    events: list[Event] = []


def _size(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None


def _event_file(number: int) -> str:
    return f"{number:08}.json"


def _create_file(target: Path, data: bytes) -> None:
    """Create a file with its bytes in one step: written beside it, then linked; on NFS too."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        os.link(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)
