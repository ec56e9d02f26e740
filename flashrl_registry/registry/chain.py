"""Stores in one order: local, bundled, shared stores, Hub.

**The first store that knows a name answers for it, wholly.** A version that this store lacks is an error, even where
a later store has it: two stores never mix under one name, and a plan published here cannot be replaced by somebody
who takes the same name on a Hub. ``hf://owner/repo`` skips the chain and asks the Hub.

The order has a reason: the first three need no network, and the bundled plans are looked at before anything that
somebody else can write to. A store that cannot answer stops the search; what a later one has under the name may be
another plan.

What a chain returns may be used: where a name needs a signature (:mod:`flashrl_registry.registry.trust`), a plan
without a valid one is refused here, whoever asks. Plans that come with flashrl-registry are exempt: they are as
trustworthy as the code that would check them.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from flashrl_registry.errors import (
    AccessDeniedError,
    InvalidRefError,
    NotFoundError,
    RegistryError,
    StoreUnavailableError,
    UnsignedError,
)
from flashrl_registry.registry.bundle import PlanBundle
from flashrl_registry.registry.bundled import BundledStore
from flashrl_registry.registry.hybrids import Bundle, one_plan
from flashrl_registry.registry.local import LocalStore, default_registry_root
from flashrl_registry.registry.ref import HubFileRef, NamedRef
from flashrl_registry.registry.store import Store
from flashrl_registry.registry.trust import NOBODY_ASKED, Trust, open_trust

B = TypeVar("B", bound=Bundle)
STORES_VARIABLE = "FLASHRL_STORES"
"""Addresses of shared stores, separated by commas; asked before the Hub, in this order."""

CACHE = ".cache"
"""Folder under the registry's root for what was fetched from elsewhere."""


class PlanSource(Protocol):
    """Whatever turns a reference into a checked bundle: one store, or a chain of them."""

    def get(self, ref: NamedRef) -> PlanBundle:
        """Read a published plan and check all of its bytes; see :meth:`Store.get`."""
        ...

    def open(self, ref: NamedRef) -> Bundle:
        """As :meth:`get`; a hybrid where the reference names one."""
        ...

    def versions(self, name: str) -> list[str]:
        """Published versions of a name, lowest first."""
        ...


class Chain:
    """Stores that are asked in order.

    Args:
        stores: Those that answer without a network, and shared ones; or what opens them, called when one is asked.
        hub: Makes the store for a Hub's address; None for the client's own. Called when a Hub is really asked.
        shared: Makes the store for the address of a shared one, which a lock may name.
        trust: Whose signatures are asked for; called when a published plan is really opened.
    """

    def __init__(
        self,
        stores: Sequence[Store] | Callable[[], Sequence[Store]],
        hub: Callable[[str | None], Store],
        shared: Callable[[str], Store] | None = None,
        trust: Callable[[], Trust] = lambda: NOBODY_ASKED,
    ) -> None:
        self._given = stores
        self._make_shared = shared
        self._make_hub = hub
        self._hubs: dict[str | None, Store] = {}
        self._open_trust = trust
        self._trust: Trust | None = None

    @cached_property
    def stores(self) -> tuple[Store, ...]:
        """Those that are asked before the Hub.

        Raises:
            InvalidRefError: The address of one is none; what needs no store does not depend on it.
        """
        return tuple(self._given() if callable(self._given) else self._given)

    def hub(self, endpoint: str | None = None) -> Store:
        """The store of a Hub."""
        if endpoint not in self._hubs:
            self._hubs[endpoint] = self._make_hub(endpoint)
        return self._hubs[endpoint]

    @property
    def trust(self) -> Trust:
        """Whose signatures are asked for."""
        if self._trust is None:
            self._trust = self._open_trust()
        return self._trust

    def store_of(self, ref: NamedRef) -> Store:
        """The store that answers for a reference: the first that knows its name, else the Hub."""
        if ref.store == "hub":
            return self.hub(ref.endpoint)
        if ref.store == "url" and ref.endpoint is not None and self._make_shared is not None:
            return self._make_shared(ref.endpoint)
        for store in self.stores:
            if store.knows(ref.name) if isinstance(store, BundledStore) else store.versions(ref.name):
                return store
        return self.hub()

    def get(self, ref: NamedRef) -> PlanBundle:
        """Read a published plan from the store that answers for its name.

        Raises:
            RegistryError: As the store's own; where nobody knows the name, it says who was asked.
            SignatureError: Its name needs a signature, and it has none that is valid.
        """
        return one_plan(self.open(ref), ref)

    def open(self, ref: NamedRef) -> Bundle:
        """As :meth:`get`; a hybrid where the reference names one."""
        store = self.store_of(ref)
        try:
            found = store.open(ref)
        except RegistryError as exc:
            says_nothing = isinstance(exc, NotFoundError | AccessDeniedError | StoreUnavailableError)
            if ref.store is not None or store in self.stores or not says_nothing:
                raise
            raise self._asked(exc, ref) from exc
        return self._trusted(store, ref.name, found)

    def versions(self, name: str) -> list[str]:
        """Versions in the store that answers for a name."""
        return self.store_of(NamedRef(name)).versions(name)

    def open_file(self, ref: HubFileRef) -> PlanBundle:
        """A plan file in a Hub repository."""
        from flashrl_registry.registry.hub import HubStore

        hub = self.hub(ref.endpoint)
        assert isinstance(hub, HubStore)
        return self._trusted(hub, ref.repository, hub.open_file(ref))

    def refuse_unsigned(self, ref: object) -> None:
        """Refuse a plan that no store published where every plan needs a signature.

        Raises:
            UnsignedError: One is required.
        """
        if self.trust.required:
            raise UnsignedError(
                f"{ref} is a path, and only published versions carry signatures",
                hint="publish it with: flashrl-registry push --sign",
                context={"ref": str(ref)},
            )

    def _trusted(self, store: Store, name: str, bundle: B) -> B:
        if isinstance(store, BundledStore):
            self.refuse_unsigned(bundle.origin)
            return bundle
        if not self.trust.demands(name):
            return bundle
        from flashrl_registry.registry.signing import check_trust

        return check_trust(self.trust, store, name, bundle)

    def _asked(self, exc: RegistryError, ref: NamedRef) -> RegistryError:
        """The Hub's error, after what was asked before it."""
        places = [*(store.place for store in self.stores), self.hub().place]
        context = {**exc.context, "ref": str(ref), "stores": places}
        if isinstance(exc, NotFoundError):
            message = f"nothing is published as {ref} in {', '.join(places[:-1])} or on {places[-1]}"
            if ref.version is not None:
                message += f": {exc.message}"
            names = [name for store in self.stores if isinstance(store, LocalStore) for name in store.names()]
            near = difflib.get_close_matches(ref.name, names, n=3, cutoff=0.4)
            hint = f"nearest names here: {', '.join(near)}; " if near else ""
            hint += "see what there is: flashrl-registry list, flashrl-registry search, and both with --store hub"
            context["nearest"] = near or context.get("nearest", [])
            return NotFoundError(message, hint=exc.hint if ref.version else hint, context=context)
        message = f"nothing is published as {ref} in {', '.join(places[:-1])}, and the Hub did not say: {exc.message}"
        return type(exc)(message, hint=exc.hint, context=context)


def open_chain(
    environ: Mapping[str, str],
    *,
    allow_stale: bool = False,
    require_signature: bool = False,
    trusted_keys: Sequence[Path] = (),
) -> Chain:
    """The user's stores.

    Args:
        environ: Environment variables, as the program's edge read them.
        allow_stale: When the Hub does not answer, take what it said last, and say so.
        require_signature: Refuse every plan without a valid signature, not only those that the user's trusted
            publishers ask for.
        trusted_keys: Files of public keys, one of which must have signed.
    """
    root = default_registry_root(environ)
    return Chain(
        lambda: [LocalStore(root), BundledStore(), *(_shared(address, root) for address in _addresses(environ))],
        lambda endpoint: hub_store(root, endpoint, allow_stale=allow_stale, named_by_user=False),
        lambda address: _shared(address, root),
        lambda: open_trust(environ, required=require_signature, keys=trusted_keys),
    )


def listing_stores(environ: Mapping[str, str]) -> Iterator[Store | InvalidRefError]:
    """The stores whose plans are listed without a Hub; an error for each address that is none.

    Args:
        environ: Environment variables, as the program's edge read them.
    """
    root = default_registry_root(environ)
    yield LocalStore(root)
    yield BundledStore()
    for address in _addresses(environ):
        try:
            yield _shared(address, root)
        except InvalidRefError as exc:
            yield exc


def store_at(address: str, environ: Mapping[str, str]) -> Store:
    """One store.

    Args:
        address: ``local``, ``bundled``, ``hub``, a Hub's ``http(s)://`` address, or an fsspec address.
        environ: Environment variables.

    Raises:
        InvalidRefError: None of these.
    """
    root = default_registry_root(environ)
    if address in {"local", "bundled"}:
        return LocalStore(root) if address == "local" else BundledStore()
    if address == "hub" or address.startswith(("https://", "http://")):
        return hub_store(root, None if address == "hub" else address)
    if "://" in address:
        return _shared(address, root)
    from flashrl_registry.registry.url_files import address_hint

    meant = address_hint(address) if "/" in address else None
    raise InvalidRefError(
        f"'{address}' is no store",
        hint=meant or "write local, bundled, hub, a Hub's address, or an fsspec address such as s3://",
    )


def hub_store(
    root: Path, endpoint: str | None = None, *, allow_stale: bool = False, named_by_user: bool = True
) -> Store:
    """A Hub, with its cache under a registry's root.

    Raises:
        InvalidRefError: Its address is none.
    """
    if endpoint is not None:
        _check_address(endpoint)
    from flashrl_registry.registry.hub import HubStore

    return HubStore(endpoint, root / CACHE, allow_stale=allow_stale, named_by_user=named_by_user)


def _check_address(endpoint: str) -> None:
    try:
        parts = urlsplit(endpoint)
        sound = bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        # Not the address itself: what is wrong with it may be a password.
        raise InvalidRefError("the Hub's address is not http(s)://host[:port]", hint="write https://hub.example")


def _addresses(environ: Mapping[str, str]) -> list[str]:
    """Of shared stores."""
    return [address.strip() for address in environ.get(STORES_VARIABLE, "").split(",") if address.strip()]


def _shared(address: str, root: Path) -> Store:
    from flashrl_registry.registry.url import UrlStore

    return UrlStore(address, root / CACHE)
