"""Everything that a report says, as data: the page is drawn from this, and the JSON file is this."""

from typing import Literal

from flashrl_registry.compiler.notes import Notes, Point
from flashrl_registry.documents import BaseModelInfo, Frozen, LinearFacts, QuantizedCheckpoint, Sidecar, SmoothingGroup
from flashrl_registry.documents.sensitivity import MeasuredScheme, MeasuredText, NotScored


class Linear(Frozen):
    """One quantized linear."""

    layer: int | None
    """First index in its name."""
    projection: str
    """The rest of the name."""
    facts: LinearFacts
    """As the profile has them."""
    treatment: str | None = None
    """What the plan does to it; None without a plan."""


class GroupScore(Frozen):
    """One group under one scheme."""

    score: float
    """As the sensitivity document has it."""
    share: float
    """Of all groups' scores under the scheme."""
    output_error: float
    """Norm of the output's error over the output's."""


class Group(Frozen):
    """Linears that have one format."""

    module: str
    """The engine's module."""
    layer: int | None
    """First index in its name."""
    projection: str
    """The rest of the name."""
    tensors: list[str]
    """Its weights."""
    num_weights: int
    """Elements in them."""
    peak_over_rms: float
    """Mean over tokens of the largest input over the inputs' root mean square."""
    scores: dict[str, GroupScore]
    """By scheme."""
    chosen: str | None = None
    """Format that ``compile --auto`` chose; None where a person did."""


class Scores(Frozen):
    """What sensitivity measured."""

    digest: str
    """Of the document."""
    text: MeasuredText
    """What the model read."""
    device: str
    """Where it ran."""
    versions: dict[str, str]
    """Releases that took part."""
    schemes: list[MeasuredScheme]
    """The whole model under each scheme."""
    groups: list[Group]
    """In natural order."""
    not_scored: list[NotScored]
    """Every other linear."""


class PlanFacts(Frozen):
    """The plan that was given."""

    digest: str
    """Its identity."""
    description: str
    """For people."""
    model: str
    """Name of the model that it was compiled for."""
    profile: str | None
    """Digest of the profile that it was compiled with."""
    treatments: dict[str, int]
    """Tensors per treatment."""
    notes: Notes | None
    """What ``compile --auto`` said of it."""


class Front(Frozen):
    """Pareto front: bits against predicted KL."""

    origin: Literal["plan", "sensitivity"]
    """The plan's own notes, or computed from the scores."""
    device: str | None
    """Device whose formats were allowed; None where the notes do not say."""
    points: list[Point]
    """Ascending in bits."""


class Summary(Frozen):
    """The first numbers that people ask for."""

    num_linears: int
    """Quantized linears."""
    num_all_codes_equal: int
    """Linears whose codes are all equal to the checkpoint's."""
    least_codes_equal: float | None
    """The worst share of equal codes."""
    largest_clip_rate: float | None
    """The worst clip rate."""
    least_headroom: float | None
    """The smallest headroom, where it was measured."""
    rounding: dict[str, int]
    """Linears per rounding class."""
    num_smoothing: int
    """Factors that were folded."""
    tensors: dict[str, int]
    """Tensors per role."""


class Facts(Frozen):
    """A whole report."""

    report: Literal[1] = 1
    """Version of this form."""
    written_by: str
    """Release that gathered it."""
    profile: str
    """Digest of the profile."""
    scheme: str
    """What the quantized checkpoint's codes are."""
    reference: BaseModelInfo
    """The bf16 checkpoint."""
    quantized: QuantizedCheckpoint
    """The low-bit checkpoint."""
    sidecar: Sidecar
    """The profile's vectors."""
    no_frozen_scales: str | None
    """Why a plan cannot keep the checkpoint's scales, or None."""
    summary: Summary
    """The first numbers."""
    linears: list[Linear]
    """Every quantized linear, in natural order."""
    smoothing: list[SmoothingGroup]
    """Every factor, in natural order of the sources."""
    sensitivity: Scores | None = None
    """Where scores were given."""
    plan: PlanFacts | None = None
    """Where a plan was given."""
    front: Front | None = None
    """Where scores, or a plan of ``compile --auto``, were given."""
