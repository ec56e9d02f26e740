"""Diagnostics as people read them: thirty layers with one fault are one line, with the place of the rule."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from flashrl_registry.documents.names import factor, family_size
from flashrl_registry.errors import Diagnostic

_SHOWN = 3


def diagnostic_lines(diagnostics: Sequence[Diagnostic], places: Mapping[str, str] | None = None) -> list[str]:
    """One line for each group of diagnostics that differ only in the tensor, in the order of the first of them.

    Args:
        diagnostics: One per rule or tensor.
        places: Rule name to ``file:line:col``; a line about such a rule begins with it.
    """
    alike: dict[Diagnostic, list[str]] = defaultdict(list)
    for diagnostic in diagnostics:
        alike[replace(diagnostic, where="")].append(diagnostic.where)
    lines = []
    for diagnostic, names in alike.items():
        text = str(replace(diagnostic, where=shown_names(names)))
        place = (places or {}).get(diagnostic.rule or "")
        lines.append(f"{place}: {text}" if place else text)
    return lines


def shown_names(names: Sequence[str]) -> str:
    """The first families of some names, and how many there are."""
    if len(names) == 1:
        return names[0]
    families = factor(dict.fromkeys(names))
    shown = ", ".join(families[:_SHOWN])
    rest = sum(family_size(family) for family in families[_SHOWN:])
    return f"{shown} and {rest} more" if rest else shown
