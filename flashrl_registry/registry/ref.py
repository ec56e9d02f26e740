"""References: what FLASHRL_CONFIG and every command accept, parsed in one place."""

import re
from dataclasses import dataclass
from pathlib import Path

from flashrl_registry.documents import SCHEMES, SYNONYMS, SchemeName, canonical_scheme
from flashrl_registry.errors import InvalidRefError

_SEGMENT = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_NAMED = re.compile(
    rf"(?P<name>{_SEGMENT}/{_SEGMENT})(?:@(?P<version>[A-Za-z0-9][A-Za-z0-9.+-]{{0,63}}))?"
    r"(?:#(?P<digest>sha256[:=][0-9a-f]{64}))?"
)
FORMS = (
    "a path to a plan folder or file (./plans/mine, plans/mine/plan.yaml)",
    "namespace/name[@version][#sha256=<64 hex digits>]",
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
    """A published plan; without a version, the highest one."""

    name: str
    version: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        return self.name + (f"@{self.version}" if self.version else "")


PlanRef = PresetRef | PathRef | NamedRef


def parse_ref(text: str) -> PlanRef:
    """Parse a reference.

    ``./`` and endings such as ``.yaml`` always mean a path. What could be both an existing path and a registry name
    is refused: a folder that happens to lie here must not stand in for a published plan.

    Raises:
        InvalidRefError: Not a reference; the hint lists the forms.
    """
    text = text.strip()
    if (scheme := canonical_scheme(text)) is not None:
        return PresetRef(scheme)
    path_text, pinned, digest_text = text.partition("#")
    digest = None
    if pinned:
        if not re.fullmatch(r"sha256[:=][0-9a-f]{64}", digest_text):
            raise _invalid(text, f"'#{digest_text}' is not a digest")
        digest = digest_text.replace("=", ":")
    match = _NAMED.fullmatch(text)
    plainly_a_path = path_text.startswith((".", "/", "~")) or path_text.endswith((".yaml", ".yml", ".json"))
    if path_text and (plainly_a_path or Path(path_text).exists()):
        if match is not None and not plainly_a_path:
            raise InvalidRefError(
                f"'{path_text}' is a path here and could be a registry name",
                hint=f"write ./{path_text} for the path, or {path_text}@VERSION for the published plan",
                context={"ref": text},
            )
        return PathRef(Path(path_text).expanduser(), digest)
    if match is None:
        raise _invalid(text, "not an existing path and not a registry name")
    return NamedRef(match["name"], match["version"], digest)


def _invalid(text: str, why: str) -> InvalidRefError:
    return InvalidRefError(
        f"'{text}' is not a plan reference: {why}", hint="give one of: " + "; ".join(FORMS), context={"ref": text}
    )
