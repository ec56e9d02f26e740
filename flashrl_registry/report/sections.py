"""What each part of the page says."""

from dataclasses import dataclass
from html import escape

from flashrl_registry.report import figures, smoothing
from flashrl_registry.report.facts import Facts, Front, Linear, PlanFacts, Scores
from flashrl_registry.report.maps import heat_maps
from flashrl_registry.report.text import NONE, figure, folded, number, pairs, percent, significant, table, tabs

_WORST = 15
_MOST_ROWS = 600


@dataclass(frozen=True)
class Section:
    """One part.

    Attributes:
        key: Its address within the page.
        title: Its heading.
        content: HTML.
    """

    key: str
    title: str
    content: str


def sections(facts: Facts) -> list[Section]:
    """All parts that there is something to say in."""
    found = [Section("summary", "Summary", _summary(facts))]
    if facts.linears:
        panels = [(key, title, figure(drawing, about)) for key, title, about, drawing in heat_maps(facts)]
        found += [
            Section("maps", "Layer by projection", tabs(panels)),
            Section("worst", "Worst linears", _worst(facts)),
            Section("clipping", "Clipping", _clipping(facts)),
            Section("rounding", "Rounding", _rounding(facts)),
        ]
    found.append(Section("smoothing", "Smoothing", _smoothing(facts)))
    if facts.sensitivity is not None:
        found.append(Section("sensitivity", "Sensitivity", _sensitivity(facts.sensitivity)))
    if facts.front is not None:
        found.append(Section("front", "Bits against KL", _front(facts, facts.front)))
    if facts.plan is not None:
        found.append(Section("plan", "Plan", _plan(facts.plan)))
    found.append(Section("provenance", "Provenance", _provenance(facts)))
    return found


def _summary(facts: Facts) -> str:
    summary = facts.summary
    least = NONE if summary.least_codes_equal is None else f"{percent(summary.least_codes_equal)} %"
    most = NONE if summary.largest_clip_rate is None else f"{significant(100 * summary.largest_clip_rate)} %"
    entries = [
        ("Quantized linears", f"{summary.num_linears:,}"),
        ("All codes equal", f"{summary.num_all_codes_equal:,} of {summary.num_linears:,}"),
        ("Fewest codes equal", least),
        ("Most clipped", most),
        ("Least headroom", number(summary.least_headroom, 3)),
        ("Rounding", ", ".join(f"{count:,} {kind}" for kind, count in summary.rounding.items()) or NONE),
        ("Smoothing factors", f"{summary.num_smoothing:,}"),
        ("Tensors", ", ".join(f"{count:,} {role}" for role, count in summary.tensors.items())),
    ]
    entries += [
        (f"KL, all {s.scheme}", f"{s.kl:.4f} nat") for s in (facts.sensitivity.schemes if facts.sensitivity else ())
    ]
    limits = []
    if facts.no_frozen_scales is not None:
        limits.append(f"Plans cannot keep these scales (scales: frozen): {facts.no_frozen_scales}.")
    if unused := [group for group in facts.smoothing if group.not_applicable]:
        limits.append(f"Plans cannot apply {len(unused)} factors yet: {unused[0].not_applicable}.")
    notes = "".join(f'<p class="note">{escape(limit)}</p>' for limit in limits)
    return f'<div class="cards">{pairs(entries)}</div>{notes}'


def _worst(facts: Facts) -> str:
    header = ["Linear", "Rounding", "Codes equal %", "In dtype %", "Largest difference", "Residual rms", "Clipped %",
              "Headroom", "SQNR dB"]  # fmt: skip
    if facts.plan is not None:
        header.insert(1, "Plan")
    ranked = sorted(facts.linears, key=lambda linear: (linear.facts.codes_equal, -linear.facts.clip_rate))[:_WORST]
    rows = [_linear_row(linear, with_plan=facts.plan is not None) for linear in ranked]
    words = 3 if facts.plan is not None else 2
    parts = [table(f"Fewest codes equal: {len(rows)} of {len(facts.linears)} linears", header, rows, words=words)]
    if facts.sensitivity is not None:
        parts.insert(0, _most_sensitive(facts.sensitivity))
    every = [_linear_row(linear, with_plan=facts.plan is not None) for linear in facts.linears[:_MOST_ROWS]]
    more = "" if len(every) == len(facts.linears) else f"; the first {len(every)}, the JSON file has all"
    parts.append(folded(f"All {len(facts.linears)} linears{more}", table("All linears", header, every, words=words)))
    return "\n".join(parts)


def _linear_row(linear: Linear, *, with_plan: bool) -> list[str]:
    facts = linear.facts
    row = [
        facts.name, facts.rounding or NONE,
        percent(facts.codes_equal),
        NONE if facts.codes_equal_in_dtype is None else percent(facts.codes_equal_in_dtype),
        str(facts.largest_difference),
        number(facts.residual_rms, 3), significant(100 * facts.clip_rate), number(facts.headroom, 3),
        number(facts.sqnr_db, 1),
    ]  # fmt: skip
    return [row[0], linear.treatment or NONE, *row[1:]] if with_plan else row


def _most_sensitive(scores: Scores) -> str:
    """Ranked by the first scheme that was measured; every scheme has a column."""
    schemes = [entry.scheme for entry in scores.schemes]
    ranked = sorted(
        scores.groups, key=lambda g: g.scores[schemes[0]].share if schemes[0] in g.scores else -1.0, reverse=True
    )[:_WORST]
    chosen = any(group.chosen for group in scores.groups)
    rows = [
        [
            group.module,
            *([group.chosen or NONE] if chosen else []),
            *(significant(100 * group.scores[s].share) if s in group.scores else NONE for s in schemes),
            f"{group.peak_over_rms:.1f}",
            f"{group.num_weights:,}",
        ]
        for group in ranked
    ]
    header = ["Group", *(["Chosen"] if chosen else []), *(f"{s}, share %" for s in schemes), "Peak / rms", "Weights"]
    caption = f"Most sensitive to {schemes[0]}: {len(rows)} of {len(scores.groups)} groups"
    return table(caption, header, rows, words=2 if chosen else 1)


def _clipping(facts: Facts) -> str:
    about = "Clip rate under the checkpoint's scales, and how far weights can grow before they clip: below 1 they do."
    return figure(figures.clipping(facts.linears), about)


def _rounding(facts: Facts) -> str:
    counts = table(
        "Rounding classes", ["Class", "Linears", "Share %"],
        [(kind, n, f"{100 * n / facts.summary.num_linears:.1f}") for kind, n in facts.summary.rounding.items()],
    )  # fmt: skip
    about = "Residual of each linear before rounding: uniform noise has 1/sqrt(12), about 0.289 of a code."
    return counts + figure(figures.residuals(facts.linears, is_int8=facts.quantized.weights.type == "int"), about)


def _smoothing(facts: Facts) -> str:
    if not facts.smoothing:
        return "<p>No factor was folded into this checkpoint.</p>"
    about = (
        "Blue: output channels that were multiplied by the factor. Orange: linears whose input columns it is divided "
        "out of. Right: its smallest and largest value in each layer."
    )
    rows = [
        (group.source, ", ".join(group.targets), group.kind, f"{group.smallest:.4g}", f"{group.largest:.4g}",
         group.num_zero_channels, NONE if group.num_dead_channels is None else group.num_dead_channels)
        for group in facts.smoothing[:_MOST_ROWS]
    ]  # fmt: skip
    header = ["Source", "Targets", "Kind", "Smallest", "Largest", "Zero channels", "Dead channels"]
    more = "" if len(rows) == len(facts.smoothing) else f"; the first {len(rows)}, the JSON file has all"
    every = table("All smoothing groups", header, rows, words=3)
    return figure(smoothing.graph(facts.smoothing), about) + folded(f"All {len(facts.smoothing)} groups{more}", every)


def _sensitivity(scores: Scores) -> str:
    rows = [
        (s.scheme, f"{s.kl:.5f}", f"{s.kl_standard_error:.5f}", f"{s.mean_abs_dlogprob:.5f}") for s in scores.schemes
    ]
    text = f"{scores.text.num_tokens:,} tokens in sequences of at most {scores.text.sequence_tokens}"
    whole = table(
        f"The whole model under one scheme, against bf16, on {text}",
        ["Scheme", "KL, nat", "Standard error", "Mean |Δlogprob|"],
        rows,
    )
    missing = "".join(
        f'<p class="note">Not scored: {escape(entry.names)}: {escape(entry.reason)}</p>' for entry in scores.not_scored
    )
    return whole + missing


def _front(facts: Facts, front: Front) -> str:
    notes = facts.plan.notes if facts.plan is not None else None
    measured = None
    if notes is not None and notes.measured is not None:
        own = next((point.avg_bits for point in front.points if point.chosen), None)
        if own is not None:
            measured = own, notes.measured.kl, notes.measured.kl_standard_error
    about = (
        "The least predicted KL for each number of bits; predictions add up over groups, so measure the plan itself."
    )
    if front.origin == "sensitivity":
        about += f" Computed from the scores, with formats that run on {front.device}."
    rows = [
        (f"{p.avg_bits:.3f}", f"{100 * p.bf16_share:.1f}", f"{p.predicted_kl:.5f}", "this plan" if p.chosen else "")
        for p in front.points
    ]
    points = table("Points of the front", ["Bits per weight", "In bf16 %", "Predicted KL, nat", ""], rows, words=0)
    return figure(figures.pareto(front, facts.sensitivity, measured), about) + folded(f"{len(rows)} points", points)


def _plan(plan: PlanFacts) -> str:
    entries = [("Digest", plan.digest), ("Compiled for", plan.model), ("Profile", plan.profile or "none: no smoothing")]
    if plan.description:
        entries.append(("Description", plan.description))
    if plan.notes is not None:
        entries += [("Budget", plan.notes.budget), ("Predicted KL", f"{plan.notes.predicted_kl:.5f} nat")]
        if plan.notes.measured is not None:
            entries.append(("Measured KL", f"{plan.notes.measured.kl:.5f} nat"))
    rows = list(plan.treatments.items())
    return pairs(entries) + table("Tensors by treatment", ["Treatment", "Tensors"], rows)


def _provenance(facts: Facts) -> str:
    weights, inputs = facts.quantized.weights, facts.quantized.input_activations
    entries = [
        ("Profile", facts.profile),
        ("Scheme", facts.scheme),
        ("Reference", f"{facts.reference.name} ({facts.reference.architecture}, {facts.reference.model_type})"),
        ("Reference's structure", facts.reference.fingerprint),
        ("Reference's tensors", str(facts.reference.num_tensors)),
        ("Quantized checkpoint", facts.quantized.name),
        ("Format", facts.quantized.format),
        ("Weights", weights.model_dump_json(exclude_none=True)),
        ("Inputs", "not quantized" if inputs is None else inputs.model_dump_json(exclude_none=True)),
        ("Vectors", f"{facts.sidecar.digest}, {facts.sidecar.num_bytes:,} bytes"),
    ]
    if (scores := facts.sensitivity) is not None:
        entries += [
            ("Sensitivity", scores.digest),
            ("Text", f"{scores.text.digest}, {scores.text.num_tokens:,} tokens"),
            ("Device", scores.device),
            ("Versions", ", ".join(f"{name} {version}" for name, version in sorted(scores.versions.items()))),
        ]
    if facts.plan is not None:
        entries.append(("Plan", facts.plan.digest))
    entries.append(("Written by", facts.written_by))
    return pairs(entries)
