"""Search: plans by what they are for, in every store by the same words."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from flashrl_registry.documents import canonical_scheme
from flashrl_registry.errors import FlashRLError, InvalidRefError
from flashrl_registry.registry.listed import Listed

if TYPE_CHECKING:
    from flashrl_registry.registry.store import Store


@dataclass(frozen=True)
class Criteria:
    """What a plan must be; all of it.

    Attributes:
        text: Part of its name or of its model's, in any case.
        model: The model's name, whole or without its owner.
        scheme: A scheme of its rules.
        architecture: The model's architecture.
        vllm: A vLLM release that it must be meant for.
        device: A device that it must run on: ``cpu``, ``cuda`` or ``rocm``.
    """

    text: str | None = None
    model: str | None = None
    scheme: str | None = None
    architecture: str | None = None
    vllm: str | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        if self.vllm is not None:
            try:
                Version(self.vllm)
            except InvalidVersion as exc:
                raise InvalidRefError(f"'{self.vllm}' is not a vLLM release", hint="write one such as 0.32.0") from exc
        if self.device is not None:
            _check_device(self.device)

    @property
    def needs_plans(self) -> bool:
        """Whether it asks for what only plans say, and listings do not."""
        return bool(self.architecture or self.vllm or self.device)

    def may_fit(self, plan: Listed) -> bool:
        """Whether a line is what was asked for, as far as every listing says it."""
        return (
            _part(self.text, f"{plan.name} {plan.model}")
            and (self.model is None or self.model.lower() in _names(plan.model))
            and (self.scheme is None or (canonical_scheme(self.scheme) or self.scheme) in plan.schemes)
        )

    def fits(self, plan: Listed) -> bool:
        """Whether a line is what was asked for."""
        return (
            self.may_fit(plan)
            and (self.architecture is None or self.architecture.lower() == plan.architecture.lower())
            and (self.vllm is None or _admits(plan.vllm, self.vllm))
            and (self.device is None or self.device in plan.devices)
        )

    def tags(self) -> list[str]:
        """Those of the criteria that a Hub can look for itself.

        It compares letter by letter, so what people write in any case, a model or an architecture, is left to
        :meth:`fits`.
        """
        scheme = canonical_scheme(self.scheme) or self.scheme if self.scheme else None
        return [
            *([f"scheme:{scheme}"] if scheme else []),
            *([f"device:{self.device}"] if self.device else []),
        ]


def find(stores: "Iterable[Store]", criteria: Criteria) -> Iterator[Listed | FlashRLError]:
    """Plans that fit, store by store; an error for each that cannot be read, and for each store that does not answer.

    One store that fails keeps nobody from what the others have.
    """
    for store in stores:
        try:
            yield from find_in(store, criteria)
        except FlashRLError as exc:
            yield exc


def find_in(store: "Store", criteria: Criteria) -> Iterator[Listed | FlashRLError]:
    """Plans of one store that fit; an error for each that cannot be read.

    Raises:
        FlashRLError: The store does not answer.
    """
    # A plan is read only where its line leaves a question open.
    detailed = criteria.may_fit if criteria.needs_plans else None
    lines: Iterator[Listed | FlashRLError]
    if store.kind == "bundled":
        from flashrl_registry.registry.bundled import BundledStore

        assert isinstance(store, BundledStore)
        lines = store.listing(detailed)
    elif store.kind == "url":
        from flashrl_registry.registry.url import UrlStore

        assert isinstance(store, UrlStore)
        lines = store.listing(detailed)
    elif store.kind == "hub":
        from flashrl_registry.registry.hub import HubStore

        assert isinstance(store, HubStore)
        lines = iter(store.find(criteria.tags()))
    else:
        lines = store.listing()
    yield from (line for line in lines if not isinstance(line, Listed) or criteria.fits(line))


def _check_device(device: str) -> None:
    from flashrl_registry.compiler.devices import DEVICES  # a compiler, which no other search needs

    if device not in DEVICES:
        raise InvalidRefError(f"'{device}' is not a device", hint=f"one of: {', '.join(DEVICES)}")


def _part(wanted: str | None, text: str) -> bool:
    return wanted is None or wanted.lower() in text.lower()


def _names(model: str) -> set[str]:
    return {model.lower(), model.lower().rpartition("/")[2]}


@lru_cache(maxsize=1024)  # ten thousand plans are meant for a handful of ranges
def _admits(specifier: str, release: str) -> bool:
    try:
        return SpecifierSet(specifier).contains(release, prereleases=True)
    except InvalidSpecifier:
        return False
