"""The other plots: clipping and headroom over layers, residuals, and the Pareto front."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flashrl_registry.report.facts import Front, Linear, Scores
from flashrl_registry.report.names import Place, columns, layers
from flashrl_registry.report.svg import INK, SERIES, drawing, element

_MARKERS = "os^DvPX*"
_WIDTH_INCHES = 11.6
_ROUNDINGS = ("nearest", "gptq", "unclear", "not measured")
_MOST_TICKS = 40
_LEGEND_COLUMNS = 4
_LEAST_TOP = 0.01  # of the clip rate in %, where nothing clips


def clipping(linears: Sequence[Linear]) -> str:
    """Clip rate, and headroom where it was measured: one mark per place, for the worst of its experts."""
    place = {linear.facts.name: Place(linear.layer, linear.projection) for linear in linears}
    cols, rows = columns(place.values()), layers(place.values())
    clipped: dict[Place, float] = {}
    headroom: dict[Place, float] = {}
    for linear in linears:
        at, facts = place[linear.facts.name], linear.facts
        clipped[at] = max(100 * facts.clip_rate, clipped.get(at, 0.0))
        if facts.headroom is not None:
            headroom[at] = min(facts.headroom, headroom.get(at, facts.headroom))
    with drawing():
        figure = Figure(figsize=(_WIDTH_INCHES, 5.4))
        upper, lower = figure.subplots(2, 1, sharex=True)
        for axes, numbers in ((upper, clipped), (lower, headroom)):
            for index, column in enumerate(cols):
                mine = {rows.index(at.layer): number for at, number in numbers.items() if at.projection == column}
                axes.plot(list(mine), list(mine.values()), label=column if axes is upper else None, **_style(index))
            axes.grid(axis="y")
        top = max(1.1 * max(clipped.values()), _LEAST_TOP)
        upper.set(ylabel="weights clipped, %", ylim=(-0.04 * top, top))
        lower.set(ylabel="headroom", xlabel="layer")
        lower.axhline(1, color=INK, linewidth=0.8)
        _layer_ticks(lower, rows)
        lines = -(-len(cols) // _LEGEND_COLUMNS)
        figure.legend(loc="upper center", ncols=min(len(cols), _LEGEND_COLUMNS), fontsize=8, bbox_to_anchor=(0.5, 1.0))
        figure.subplots_adjust(left=0.075, right=0.985, top=0.98 - 0.045 * lines, bottom=0.09, hspace=0.12)
        worst = max(linears, key=lambda linear: linear.facts.clip_rate)
        text = f"Most clipped: {worst.facts.name}, {100 * worst.facts.clip_rate:.4f} % of its weights."
        return element(figure, "clip", "Clip rate and headroom by layer", text)


def residuals(linears: Sequence[Linear], *, is_int8: bool) -> str:
    """How the rounding residuals of linears are spread, by class."""
    classes = {kind: [x.facts.residual_rms for x in linears if _kind(x) == kind] for kind in _ROUNDINGS}
    classes = {kind: numbers for kind, numbers in classes.items() if numbers}
    most = max(0.45, *(max(numbers) for numbers in classes.values()))
    with drawing():
        figure = Figure(figsize=(_WIDTH_INCHES, 2.7))
        axes = figure.add_axes((0.075, 0.19, 0.91, 0.74))
        edges = [most * index / 60 for index in range(61)]
        colors = [SERIES[_ROUNDINGS.index(kind)] for kind in classes]
        labels = [f"{kind}: {len(numbers)}" for kind, numbers in classes.items()]
        axes.hist(list(classes.values()), bins=edges, stacked=True, color=colors, label=labels)
        if is_int8:
            for at, what in ((0.289, "rounded to nearest"), (0.37, "above: GPTQ")):
                axes.axvline(at, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
                axes.annotate(what, (at, 1), xycoords=("data", "axes fraction"), xytext=(4, -9),
                              textcoords="offset points", size=8, color=INK)  # fmt: skip
        axes.set(xlabel="residual rms, in codes" if is_int8 else "residual rms, in distances of neighbouring numbers",
                 ylabel="linears", xlim=(0, most))  # fmt: skip
        axes.set_ylim(top=1.2 * axes.get_ylim()[1])  # room for the words beside the lines
        axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid(axis="y")
        axes.legend(loc="upper left", fontsize=8)
        text = "; ".join(f"{len(numbers)} linears {kind}" for kind, numbers in classes.items())
        return element(figure, "residual", "Rounding residuals", text + ".")


def pareto(front: Front, scores: Scores | None, measured: tuple[float, float, float] | None) -> str:
    """Bits per weight against KL.

    Args:
        front: The points.
        scores: Where they were given, the whole model's KL under each scheme is drawn too.
        measured: Bits, KL and its standard error of the plan, where it was measured.
    """
    hints: dict[str, str] = {}
    with drawing():
        figure = Figure(figsize=(_WIDTH_INCHES, 4.2))
        axes = figure.add_axes((0.075, 0.125, 0.91, 0.84))
        bits = [point.avg_bits for point in front.points]
        kls = [point.predicted_kl for point in front.points]
        axes.plot(bits, kls, color=SERIES[0], marker="o", markersize=5, linewidth=1.2, label="front, predicted")
        for index, point in enumerate(front.points):
            key = f"point{index}"
            axes.plot([point.avg_bits], [point.predicted_kl], "o", color=SERIES[0], markersize=6, gid=key)
            hints[key] = (
                f"{point.avg_bits:.3f} bits, {100 * point.bf16_share:.1f} % in bf16, {point.predicted_kl:.5f} nat"
            )
        for point in front.points:
            if point.chosen:
                axes.plot([point.avg_bits], [point.predicted_kl], "*", color=SERIES[1], markersize=15,
                          label="this plan, predicted")  # fmt: skip
        if measured is not None:
            axes.errorbar([measured[0]], [measured[1]], yerr=[measured[2]], fmt="D", color=SERIES[1], capsize=3,
                          label="this plan, measured")  # fmt: skip
        for index, scheme in enumerate(scores.schemes if scores is not None else ()):
            style = _style(index + 2)
            axes.errorbar([8], [scheme.kl], yerr=[scheme.kl_standard_error], fmt=style["marker"], capsize=3,
                          color=style["color"], label=f"all {scheme.scheme}, measured")  # fmt: skip
        axes.set(xlabel="bits per weight of all linears, scales left out", ylabel="KL to bf16, nat")
        axes.set_ylim(bottom=-0.02 * axes.get_ylim()[1])
        axes.grid()
        axes.legend(fontsize=8)
        first, last = front.points[0], front.points[-1]
        text = (
            f"From {first.avg_bits:.2f} bits with {first.predicted_kl:.4f} nat to {last.avg_bits:.2f} bits with "
            f"{last.predicted_kl:.4f} nat, in {len(front.points)} points."
        )
        return element(figure, "front", "Pareto front: bits per weight against KL", text, hints)


def _kind(linear: Linear) -> str:
    return linear.facts.rounding or "not measured"


def _style(index: int) -> dict[str, Any]:
    """Colour and shape, so that neither is needed alone."""
    return {
        "color": SERIES[index % len(SERIES)],
        "marker": _MARKERS[(index + index // len(SERIES)) % len(_MARKERS)],
        "markersize": 4.5,
        "linestyle": "none",
    }


def _layer_ticks(axes: Any, rows: Sequence[int | None]) -> None:
    step = len(rows) // _MOST_TICKS + 1
    shown = range(0, len(rows), step)
    axes.set_xticks(list(shown), ["-" if rows[x] is None else str(rows[x]) for x in shown], size=8)
    axes.set_xlim(-0.6, len(rows) - 0.4)
