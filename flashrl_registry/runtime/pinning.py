"""One resolution for many processes: a reference that every one of them can check.

``team/plan@stable`` may mean another plan a minute later. The process that meets it first resolves it, and leaves what
it found in its environment: whatever it starts, API servers and engine cores of other replicas among them, takes that
and asks nobody. A launcher that starts processes itself pins with :func:`pin` and hands the result on.
"""

import os
from collections.abc import Mapping, MutableMapping

from flashrl_registry.errors import InvalidRefError
from flashrl_registry.registry import HubFileRef, NamedRef, PlanRef, open_chain, parse_ref
from flashrl_registry.registry.ref import with_digest
from flashrl_registry.resolver import pin as pinned_ref
from flashrl_registry.resolver import pin_reference
from flashrl_registry.runtime.log import logger

PINNED = "FLASHRL_PINNED"
"""``<FLASHRL_CONFIG> -> <pinned reference>``; written by the process that resolved, for those that it starts."""
_ARROW = " -> "


def pin(ref: str) -> str:
    """Resolve a plan once and return a reference that only this plan answers to.

    A driver hands it to its workers, whichever machine they run on, as their ``FLASHRL_CONFIG``; an engine that finds
    another plan under it, because the folder was compiled again or a node has another copy, does not start.

    Args:
        ref: What FLASHRL_CONFIG accepts: a path, ``namespace/name[@version]``, a place on a Hub, or a hybrid document,
            whose members must pin their digests.

    Returns:
        ``/absolute/path#sha256=...``, ``namespace/name@version#sha256=...`` or ``hf://owner/repo@commit#sha256=...``;
        a Hub other than the public one is in it as ``?store=https://...``, so a worker asks the same.
        A scheme name is returned as it is: its plan is compiled from each engine's own model.

    Raises:
        RegistryError: The plan is not there, its bytes differ from their digests, or a member pins no digest.
        DocumentError: It is malformed.
    """
    return pin_reference(ref, open_chain(os.environ))


def pin_for_children(config: str, ref: PlanRef, environ: MutableMapping[str, str]) -> PlanRef:
    """Resolve a published plan, unless the process that started this one did.

    Args:
        config: The value of FLASHRL_CONFIG.
        ref: What it was parsed to.
        environ: This process's environment, which its children inherit.

    Returns:
        A reference that does not move; ``ref`` itself where it names no published plan.

    Raises:
        RegistryError: The plan is not there, or its bytes differ from their digests.
    """
    if not isinstance(ref, NamedRef | HubFileRef):
        return ref
    if (known := _from_parent(config, environ)) is not None:
        return known
    pinned, warnings = pinned_ref(ref, open_chain(environ))
    for warning in warnings:
        logger.warning("%s", warning)
    text = with_digest(pinned)
    environ[PINNED] = config + _ARROW + text
    logger.info("%s is %s for this process and those that it starts", config, text)
    return pinned


def _from_parent(config: str, environ: Mapping[str, str]) -> PlanRef | None:
    given, arrow, text = environ.get(PINNED, "").rpartition(_ARROW)
    if not arrow or given != config:
        return None
    try:
        return parse_ref(text)
    except InvalidRefError as exc:
        raise InvalidRefError(f"{PINNED} was changed: {exc.message}", hint=f"unset {PINNED}") from exc
