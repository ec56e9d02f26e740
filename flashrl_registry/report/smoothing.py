"""The graph of smoothing groups: what was scaled, what takes the factor back, and how far it reaches."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from flashrl_registry.documents import SmoothingGroup
from flashrl_registry.report.names import Place, columns, layers, places, wrapped
from flashrl_registry.report.svg import FAINT, INK, LINE, SERIES, drawing, element

_MOST_KINDS = 12
_WIDTH_INCHES = 11.6
_TARGET_INCHES = 0.34
_LEAST_INCHES = 1.55
_LETTERS = 26  # of a name in one line of a box
_BARS = 180  # in points, of all bars together: gaps stay between them


@dataclass(frozen=True)
class Relation:
    """Groups of one form, over layers and experts.

    Attributes:
        source: Projection of the sources.
        kind: ``norm`` or ``linear``.
        targets: Projections of the targets.
        not_applicable: Why no plan can apply it, or None.
        groups: Layer and group.
    """

    source: str
    kind: str
    targets: tuple[str, ...]
    not_applicable: str | None
    groups: tuple[tuple[int | None, SmoothingGroup], ...]


def relations(groups: Iterable[SmoothingGroup]) -> list[Relation]:
    """Bring groups of one form together, those with the most members first."""
    groups = list(groups)
    place = places(name for group in groups for name in (group.source, *group.targets))
    found: dict[tuple[str, str, tuple[str, ...], str | None], list[tuple[int | None, SmoothingGroup]]] = {}
    for group in groups:
        targets = tuple(columns(place[name] for name in group.targets))
        key = place[group.source].projection, group.kind, targets, group.not_applicable
        found.setdefault(key, []).append((place[group.source].layer, group))
    made = [Relation(*key, tuple(members)) for key, members in found.items()]
    return sorted(made, key=lambda relation: -len(relation.groups))


def graph(groups: Sequence[SmoothingGroup]) -> str:
    """Draw source and targets on the left, and the factor's range in each layer on the right."""
    every = relations(groups)
    shown = every[:_MOST_KINDS]
    heights = [max(_LEAST_INCHES, _TARGET_INCHES * len(relation.targets) + 0.6) for relation in shown]
    rows = layers(Place(layer, "") for relation in shown for layer, _ in relation.groups)
    with drawing():
        figure = Figure(figsize=(_WIDTH_INCHES, sum(heights) + 0.35))
        grid = figure.add_gridspec(
            len(shown), 2, width_ratios=(1.35, 1), height_ratios=heights, left=0.005, right=0.985,
            top=0.99, bottom=0.45 / (sum(heights) + 0.35), hspace=0.28, wspace=0.16,
        )  # fmt: skip
        for index, relation in enumerate(shown):
            _boxes(figure.add_subplot(grid[index, 0]), relation)
            axes = figure.add_subplot(grid[index, 1])
            _ranges(axes, relation, rows)
            if index == len(shown) - 1:
                axes.set_xlabel("layer")
        text = "; ".join(f"{r.source} feeds {', '.join(r.targets)} ({len(r.groups)} groups)" for r in every)
        return element(figure, "smoothing", "Smoothing groups", text + ".")


def _boxes(axes: Any, relation: Relation) -> None:
    """A box for the source, a box per target, a line to each."""
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.axis("off")
    dash = (0, (4, 3)) if relation.not_applicable else "solid"
    frame = {"boxstyle": "round,pad=0.45", "facecolor": "none", "linewidth": 1.1}
    count = len(relation.targets)
    for index, target in enumerate(relation.targets):
        y = 1 - (index + 0.5) / count
        axes.plot([0.36, 0.53], [0.5, y], color=FAINT, linewidth=1.1, linestyle=dash, solid_capstyle="butt")
        axes.text(0.545, y, wrapped(target, _LETTERS), va="center", size=9, bbox={**frame, "edgecolor": SERIES[1]})
    axes.text(
        0.35,
        0.5,
        wrapped(relation.source, _LETTERS),
        ha="right",
        va="center",
        size=9,
        bbox={**frame, "edgecolor": SERIES[0]},
    )
    what = f"{relation.kind}, {len(relation.groups)} " + ("group" if len(relation.groups) == 1 else "groups")
    note = f"{what}; plans cannot apply it" if relation.not_applicable else what
    axes.text(0.35, 0.1, note, ha="right", va="center", size=8, color=FAINT)


def _ranges(axes: Any, relation: Relation, rows: Sequence[int | None]) -> None:
    """A bar per layer from the smallest to the largest factor; of experts, over all of them."""
    least: dict[int | None, float] = {}
    most: dict[int | None, float] = {}
    for layer, group in relation.groups:
        least[layer] = min(group.smallest, least.get(layer, group.smallest))
        most[layer] = max(group.largest, most.get(layer, group.largest))
    xs = [rows.index(layer) for layer in least]
    axes.vlines(xs, list(least.values()), list(most.values()), color=SERIES[0], linewidth=min(3.0, _BARS / len(rows)))
    axes.axhline(1, color=INK, linewidth=0.7)
    if min(least.values()) > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set(ylabel="factor", xlim=(-0.7, len(rows) - 0.3))
    shown = range(0, len(rows), max(1, len(rows) // 10))
    axes.set_xticks(list(shown), ["-" if rows[x] is None else str(rows[x]) for x in shown], size=8)
    axes.grid(axis="y", color=LINE)
