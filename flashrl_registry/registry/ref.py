"""References: what FLASHRL_CONFIG and every command accept, parsed in one place."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from flashrl_registry.documents.patterns import CHANNEL_PATTERN, NAME_PATTERN, VERSION_PATTERN
from flashrl_registry.documents.schemes import SCHEMES, SYNONYMS, SchemeName, canonical_scheme
from flashrl_registry.errors import InvalidRefError

_SEGMENT = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_SELECTOR = r"[A-Za-z0-9][A-Za-z0-9._+/%-]{0,127}"
_NAMED = re.compile(rf"(?P<name>{_SEGMENT}/{_SEGMENT})(?:@(?P<version>{_SELECTOR}))?(?::(?P<member>{_SEGMENT}))?")
_IN_HUB = re.compile(
    rf"(?P<repository>{_SEGMENT}/{_SEGMENT})(?:@(?P<revision>[A-Za-z0-9][A-Za-z0-9._%-]{{0,127}}))?"
    rf"/(?P<path>(?:{_SEGMENT}/)*{_SEGMENT})"
)
_YAML = re.compile(r".*\.ya?ml")
_DIGEST = re.compile(r"sha256[:=][0-9a-f]{64}")
_HF = "hf://"
_STORE = "?store="
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://[^\s?#@]+")  # no credentials, which a reference would carry into logs
_NAME, _VERSION = re.compile(NAME_PATTERN), re.compile(VERSION_PATTERN)
FORMS = (
    "a path to a plan folder or file (./plans/mine, plans/mine/plan.yaml)",
    "namespace/name[@version][#sha256=<64 hex digits>]",
    "the same with a channel or a Hub revision (namespace/name@stable, @main, @<commit>), or with a member of it "
    "(Qwen/Qwen3-8B:int8)",
    "hf://owner/repo[@revision], which asks the Hub and nothing else",
    "owner/repo/path/file.yaml, a file on the Hub",
    "one of the last three, and namespace/name, with ?store=ADDRESS of another Hub (https://) or, without hf://, of a "
    "shared store (s3://)",
    "a scheme name: " + ", ".join((*SCHEMES, *SYNONYMS)),
)


@dataclass(frozen=True)
class PresetRef:
    """A scheme name: a plan is compiled for the engine's own model."""

    scheme: SchemeName

    def __str__(self) -> str:
        return self.scheme


@dataclass(frozen=True)
class PathRef:
    """A plan folder or file."""

    path: Path
    digest: str | None = None

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class NamedRef:
    """A published plan; without a version, the highest one that is not withdrawn.

    Attributes:
        name: ``namespace/name``.
        version: A version, a channel, or on a Hub any revision.
        digest: The plan's digest, where it is pinned.
        member: One plan of several under this name.
        store: ``hub`` asks a Hub and nothing else, ``url`` a shared store; None asks the chain of stores.
        endpoint: Address of it; None for the Hub client's default.
    """

    name: str
    version: str | None = None
    digest: str | None = None
    member: str | None = None
    store: Literal["hub", "url"] | None = None
    endpoint: str | None = None

    def __str__(self) -> str:
        return (
            (_HF if self.store == "hub" else "")
            + self.name
            + (f"@{self.version.replace('/', '%2F')}" if self.version else "")
            + (f":{self.member}" if self.member else "")
            + (f"{_STORE}{self.endpoint}" if self.endpoint else "")
        )


@dataclass(frozen=True)
class HubFileRef:
    """A file in a Hub repository, by FlashRL's rule for where configs are."""

    repository: str
    path: str
    revision: str | None = None
    digest: str | None = None
    endpoint: str | None = None

    def __str__(self) -> str:
        place = f"{self.repository}{f'@{self.revision}' if self.revision else ''}/{self.path}"
        return f"{place}{_STORE}{self.endpoint}" if self.endpoint else place


PlanRef = PresetRef | PathRef | NamedRef | HubFileRef


def with_digest(ref: PathRef | NamedRef | HubFileRef) -> str:
    """A reference with all that pins it; :func:`parse_ref` reads the same from it."""
    return f"{ref}#{ref.digest.replace(':', '=')}" if ref.digest else str(ref)


def is_name(text: str) -> bool:
    """``namespace/name``, as plans are published under."""
    return _NAME.fullmatch(text) is not None


def is_version(text: str) -> bool:
    """A semantic version, as versions of plans are."""
    return _VERSION.fullmatch(text) is not None


def in_order(versions: Sequence[str]) -> list[str]:
    """Versions, lowest first."""
    if len(versions) < 2:
        return list(versions)
    from packaging.version import Version

    return sorted(versions, key=Version)


def is_channel(text: str) -> bool:
    """A name that a channel may have."""
    return re.fullmatch(CHANNEL_PATTERN, text) is not None


def is_commit(text: str) -> bool:
    """A git commit in full."""
    return re.fullmatch(r"[0-9a-f]{40}", text) is not None


def masked(text: str) -> str:
    """A text for messages, without what may be a password or a token in it."""
    text = re.sub(r"//[^/\s]*@", "//...@", text)  # //user:password@host
    text = re.sub(r"^([^/\s:@]+):[^/\s@]+(@|$)", r"\1:...\2", text)  # the same without its //
    text = re.sub(r"^([a-z][a-z0-9+.-]*://)[^/\s@]+$", r"\1...", text)  # what is left of it before an @
    return re.sub(r"\bhf_[A-Za-z0-9]{16,}", "hf_...", text)


def parse_ref(text: str, here: Path | None = Path()) -> PlanRef:
    """Parse a reference.

    ``./`` and endings such as ``.yaml`` mean a path, except that what does not exist here and has the form
    ``owner/repo/path/file.yaml`` is a file on the Hub. What could be both an existing path and a registry name is
    refused: a folder that happens to lie here must not stand in for a published plan.

    Args:
        text: The reference.
        here: Folder whose files count as existing; None takes none for existing. The path of a result stays as it is
            written.

    Raises:
        InvalidRefError: Not a reference; the hint lists the forms.
    """
    text = text.strip()
    if (scheme := canonical_scheme(text)) is not None:
        return PresetRef(scheme)
    place, pinned, digest_text = text.partition("#")
    digest = None
    if pinned:
        if not _DIGEST.fullmatch(digest_text):
            raise _invalid(text, f"'#{digest_text}' is not a digest")
        digest = digest_text.replace("=", ":")
    place, elsewhere, address = place.partition(_STORE)
    if elsewhere:
        return _elsewhere(text, place, address, digest)
    if place.startswith(_HF):
        return _on_the_hub(text, place.removeprefix(_HF), digest)
    if re.match(r"[a-z][a-z0-9+.-]*://", place):
        raise _invalid(text, "an address is no reference by itself; write namespace/name?store=ADDRESS")
    match = _NAMED.fullmatch(place)
    plainly_a_path = place.startswith((".", "/", "~")) or place.endswith((".yaml", ".yml", ".json"))
    exists = bool(place) and here is not None and (here / Path(place).expanduser()).exists()
    if place and (plainly_a_path or exists):
        if match is not None and not plainly_a_path:
            raise InvalidRefError(
                f"'{place}' is a path here and could be a registry name",
                hint=f"write ./{place} for the path, or {place}@VERSION for the published plan",
                context={"ref": text},
            )
        in_hub = _IN_HUB.fullmatch(place)
        if exists or in_hub is None or not _YAML.fullmatch(place):
            return PathRef(Path(place).expanduser(), digest)
        return _file(in_hub, digest)
    if match is None:
        raise _invalid(text, "not an existing path and not a registry name")
    version = _selector(match["version"], text)
    return NamedRef(match["name"], version, digest, match["member"])


def _elsewhere(text: str, place: str, address: str, digest: str | None) -> PlanRef:
    """A reference that names its store; a path that lies here is never meant."""
    if not _ADDRESS.fullmatch(address):
        # Not the address itself: what is wrong with it may be a password.
        raise _invalid(
            f"{place}{_STORE}...", "a store's address is scheme://place without credentials, spaces, '?' or '#'"
        )
    on_a_hub = address.startswith(("https://", "http://"))
    if on_a_hub or place.startswith(_HF):
        if not on_a_hub:
            raise _invalid(text, "hf:// asks a Hub, whose address is https://host")
        return replace(_on_the_hub(text, place.removeprefix(_HF), digest), endpoint=address.rstrip("/"))
    if (match := _NAMED.fullmatch(place)) is None:
        raise _invalid(text, f"'{place}' is no name in a shared store")
    return NamedRef(match["name"], _selector(match["version"], text), digest, match["member"], "url", address)


def _on_the_hub(text: str, place: str, digest: str | None) -> NamedRef | HubFileRef:
    match = _NAMED.fullmatch(place)
    if match is not None and "/" not in (match["version"] or ""):  # hf://owner/repo@revision/path/x.yaml is a file
        return NamedRef(match["name"], _selector(match["version"], text), digest, match["member"], "hub")
    if (match := _IN_HUB.fullmatch(place)) and _YAML.fullmatch(place):
        return _file(match, digest)
    raise _invalid(text, "after hf:// comes owner/repo, @revision or /path/file.yaml (a slash in a revision is %2F)")


def _file(match: re.Match[str], digest: str | None) -> HubFileRef:
    return HubFileRef(match["repository"], match["path"], match["revision"] and unquote(match["revision"]), digest)


def _selector(version: str | None, text: str) -> str | None:
    if version is None:
        return None
    selected = unquote(version)
    # What git itself refuses in a ref, and what a path must not have.
    if ".." in selected or "//" in selected or "%" in selected or selected.endswith(("/", ".", ".lock")):
        raise _invalid(text, f"'@{version}' is neither a version, a channel nor a revision")
    return selected


def _invalid(text: str, why: str) -> InvalidRefError:
    return InvalidRefError(
        f"'{masked(text)}' is not a plan reference: {masked(why)}",
        hint="give one of: " + "; ".join(FORMS),
        context={"ref": masked(text)},
    )
