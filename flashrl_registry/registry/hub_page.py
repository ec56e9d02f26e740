"""Which version a repository's page is about: the one that its name means, whichever was published last.

Listings and searches on a Hub read the page's tags alone, so they show that version and its state.
"""

from flashrl_registry.documents import History, Plan
from flashrl_registry.errors import NotFoundError
from flashrl_registry.registry.hub import HubStore
from flashrl_registry.registry.hub_card import card
from flashrl_registry.registry.hub_heads import Head
from flashrl_registry.registry.hybrids import HybridPlans
from flashrl_registry.registry.ref import in_order
from flashrl_registry.registry.standing import highest, standing_of

README = "README.md"


def page_with(
    store: HubStore, head: Head, history: History, version: str, published: Plan | HybridPlans
) -> dict[str, bytes]:
    """The page of a commit that publishes a version.

    Args:
        store: The Hub.
        head: The repository before it.
        history: The history after it.
        version: What it publishes.
        published: The same, for when no other version is higher.
    """
    name = history.name
    meant = highest(in_order([*head.versions, version]), standing_of(history)) or version
    if meant != version:
        try:
            commit = store.heads.commit_of_version(name, meant, head)
            return {README: card(store.files.published_at(name, commit), name, meant, history).encode()}
        except NotFoundError:  # its tag and its commit are gone: the page is about what is there
            pass
    return {README: card(published, name, version, history).encode()}


def page(store: HubStore, name: str, head: Head, history: History) -> dict[str, bytes]:
    """The page at the head, after an event; none where the head holds no version.

    Args:
        store: The Hub.
        name: ``owner/repo``.
        head: The repository before the event.
        history: The history with it.
    """
    commit = head.refs.head
    manifest = store.files.manifest_at(name, commit) if commit else None
    if manifest is None or commit is None:
        return {}
    documents = store.files.documents_at(name, commit, manifest)
    return page_with(store, head, history, manifest.version, documents)
