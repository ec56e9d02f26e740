"""Which heat maps a report has, and the numbers in them."""

import math
from collections.abc import Callable

from flashrl_registry.documents import LinearFacts
from flashrl_registry.report.facts import Facts, Scores
from flashrl_registry.report.heat import Measure, Value, heat_map
from flashrl_registry.report.names import Place
from flashrl_registry.report.text import percent, significant

_OF_LINEARS: tuple[tuple[Measure, Callable[[LinearFacts], float | None]], ...] = (
    (
        Measure("equal", "Codes equal", "Share of codes that requantizing reproduces, in %; below 100 means ties or "
                "another rounding.", percent, good=1.0, bad=0.9, low_is_bad=True),
        lambda facts: facts.codes_equal,
    ),
    (
        Measure("dtype", "Codes equal in dtype", "The same share, in %, where each step is rounded to the reference's "
                "dtype.", percent, good=1.0, bad=0.9, low_is_bad=True),
        lambda facts: facts.codes_equal_in_dtype,
    ),
    (
        Measure("residual-rms", "Residual rms", "Unrounded residual: in int8 codes about 0.29 for rounding to nearest, "
                "above 0.37 for GPTQ.", lambda number: f"{number:.3f}", good=0.27, bad=0.4),
        lambda facts: facts.residual_rms,
    ),
    (
        Measure("clip-rate", "Clip rate", "Weights outside the code range under the checkpoint's scales, in %; it "
                "grows as weights move.", lambda number: significant(100 * number), good=0.0, bad=0.001),
        lambda facts: facts.clip_rate,
    ),
    (
        Measure("headroom", "Headroom", "Largest code's value over the row's largest weight, median of rows; below 1 "
                "the row clips.", lambda number: f"{number:.3f}", low_is_bad=True, bad=0.95),
        lambda facts: facts.headroom,
    ),
    (
        Measure("sqnr", "SQNR", "Signal to quantization noise of the weight, in dB; for drift, it ranks no scheme.",
                lambda number: f"{number:.1f}", low_is_bad=True, good=50.0, bad=20.0),
        lambda facts: facts.sqnr_db,
    ),
)  # fmt: skip


def heat_maps(facts: Facts) -> list[tuple[str, str, str, str]]:
    """Key, title, explanation and drawing of every map that there are numbers for."""
    found = [(measure, _values(facts, read)) for measure, read in _OF_LINEARS]
    if facts.sensitivity is not None:
        found = [*found, *_of_groups(facts.sensitivity)]
    return [(m.key, m.title, m.about, heat_map(m, values)) for m, values in found if values]


def _values(facts: Facts, read: Callable[[LinearFacts], float | None]) -> list[Value]:
    values = []
    for linear in facts.linears:
        number = read(linear.facts)
        if number is not None and math.isfinite(number):
            values.append(Value(Place(linear.layer, linear.projection), linear.facts.name, number))
    return values


def _of_groups(scores: Scores) -> list[tuple[Measure, list[Value]]]:
    """A map of shares per scheme, and one of what makes 8-bit inputs lose precision."""
    found = []
    for scheme in scores.schemes:
        about = (
            f"Share of all groups' scores under {scheme.scheme}, in %, on a logarithmic scale: how much of the "
            "model's output it costs there."
        )
        measure = Measure(f"score-{scheme.scheme}", f"Score, {scheme.scheme}", about, _share, decades=True)
        values = [
            Value(Place(group.layer, group.projection), group.module, group.scores[scheme.scheme].share)
            for group in scores.groups
            if scheme.scheme in group.scores
        ]
        found.append((measure, values))
    about = "Largest input over the inputs' root mean square, mean over tokens; outliers cost 8-bit inputs precision."
    peak = Measure("peak", "Input peak / rms", about, lambda number: f"{number:.1f}", good=0.0)
    found.append((peak, [Value(Place(g.layer, g.projection), g.module, g.peak_over_rms) for g in scores.groups]))
    return found


def _share(number: float) -> str:
    return significant(100 * number)
