"""Which tool wrote a file: told from its content, not from its name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from flashrl_registry.documents import claimed_kind
from flashrl_registry.documents.findings import describe
from flashrl_registry.documents.io import read_text
from flashrl_registry.documents.strict_yaml import Parsed, parse_text
from flashrl_registry.errors import InteropError
from flashrl_registry.interop.compressed_tensors import find_config
from flashrl_registry.interop.flashrl_config import looks_like_config
from flashrl_registry.interop.llm_compressor import is_recipe

SourceKind = Literal["flashrl", "flashrl-profile", "compressed-tensors", "llm-compressor"]
"""``flashrl``: a flashrl_config.yaml. ``flashrl-profile``: a profile.pt. ``compressed-tensors``: a config.json with a
quantization_config, or that alone. ``llm-compressor``: a recipe."""

SOURCE_KINDS: tuple[SourceKind, ...] = get_args(SourceKind)

# A mixture of experts lists tens of thousands of modules under ignore.
_MAX_BYTES, _MAX_NODES = 64 << 20, 5_000_000
_KEYS_SHOWN = 6
# torch.save writes a zip archive, and before 2020 a bare pickle.
_PICKLES = (b"PK\x03\x04", b"\x80\x02")


@dataclass(frozen=True)
class Source:
    """A file and what it is.

    Attributes:
        path: The file; config.json where a folder was given.
        kind: Who wrote it.
        parsed: Its content with places; None for a profile.pt.
    """

    path: Path
    kind: SourceKind
    parsed: Parsed | None


def detect(path: Path, kind: SourceKind | None = None) -> Source:
    """Read a file and tell what it is.

    Args:
        path: The file, or a checkpoint folder.
        kind: What it is, if the content should not decide.

    Raises:
        InteropError: Of no known kind.
        ParseError: Not YAML or JSON, or YAML that the strict door refuses.
    """
    file = path / "config.json" if path.is_dir() else path
    if kind == "flashrl-profile" or (kind is None and _starts_as_pickle(file)):
        return Source(file, "flashrl-profile", None)
    text = read_text(file)
    parsed = parse_text(text, str(file), max_bytes=_MAX_BYTES, max_nodes=_MAX_NODES)
    if kind is None:
        kind = _kind_of(parsed)
    if kind is None:
        ours = claimed_kind(text)
        if not ours and _is_unquantized(parsed.data):
            raise InteropError(
                f"{file} is the config of a {parsed.data['model_type']} checkpoint that is not quantized: "
                "it has no quantization_config",
                hint=f"make a plan of it: flashrl-registry compile -m {file.parent} --scheme int8 -o DIR",
            )
        what = f"is a {ours} document of this project" if ours else _what(parsed.data)
        raise InteropError(f"{file} {what}", hint="kinds are " + ", ".join(SOURCE_KINDS) + "; --format names one")
    return Source(file, kind, parsed)


def _starts_as_pickle(file: Path) -> bool:
    try:
        with file.open("rb") as handle:
            return handle.read(4).startswith(_PICKLES)
    except OSError:
        return False  # reading it as text says what is wrong


def _kind_of(parsed: Parsed) -> SourceKind | None:
    if looks_like_config(parsed):
        return "flashrl"
    if find_config(parsed.data) is not None:
        return "compressed-tensors"
    return "llm-compressor" if is_recipe(parsed.data) else None


def _what(data: Any) -> str:
    """What a file that cannot be imported seems to be."""
    if data is None or data == {}:
        return "is empty"
    if not isinstance(data, dict):
        return f"holds {describe(data)}, which is of no kind that can be imported"
    keys = ", ".join(list(data)[:_KEYS_SHOWN])
    more = f" and {len(data) - _KEYS_SHOWN} more" if len(data) > _KEYS_SHOWN else ""
    return f"is of no kind that can be imported: a map of {keys}{more}"


def _is_unquantized(data: Any) -> bool:
    """Whether it is the config.json of a checkpoint; called where no quantization_config was found."""
    return isinstance(data, dict) and {"architectures", "model_type"} <= set(data)
