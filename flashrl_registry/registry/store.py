"""What every place for plans promises, whether a folder, a Hub repository or an object store.

Guarantees, tested on each of them by one suite:

* **A version never changes.** Publishing the same plan again changes nothing and says so; another plan under a
  published version is refused. Of several at once, one wins and nothing is lost.
* **All or nothing.** A version is there with all its files or not at all, whenever the writer dies.
* **Reads trust nothing.** Every byte is hashed against what was recorded, the plan against the reference's digest.
* **What moves keeps its history.** Channels, deprecations and withdrawals are events; appending one is a
  compare-and-swap, so two people cannot overwrite each other's.
* **Typed errors.** Not there, changed bytes, taken, overtaken, not allowed and out of order are six different errors.
  A store that cannot answer says that; it never answers with something older.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flashrl_registry.documents import History, Manifest
from flashrl_registry.documents.history import Event
from flashrl_registry.errors import FlashRLError, StoreUnavailableError
from flashrl_registry.registry.bundle import PlanBundle
from flashrl_registry.registry.hybrids import Bundle
from flashrl_registry.registry.listed import Listed
from flashrl_registry.registry.ref import NamedRef

__all__ = ["Listed", "Published", "Store", "read_only"]


@dataclass(frozen=True)
class Published:
    """One published version.

    Attributes:
        name: ``namespace/name``.
        version: Semantic version.
        manifest: What it consists of.
        place: The store, for people.
        folder: Where it lies, in a store of folders.
        created: False when a publish found the same plan there already and changed nothing.
        notes: What the publisher should know, such as the address of a proposal.
    """

    name: str
    version: str
    manifest: Manifest
    place: str
    folder: Path | None = None
    created: bool = True
    notes: tuple[str, ...] = ()

    @property
    def ref(self) -> str:
        """``namespace/name@version``."""
        return f"{self.name}@{self.version}"


class Store(Protocol):
    """A place for plans."""

    @property
    def kind(self) -> str:
        """``local``, ``bundled``, ``hub`` or ``url``."""
        ...

    @property
    def place(self) -> str:
        """Which one, for people."""
        ...

    def versions(self, name: str) -> list[str]:
        """Published versions of a name, lowest first, withdrawn ones too; empty for an unknown name."""
        ...

    def history(self, name: str) -> History:
        """What was said about a name's versions; without events where nothing was said."""
        ...

    def get(self, ref: NamedRef) -> PlanBundle:
        """Read a published plan and check all of its bytes.

        Raises:
            NotFoundError: Nothing is published under the reference.
            IntegrityError: Bytes differ from what was recorded, or the plan from the one that the reference pins.
            InvalidRefError: It is a hybrid, and the reference names none of its members.
            AccessDeniedError, StoreUnavailableError: The store does not answer.
        """
        ...

    def open(self, ref: NamedRef) -> Bundle:
        """As :meth:`get`; a hybrid where the reference names one."""
        ...

    def publish(self, bundle: Bundle, name: str, version: str) -> Published:
        """Publish a bundle; all of it becomes visible at once, or nothing.

        Raises:
            AlreadyPublishedError: Another plan is published under this version.
            ConflictError: Another plan was published under it while this ran.
            AccessDeniedError, StoreUnavailableError: It cannot be written.
        """
        ...

    def append(self, name: str, event: Event, expected: int) -> History:
        """Add an event to a history that still has ``expected`` events.

        Raises:
            ConflictError: It has others by now.
            NotFoundError: Nothing is published under the name.
        """
        ...

    def whoami(self) -> str:
        """Who appends, as the store knows them."""
        ...

    def listing(self) -> Iterator[Listed | FlashRLError]:
        """Every published version by name and version; an error for each that cannot be read."""
        ...


def read_only(place: str) -> StoreUnavailableError:
    """The error of a store that only reads."""
    return StoreUnavailableError(
        f"{place} is read-only", hint="publish in the local registry, or on a Hub", context={"store": place}
    )
