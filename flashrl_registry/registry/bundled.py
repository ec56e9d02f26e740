"""The plans that come with flashrl-registry, as a store: read-only, no versions but the installed release.

``Qwen/Qwen3-8B:int8`` is the plan in ``profiles/Qwen/Qwen3-8B/int8``. Its digest is the one in ``index.yaml``.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from flashrl_registry.documents import History, Plan, read_document
from flashrl_registry.documents.bundled import bundled
from flashrl_registry.documents.findings import did_you_mean
from flashrl_registry.documents.history import Event
from flashrl_registry.documents.io import read_text
from flashrl_registry.documents.lock import BundledSource
from flashrl_registry.documents.strict_yaml import parse_text
from flashrl_registry.errors import FlashRLError, IntegrityError, NotFoundError
from flashrl_registry.registry.bundle import PlanBundle, read_bundle
from flashrl_registry.registry.hybrids import Bundle
from flashrl_registry.registry.plan_folders import PLAN_YAML
from flashrl_registry.registry.ref import NamedRef
from flashrl_registry.registry.store import Listed, Published, read_only

_PLACE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*)/([A-Za-z0-9][A-Za-z0-9._-]*)")


class BundledStore:
    """The curated plans.

    Args:
        root: Their folder; the installation's where None.
    """

    kind = "bundled"
    place = "the plans that come with flashrl-registry"

    def __init__(self, root: Path | None = None) -> None:
        self._root = root

    @cached_property
    def root(self) -> Path:
        """Their folder."""
        return self._root or bundled("profiles")

    @cached_property
    def _index(self) -> dict[str, dict[str, dict[str, str]]]:
        """Name to member to its line in the index."""
        file = self.root / "index.yaml"
        found: dict[str, dict[str, dict[str, str]]] = {}
        for line in parse_text(read_text(file), str(file)).data["plans"]:
            if match := _PLACE.fullmatch(line["path"]):
                found.setdefault(match[1], {})[match[2]] = line
        return found

    def versions(self, name: str) -> list[str]:
        """None: a plan here is the one of the installed release. :meth:`knows` says whether there is one."""
        return []

    def knows(self, name: str) -> bool:
        """Whether plans come under this name."""
        return (self.root / name).is_dir() and name in self._index

    def history(self, name: str) -> History:
        """Nothing is said about these plans but in releases."""
        return History(name=name)

    def get(self, ref: NamedRef) -> PlanBundle:
        """Read one of the plans and check its bytes.

        Raises:
            NotFoundError: No such plan, no such member, or several and none is named.
            IntegrityError: The installation was changed, or the plan is not the one that the reference pins.
        """
        members = self._index.get(ref.name) if self.knows(ref.name) else None
        if not members:
            raise NotFoundError(f"no plan for {ref.name} comes with flashrl-registry", context={"ref": str(ref)})
        if ref.version is not None:
            raise NotFoundError(
                f"{ref} comes with flashrl-registry and has no versions",
                hint=f"write {ref.name}:{ref.member or next(iter(members))}; a digest pins it",
                context={"ref": str(ref)},
            )
        if ref.member not in members:
            raise NotFoundError(
                f"{ref.name} comes in {', '.join(members)}, and "
                + (f"none of them is '{ref.member}'" if ref.member else "none of them is named")
                + (did_you_mean(ref.member, members) if ref.member else ""),
                hint=f"write {ref.name}:{next(iter(members))}",
                context={"ref": str(ref), "nearest": list(members)},
            )
        line = members[ref.member]
        bundle = read_bundle(self.root / line["path"])
        for expected, what in ((line["digest"], "index.yaml"), (ref.digest, "the reference")):
            if expected is not None and expected != bundle.plan.digest:
                raise IntegrityError(
                    f"{ref} is not the plan that {what} names: expected {expected}, actual {bundle.plan.digest}",
                    context={"ref": str(ref), "expected": expected, "actual": bundle.plan.digest},
                )
        return replace(
            bundle, origin=f"{ref.name}:{ref.member} of flashrl-registry", source=BundledSource(name=line["path"])
        )

    def open(self, ref: NamedRef) -> PlanBundle:
        """As :meth:`get`."""
        return self.get(ref)

    def publish(self, bundle: Bundle, name: str, version: str) -> Published:
        """Refused."""
        raise read_only(self.place)

    def append(self, name: str, event: Event, expected: int) -> History:
        """Refused."""
        raise read_only(self.place)

    def whoami(self) -> str:
        """Nobody writes here."""
        raise read_only(self.place)

    def listing(self, detailed: Callable[[Listed], bool] | None = None) -> Iterator[Listed | FlashRLError]:
        """Every plan; what the index says of it.

        Args:
            detailed: Of which lines also architecture, vLLM range and devices are wanted, which are in the plans: a
                few milliseconds for each.
        """
        for name, members in sorted(self._index.items()):
            for member, entry in members.items():
                line = Listed(
                    f"{name}:{member}", "", entry["model"], "", (entry["scheme"],), "", entry["digest"], store=self.kind
                )
                if detailed is not None and detailed(line):
                    from flashrl_registry.registry.plan_facts import facts_of

                    plan = read_document(self.root / entry["path"] / PLAN_YAML, Plan)
                    architecture, vllm, devices = facts_of([plan.model_dump(mode="json")])
                    line = replace(line, architecture=architecture, vllm=vllm, devices=devices)
                yield line
