"""Plans in an object store or on a shared mount, by any fsspec address: ``s3://``, ``gs://``, ``file://``.

One operation is enough for every guarantee: creating an object that must not exist yet.

* ``objects/<sha256>`` holds a file under its hash; two writers of one object write the same bytes.
* ``plans/<namespace>/<name>/versions/<version>.json`` is the manifest. Creating it publishes the version, after all of
  its objects are there; the second of two writers finds it taken.
* ``plans/<namespace>/<name>/history/<n>.json`` is the n-th event. Creating it is the compare-and-swap.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from flashrl_registry.documents import History, Manifest, parse_document, write_atomically
from flashrl_registry.documents.history import Event
from flashrl_registry.documents.lock import UrlSource
from flashrl_registry.errors import (
    AlreadyPublishedError,
    ConflictError,
    FlashRLError,
    IntegrityError,
    NotFoundError,
)
from flashrl_registry.registry.bundle import PlanBundle
from flashrl_registry.registry.channels import local_user
from flashrl_registry.registry.folders import check_name, check_new_name_among
from flashrl_registry.registry.hybrids import Bundle, files_for, one_plan, read_version
from flashrl_registry.registry.listed import Listed, about
from flashrl_registry.registry.ref import NamedRef, in_order, is_name, is_version
from flashrl_registry.registry.shared_cache import VERSIONS
from flashrl_registry.registry.standing import Standing, select, standing_of
from flashrl_registry.registry.store import Published
from flashrl_registry.registry.transfer import moving, one_file
from flashrl_registry.registry.url_files import UrlFiles
from flashrl_registry.registry.version import check_listed, write_version


class UrlStore:
    """A store at an fsspec address.

    Args:
        address: Such as ``s3://bucket/plans``; credentials are the file system's own.
        cache: Folder for what is fetched.
    """

    kind = "url"

    def __init__(self, address: str, cache: Path) -> None:
        self._files = UrlFiles(address)
        self._cache = cache

    @property
    def place(self) -> str:
        """Which store, for people."""
        return self._files.address

    def whoami(self) -> str:
        """The user of this process: object stores do not say."""
        return local_user()

    def versions(self, name: str) -> list[str]:
        """Published versions, lowest first; empty for an unknown name."""
        if not is_name(name):
            return []
        stems = (entry.removesuffix(".json") for entry in self._files.files(f"plans/{name}/versions"))
        return in_order([stem for stem in stems if is_version(stem)])

    def history(self, name: str) -> History:
        """What was said about a name's versions."""
        self._check(name)
        numbers = sorted(entry for entry in self._files.files(f"plans/{name}/history") if entry.endswith(".json"))
        events: list[Event] = []
        for number, entry in enumerate(numbers):
            path = f"plans/{name}/history/{entry}"
            if entry != _event_file(number):
                raise IntegrityError(f"{path} in {self.place}: event {number} is missing")
            one = parse_document(self._files.text(path), f"{self.place}/{path}", _OneEvent)
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
        manifest = self.manifest(ref.name, version)
        folder = self._materialized(manifest, files_for(manifest, ref.member))
        return read_version(
            folder, manifest, ref, self.place, origin=f"{ref.name}@{version} in {self.place}",
            source=UrlSource(url=self.place, name=ref.name, version=version), warnings=warnings, history=history,
        )  # fmt: skip

    def publish(self, bundle: Bundle, name: str, version: str) -> Published:
        """Publish a bundle; creating its manifest makes it visible."""
        self._check(name, version)
        self._files.check_writable()
        self._files.make_root()
        check_new_name_among(name, lambda above: self._files.folders(f"plans/{above}".rstrip("/")))
        with tempfile.TemporaryDirectory(prefix="flashrl-push-") as scratch:
            manifest = write_version(Path(scratch), bundle, name, version)
            before = version in self.versions(name)
            if not before:
                with moving(sum(entry.num_bytes for entry in manifest.files)):
                    for entry in manifest.files:
                        with one_file(entry.path, entry.num_bytes):
                            self._files.put_object(entry.digest, (Path(scratch) / entry.path).read_bytes())
            created = not before and self._files.create(f"plans/{name}/versions/{version}.json", manifest.json_file())
        if created:
            return Published(name, version, manifest, self.place)
        there = self.manifest(name, version)
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
        self._files.check_writable()
        if not self.versions(name):
            raise NotFoundError(f"nothing is published as {name} in {self.place}", context={"ref": name})
        history = self.history(name)
        if len(history.events) == expected:
            longer = History(name=name, events=[*history.events, event])  # checks what may follow what
            one = _OneEvent(name=name, events=[event])
            if self._files.create(f"plans/{name}/history/{_event_file(expected)}", one.json_file()):
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
        for namespace in self._files.folders("plans"):
            try:
                names = self._names_in(namespace)
            except FlashRLError as exc:
                yield about(namespace, exc)
                continue
            for name in names:
                yield from self._listed(name, detailed)

    def names(self) -> Iterator[str]:
        """Names under which something lies, in their order."""
        for namespace in self._files.folders("plans"):
            yield from self._names_in(namespace)

    def is_new(self) -> bool:
        """Whether the first push begins it."""
        return self._files.is_new()

    def _names_in(self, namespace: str) -> list[str]:
        return [f"{namespace}/{leaf}" for leaf in self._files.folders(f"plans/{namespace}")]

    def _listed(self, name: str, detailed: Callable[[Listed], bool] | None) -> Iterator[Listed | FlashRLError]:
        try:
            self._check(name)
            versions = self.versions(name)
        except FlashRLError as exc:
            yield about(name, exc)
            return
        try:
            standing = standing_of(self.history(name))
        except FlashRLError as exc:
            yield about(name, exc)
            standing = Standing()
        for version in versions:
            try:
                manifest = self.manifest(name, version)
                line = Listed(
                    name, version, manifest.base_model, "", tuple(s.replace(" ", "_") for s in manifest.schemes), "",
                    manifest.plan_digest, manifest.published_at, standing.state(version), self.kind,
                )  # fmt: skip
                if detailed is not None and detailed(line):
                    architecture, vllm, devices = self._facts(manifest)
                    line = replace(line, architecture=architecture, vllm=vllm, devices=devices)
            except FlashRLError as exc:
                yield about(f"{name}@{version}", exc)
                continue
            yield line

    def _facts(self, manifest: Manifest) -> tuple[str, str, tuple[str, ...]]:
        """What a version's plans say; their bytes are compared with the manifest."""
        from flashrl_registry.registry.plan_facts import facts_of, plans_in

        paths = plans_in(manifest)
        folder = self._materialized(manifest, paths)
        return facts_of([json.loads((folder / path).read_bytes()) for path in paths])

    def manifest(self, name: str, version: str) -> Manifest:
        """What a published version consists of.

        Raises:
            NotFoundError: It is not there.
            IntegrityError: It is another version's.
        """
        path = f"plans/{name}/versions/{version}.json"
        manifest = parse_document(self._files.text(path), f"{self.place}/{path}", Manifest)
        if manifest.digest is None or (manifest.name, manifest.version) != (name, version):
            raise IntegrityError(f"{path} in {self.place} is not the manifest of {name}@{version}")
        return manifest

    def _materialized(self, manifest: Manifest, paths: list[str]) -> Path:
        """A folder with files of a version, from the cache where they are; hashed every time."""
        assert manifest.digest is not None
        folder = self._cache / VERSIONS / manifest.digest.removeprefix("sha256:")
        needed = [entry for entry in manifest.files if entry.path in paths]
        absent = [entry for entry in needed if _size(folder / entry.path) != entry.num_bytes]
        with moving(sum(entry.num_bytes for entry in absent)):
            for entry in absent:
                with one_file(entry.path, entry.num_bytes):
                    data = self._files.read(f"objects/{entry.digest.removeprefix('sha256:')}", entry.num_bytes)
                    write_atomically(folder / entry.path, data)
        check_listed({path: folder / path for path in paths}, manifest)
        return folder

    def _check(self, name: str, version: str = "0.0.0") -> None:
        """Refuse a malformed name, and in a folder a link in its way, which would lead out of the store."""
        check_name(name, version)
        parts = ["plans", *name.split("/")]
        for last in ("versions", "history"):
            self._files.refuse_links([*parts, last], name)
        self._files.refuse_links(["objects"], name)


class _OneEvent(History):
    """One event in a file of its own; what it may follow is checked where all of them are together."""

    events: list[Event] = []


def _size(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None


def _event_file(number: int) -> str:
    return f"{number:08}.json"
