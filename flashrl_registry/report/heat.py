"""Heat maps: layer by projection, each cell with its number, so that no one needs to read a colour."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from flashrl_registry.report.names import Place, columns, layers, wrapped
from flashrl_registry.report.svg import FAINT, PAGE, drawing, element

_COLORS = "viridis"
_MOST_NUMBERS = 4000
_ROW_INCHES = 0.235
_WIDTH_INCHES = 11.6
_FOOTER_INCHES = 0.62
_LINE_INCHES = 0.135
_LETTERS = 165  # of a column label fit into the whole width
_LEGEND_STEPS = 32
_DECADES = 3
_PALE = 0.45


@dataclass(frozen=True)
class Measure:
    """What a map shows.

    Attributes:
        key: Short, for ids.
        title: On the tab.
        about: What the number is and which are good, in a sentence or two.
        text: A value for people.
        good: Value at the dark end; None takes the data's own.
        bad: Value at the bright end; it moves where the data go further.
        decades: The scale is logarithmic, over three decades below the worst.
    """

    key: str
    title: str
    about: str
    text: Callable[[float], str]
    good: float | None = None
    bad: float | None = None
    low_is_bad: bool = False
    decades: bool = False


@dataclass(frozen=True)
class Value:
    """One number and where it belongs."""

    place: Place
    name: str
    number: float


def heat_map(measure: Measure, values: Sequence[Value]) -> str:
    """Draw a map; where several values have one place, as experts do, it shows the worst of them."""
    cells = _worst(measure, values)
    rows, cols = layers(cells), columns(cells)
    good, bad = _ends(measure, [value.number for value, _ in cells.values()])
    hints = {}
    with drawing():
        labels = [wrapped(name, int(_LETTERS / len(cols))) for name in cols]
        header = 0.2 + _LINE_INCHES * max(label.count("\n") + 1 for label in labels)
        height = _ROW_INCHES * len(rows) + header + _FOOTER_INCHES
        figure = Figure(figsize=(_WIDTH_INCHES, height))
        axes = figure.add_axes((0.055, _FOOTER_INCHES / height, 0.935, (_ROW_INCHES * len(rows)) / height))
        for place, (value, count) in cells.items():
            x, y = cols.index(place.projection), rows.index(place.layer)
            shade = _shade(measure, value.number, good, bad)
            key = f"cell{y}-{x}"
            color = colormaps[_COLORS](shade)
            axes.add_patch(Rectangle((x, y), 1, 1, facecolor=color, edgecolor=PAGE, linewidth=0.8, gid=key))
            hints[key] = f"{value.name}: {measure.text(value.number)}" + (f", worst of {count}" if count > 1 else "")
            if len(cells) <= _MOST_NUMBERS:
                ink = "#000000" if shade > _PALE else "#ffffff"
                axes.text(x + 0.5, y + 0.53, measure.text(value.number), color=ink, ha="center", va="center", size=7.5)
        axes.set(xlim=(0, len(cols)), ylim=(len(rows), 0))
        axes.set_xticks([x + 0.5 for x in range(len(cols))], labels, size=8)
        axes.set_yticks([y + 0.5 for y in range(len(rows))], ["-" if row is None else str(row) for row in rows], size=8)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_ylabel("layer")
        _legend(figure, height, measure, good, bad)
        worst = max(cells.values(), key=lambda cell: _shade(measure, cell[0].number, good, bad))[0]
        about = f"{measure.about} Worst: {worst.name}, {measure.text(worst.number)}."
        return element(figure, f"map-{measure.key}", f"{measure.title} by layer and projection", about, hints)


def _worst(measure: Measure, values: Sequence[Value]) -> dict[Place, tuple[Value, int]]:
    found: dict[Place, tuple[Value, int]] = {}
    for value in values:
        before, count = found.get(value.place, (value, 0))
        worse = value.number < before.number if measure.low_is_bad else value.number > before.number
        found[value.place] = (value if worse else before, count + 1)
    return found


def _ends(measure: Measure, numbers: Sequence[float]) -> tuple[float, float]:
    """Values at the dark and the bright end; fixed where they mean something, so that noise stays dark."""
    low, high = min(numbers), max(numbers)
    if measure.decades:
        return high / 10**_DECADES, high
    if measure.low_is_bad:
        return (high if measure.good is None else measure.good), min(low, low if measure.bad is None else measure.bad)
    return (low if measure.good is None else measure.good), max(high, high if measure.bad is None else measure.bad)


def _shade(measure: Measure, number: float, good: float, bad: float) -> float:
    if measure.decades:
        if number <= 0 or bad <= 0:
            return 0.0
        return min(max(1 + math.log10(number / bad) / _DECADES, 0.0), 1.0)
    return 0.0 if good == bad else min(max((number - good) / (bad - good), 0.0), 1.0)


def _legend(figure: Figure, height: float, measure: Measure, good: float, bad: float) -> None:
    axes = figure.add_axes((0.055, 0.3 / height, 0.25, 0.13 / height))
    for step in range(_LEGEND_STEPS):
        color = colormaps[_COLORS](step / (_LEGEND_STEPS - 1))
        axes.add_patch(Rectangle((step, 0), 1.05, 1, facecolor=color, edgecolor="none"))
    axes.set(xlim=(0, _LEGEND_STEPS), ylim=(0, 1), yticks=[])
    least = f"{measure.text(good)} or less" if measure.decades else measure.text(good)
    axes.set_xticks([0, _LEGEND_STEPS], [least, measure.text(bad)], size=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.text(_LEGEND_STEPS + 1, 0.5, "brighter is worse", color=FAINT, va="center", size=8)
