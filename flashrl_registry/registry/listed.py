"""A line of a listing, whichever store it comes from; known without reading a document."""

from dataclasses import dataclass

from flashrl_registry.errors import FlashRLError


@dataclass(frozen=True)
class Listed:
    """One line of a listing: facts of a plan by which people search.

    Attributes:
        name: ``namespace/name``.
        version: Semantic version; empty for a plan without versions.
        model: Name of the model.
        architecture: Its architecture.
        schemes: Schemes of its rules.
        vllm: vLLM releases that it is meant for.
        digest: The plan's digest.
        published_at: UTC time, ISO 8601; empty where the store does not say.
        state: Channels that point at it, and what was said against it.
        store: The store's kind.
        devices: Devices that it can run on; empty where the store does not say.
    """

    name: str
    version: str
    model: str
    architecture: str
    schemes: tuple[str, ...]
    vllm: str
    digest: str
    published_at: str = ""
    state: str = ""
    store: str = "local"
    devices: tuple[str, ...] = ()

    @property
    def ref(self) -> str:
        """What to write to get it."""
        return f"{self.name}@{self.version}" if self.version else self.name


def about(ref: str, error: FlashRLError) -> FlashRLError:
    """An error that says what could not be listed, where it does not say so itself."""
    error.context.setdefault("ref", ref)
    return error
