"""Families of tensor names: ``model.layers.{0..29}.mlp.up_proj.weight``.

A checkpoint has hundreds to tens of thousands of tensors in a dozen families. A family pattern writes each
family once, exactly: ``{a..b}`` is an inclusive range, ``{1,4,6..9}`` a list; several braces mean all combinations.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

MAX_MEMBERS = 250_000
"""Largest family; the largest checkpoints known have about 100,000 tensors."""

_BRACE = re.compile(r"\{([^{}]*)\}")
_ITEM = re.compile(r"(0|[1-9][0-9]{0,6})(?:\.\.(0|[1-9][0-9]{0,6}))?")

Ranges = list[tuple[int, int]]
"""Inclusive ranges, ascending."""


def expand(pattern: str) -> list[str]:
    """All names of a family, first index slowest.

    Raises:
        ValueError: A brace does not hold ascending numbers or ranges, or the family is larger than MAX_MEMBERS.
    """
    literals, braces = _parse(pattern)
    names = [literals[0]]
    for brace, literal in zip(braces, literals[1:], strict=True):
        tails = [f"{index}{literal}" for first, last in brace for index in range(first, last + 1)]
        names = [head + tail for head in names for tail in tails]
    return names


def family_size(pattern: str) -> int:
    """How many names a family has, without making them.

    Raises:
        ValueError: As :func:`expand`.
    """
    return _size(_parse(pattern)[1])


def _parse(pattern: str) -> tuple[list[str], list[Ranges]]:
    pieces = _BRACE.split(pattern)
    literals, braces = pieces[0::2], [_ranges(text, pattern) for text in pieces[1::2]]
    if any("{" in part or "}" in part for part in literals):
        raise ValueError(f"unbalanced brace in {pattern!r}")
    if (size := _size(braces)) > MAX_MEMBERS:
        raise ValueError(f"{pattern!r} means {size} names; the limit is {MAX_MEMBERS}")
    return literals, braces


def _size(braces: list[Ranges]) -> int:
    return math.prod(sum(last - first + 1 for first, last in brace) for brace in braces)


def _ranges(text: str, pattern: str) -> Ranges:
    ranges: Ranges = []
    for item in text.split(","):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise ValueError(f"{{{text}}} in {pattern!r}: write numbers or ranges, as in {{0..29}} or {{0,2,4..6}}")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or (ranges and first <= ranges[-1][1]):
            raise ValueError(f"{{{text}}} in {pattern!r}: numbers must ascend and not repeat")
        ranges.append((first, last))
    return ranges


def factor(names: Iterable[str]) -> list[str]:
    """The fewest patterns, in natural order, that expand to exactly these names.

    A path segment that is a number is an index; everything else is literal.
    """
    templates: dict[tuple[str, ...], list[tuple[int, ...]]] = defaultdict(list)
    for name in names:
        parts = name.split(".")
        template = tuple("{}" if is_index(part) else part for part in parts)
        templates[template].append(tuple(int(part) for part in parts if is_index(part)))
    patterns = []
    for template, indices in templates.items():
        for braces in _boxes(sorted(set(indices))):
            filled = iter(braces)
            patterns.append(".".join(next(filled) if part == "{}" else part for part in template))
    return sorted(patterns, key=natural_key)


def is_index(part: str) -> bool:
    """A path segment that counts something: a number without leading zeros."""
    return part.isascii() and part.isdigit() and (part == "0" or part[0] != "0") and len(part) <= 7


def split_indices(name: str) -> tuple[str, tuple[str, ...]]:
    """A name's shape and its indices: ``a.3.b`` -> ``('a.{}.b', ('3',))``; a family's braces count as an index."""
    parts = name.split(".") if "{" not in name else re.split(r"\.(?![^{}]*\})", name)
    counted = [is_index(part) or (part.startswith("{") and part.endswith("}")) for part in parts]
    shape = ".".join("{}" if index else part for part, index in zip(parts, counted, strict=True))
    return shape, tuple(part for part, index in zip(parts, counted, strict=True) if index)


def join_indices(shape: str, indices: Iterable[str]) -> str:
    """Inverse of :func:`split_indices`; ``shape`` has as many places as there are indices."""
    filled = iter(indices)
    return ".".join(next(filled) if part == "{}" else part for part in shape.split("."))


def _boxes(tuples: list[tuple[int, ...]]) -> Iterator[tuple[str, ...]]:
    """Split index tuples into products of index sets; each tuple lies in exactly one product."""
    if not tuples or not tuples[0]:
        yield ()
        return
    rest_of: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for first, *rest in tuples:
        rest_of[first].append(tuple(rest))
    firsts_of: dict[tuple[tuple[int, ...], ...], list[int]] = defaultdict(list)
    for index, rests in rest_of.items():
        firsts_of[tuple(rests)].append(index)
    for shared, firsts in firsts_of.items():
        for box in _boxes(list(shared)):
            yield (_brace(sorted(firsts)), *box)


def _brace(indices: list[int]) -> str:
    if len(indices) == 1:
        return str(indices[0])
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs]
    return "{" + ",".join(texts) + "}"


def first_repeated(names: Iterable[str]) -> str | None:
    """The first name that occurred before; None where all differ."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key under which layer 9 comes before layer 10."""
    # [0-9] and a limit on length: str.isdigit() is true of superscripts, and int() refuses thousands of digits.
    parts = (part for part in re.split(r"([0-9]{1,18})", name) if part)
    key = [(0, int(part), "") if part.isascii() and part.isdigit() else (1, 0, part) for part in parts]
    return (*key, (-1, 0, name))  # the name itself decides between 0 and 00, so an order is never a matter of input
