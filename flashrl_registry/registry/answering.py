"""Whether what is pinned is what was asked for: one rule for locks and for ``FLASHRL_PINNED``.

Whoever can write a lock or the variable must not get another plan past a reference: not one of another name, whose
signature nobody would ask for, and none that contradicts a version, a commit, a digest, a member or a store in it.
"""

from flashrl_registry.registry.ref import HubFileRef, NamedRef, PathRef, PlanRef, is_commit, is_version

Found = PathRef | NamedRef | HubFileRef


def other_than_asked(asked: PlanRef, found: Found, version: str | None = None) -> str | None:
    """What a pinned plan is, where a reference cannot mean it.

    Args:
        asked: The reference; its path is spelled as that of ``found`` would be.
        found: What is said to be its plan.
        version: Which version the commit of ``found`` is said to be.

    Returns:
        Such as "a plan of another name"; None where nothing contradicts the reference.
    """
    if isinstance(asked, PathRef) and isinstance(found, PathRef):
        other = "another path" if asked.path != found.path else None
    elif isinstance(asked, HubFileRef) and isinstance(found, HubFileRef):
        other = _other_file(asked, found)
    elif isinstance(asked, NamedRef) and isinstance(found, NamedRef):
        other = _other_name(asked, found) or other_version(asked, found, version)
    else:
        return _kind_of(found)
    return other or ("a plan of another digest" if asked.digest not in {None, found.digest} else None)


def other_version(asked: PlanRef | None, found: Found, version: str | None) -> str | None:
    """The same for the version alone.

    Args:
        asked: The reference; None asks for no version.
        found: What is said to be its plan.
        version: Which version the commit of ``found`` is; None where that is not known.
    """
    if not isinstance(asked, NamedRef) or not isinstance(found, NamedRef) or asked.version is None:
        return None
    if found.version is None:
        return "a plan without versions"
    if is_commit(asked.version):
        return "another commit" if found.version != asked.version else None
    number = asked.version.removeprefix("v")  # the tag of a version on a Hub
    actual = version if found.store == "hub" else found.version
    return "another version" if is_version(number) and actual not in {None, number} else None


def _other_file(asked: HubFileRef, found: HubFileRef) -> str | None:
    if (asked.repository, asked.path) != (found.repository, found.path):
        return "another file"
    if not _same_address(asked.endpoint, found.endpoint):
        return "a file on another Hub"
    return "another commit" if is_commit(asked.revision or "") and asked.revision != found.revision else None


def _other_name(asked: NamedRef, found: NamedRef) -> str | None:
    if asked.name != found.name:
        return "a plan of another name"
    if asked.member != found.member:
        return "another member"
    if asked.store not in {None, found.store} or not _same_address(asked.endpoint, found.endpoint):
        return "a plan in another store"
    return None


def _same_address(asked: str | None, found: str | None) -> bool:
    return asked is None or asked.rstrip("/") == (found or "").rstrip("/")


def _kind_of(found: Found) -> str:
    if isinstance(found, PathRef):
        return "a path"
    return "a file in a Hub repository" if isinstance(found, HubFileRef) else "a published plan"
