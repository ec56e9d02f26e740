"""One resolution for many processes: a reference that every one of them can check.

``team/plan@stable`` may mean another plan a minute later. The process that meets it first resolves it, and leaves what
it found in its environment: whatever it starts, API servers and engine cores of other replicas among them, takes that
and asks nobody. A launcher that starts processes itself pins with :func:`pin` and hands the result on.
"""

import os
from collections.abc import Iterable, Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path

from flashrl_registry.documents import Lock, read_document
from flashrl_registry.errors import FlashRLError, InvalidRefError
from flashrl_registry.registry import HubFileRef, NamedRef, PlanRef, default_registry_root, open_chain, parse_ref
from flashrl_registry.registry.answering import other_than_asked
from flashrl_registry.registry.locking import LOCK_FILE
from flashrl_registry.registry.ref import is_commit, is_version, with_digest
from flashrl_registry.resolver import lock_behind, lock_in_place, pin_reference
from flashrl_registry.resolver import pin as pinned_ref
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
    stores = open_chain(os.environ)
    locked = lock_in_place(ref, Path(), portable=True)
    if locked is None:
        return pin_reference(ref, stores, asked=_parsed(ref))
    logger.info("%s is %s: %s in the working folder locks it", ref, locked, LOCK_FILE)
    return pin_reference(locked, stores, asked=_parsed(ref))


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
    stores = open_chain(environ)
    _remember_lock(config, environ)
    if (known := _from_parent(config, ref, environ)) is not None:
        _, warnings = pinned_ref(known, stores, asked=_parsed(config))
        logger.info(
            "%s is %s: %s says what the process that started this one, or an engine before this one, resolved it to",
            config, with_digest(known), PINNED,
        )  # fmt: skip
        _log(warnings)
        return known
    pinned, warnings = pinned_ref(ref, stores, asked=_parsed(config))
    _log(warnings)
    text = with_digest(pinned)
    environ[PINNED] = config + _ARROW + text
    logger.info("%s is %s for this process and those that it starts", config, text)
    return pinned


def _remember_lock(config: str, environ: Mapping[str, str]) -> None:
    """Let ``gc`` know of the lock that this job runs by; no engine fails for it."""
    try:
        if (file := lock_behind(config, Path())) is not None:
            from flashrl_registry.registry.keeping import keep_for  # only a job with a lock needs what this loads

            for warning in keep_for(default_registry_root(environ), file, read_document(file, Lock)):
                logger.info("%s", warning)
    except (OSError, FlashRLError) as exc:
        logger.info("gc does not know of the lock that this job runs by: %s", exc)


def _log(warnings: Iterable[str]) -> None:
    for warning in warnings:
        logger.warning("%s", warning)


def _from_parent(config: str, ref: NamedRef | HubFileRef, environ: Mapping[str, str]) -> NamedRef | HubFileRef | None:
    """What another process resolved a reference to; None where none did.

    Whoever can write the variable must not get another plan past the name that was asked for, whose signature may be
    needed: only what this module writes for that name is taken.
    """
    given, arrow, text = environ.get(PINNED, "").rpartition(_ARROW)
    if not arrow or given != config:
        return None
    try:
        known = parse_ref(text)
    except InvalidRefError as exc:
        raise _changed(exc.message) from exc
    if not isinstance(known, NamedRef | HubFileRef) or known.digest is None:
        raise _changed(f"'{text}' pins no published plan by its digest")
    if not _is_exact(known):
        raise _changed(f"'{text}' names neither a version nor a commit")
    if (other := other_than_asked(ref, known)) is not None:
        raise _changed(f"'{text}' is {other}, and '{with_digest(ref)}' cannot mean it")
    return known


def _is_exact(known: NamedRef | HubFileRef) -> bool:
    if isinstance(known, HubFileRef):
        return is_commit(known.revision or "")
    if known.store == "hub":
        return is_commit(known.version or "")
    # A plan that comes with flashrl-registry has a member and no version; its digest is enough.
    return is_version(known.version or "") or (known.version is None and known.member is not None)


def _parsed(config: str) -> PlanRef | None:
    """What was asked for, of a lock too; None for a whole lock, and for another program's way of writing a place."""
    for text in (config, config.partition("#")[2]):
        with suppress(InvalidRefError):
            return parse_ref(text)
    return None


def _changed(why: str) -> InvalidRefError:
    return InvalidRefError(
        f"{PINNED} was changed, or left by another job: {why}", hint=f"unset {PINNED}", context={"variable": PINNED}
    )
