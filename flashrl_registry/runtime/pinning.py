"""One resolution for many processes: a reference that every one of them can check."""

import os

from flashrl_registry.registry import LocalStore, default_registry_root
from flashrl_registry.resolver import pin_reference


def pin(ref: str) -> str:
    """Resolve a plan once and return a reference that only this plan answers to.

    A driver hands it to its workers, whichever machine they run on, as their ``FLASHRL_CONFIG``; an engine that finds
    another plan under it, because the folder was compiled again or a node has another copy, does not start.

    Args:
        ref: What FLASHRL_CONFIG accepts: a path, ``namespace/name[@version]``, or a hybrid document, whose members
            must pin their digests.

    Returns:
        ``/absolute/path#sha256=...`` or ``namespace/name@version#sha256=...``. A scheme name is returned as it is: its
        plan is compiled from each engine's own model.

    Raises:
        RegistryError: The plan is not there, its bytes differ from their digests, or a member pins no digest.
        DocumentError: It is malformed.
    """
    return pin_reference(ref, LocalStore(default_registry_root(os.environ)))
