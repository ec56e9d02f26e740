"""Text and a model to a Sensitivity: scores per fused group and scheme, and each scheme on the whole model."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flashrl_registry.compiler import compile_plan
from flashrl_registry.compiler.checks import takes_scheme
from flashrl_registry.compiler.groups import fused_groups
from flashrl_registry.compiler.modules import module_of
from flashrl_registry.documents import Plan, Profile, Rule, Rules, SchemeName, base_model_info
from flashrl_registry.documents.names import factor
from flashrl_registry.documents.sensitivity import (
    SCORED_SCHEMES,
    MeasuredScheme,
    NotScored,
    SchemeScore,
    ScoredGroup,
    ScoredScheme,
    Sensitivity,
)
from flashrl_registry.errors import ProfilingError
from flashrl_registry.quality.divergence import Divergence, Step, divergence
from flashrl_registry.quality.loaded import (
    Loaded,
    device_name,
    enough_memory,
    load,
    measured_text,
    text_for,
    versions,
)
from flashrl_registry.quality.scores import Sums, gradient_scores
from flashrl_registry.quality.treated import smoothed, treat
from flashrl_registry.registry import read_profile

_DIGITS = 6


@dataclass(frozen=True)
class _Group:
    """Linears that have one format.

    Attributes:
        names: Their weights.
        modules: Modules of transformers' model that hold them.
    """

    names: list[str]
    modules: tuple[str, ...]


@enough_memory()
def measure_sensitivity(
    model: str,
    files: Sequence[Path],
    *,
    profile: Path | None = None,
    schemes: Sequence[ScoredScheme] | None = None,
    num_tokens: int = 2048,
    sequence_tokens: int = 512,
    device: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Sensitivity:
    """Score every fused group of a model under every scheme.

    Args:
        model: The bf16 model: a folder, or ``owner/name[@revision]`` on the Hub.
        files: UTF-8 text; like what the model will write is best.
        profile: A profile of this model, whose smoothing ``int8`` has.
        schemes: Schemes to score; None means all that some linear can take, ``int8`` only where there is a profile.
        num_tokens: Tokens in all.
        sequence_tokens: Tokens of a sequence.
        device: torch's name of it; None takes a GPU where there is one.
        progress: Told of each pass over a sequence: done, total, what.

    Returns:
        The sealed document.

    Raises:
        CheckpointError: The model cannot be read.
        ProfilingError: The device cannot be used or is too small, there is no text, a token that the model does
            not know, no profile for ``int8``, or no linear that can take a scheme that was named.
        CompileError: The profile is of another model.
    """
    asked = schemes or [scheme for scheme in SCORED_SCHEMES if scheme != "int8" or profile is not None]
    if "int8" in asked and profile is None:
        raise ProfilingError("int8 is scored with a profile's smoothing, and none was given", hint="say int8_plain")
    smoothing, sidecar = read_profile(profile) if profile is not None and "int8" in asked else (None, None)
    loaded = load(model, device)
    sequences = text_for(loaded, files, num_tokens=num_tokens, sequence_tokens=sequence_tokens)
    groups = {module: _Group(names, _modules(loaded, names)) for module, names in fused_groups(loaded.places).items()}
    wanted = [s for s in asked if schemes or any(_takes(loaded, group, s) for group in groups.values())]
    plans = {scheme: _plan(loaded, groups, scheme, smoothing) for scheme in wanted}
    passes = len(sequences) * (len(wanted) + len([run for run in _runs(wanted) if run]))
    step = _counter(progress, passes)
    sums: dict[ScoredScheme, dict[str, Sums]] = {}
    for run in _runs(wanted):
        if run:
            overrides = smoothed(loaded, plans["int8"], sidecar) if run == ("int8",) else None
            of_modules = _per_module(loaded, groups, run)
            scored = gradient_scores(loaded, sequences, of_modules, overrides=overrides, step=step)
            sums |= dict.fromkeys(run, scored)
    document = Sensitivity(
        reference=base_model_info(loaded.inventory),
        profile=smoothing.compute_digest() if smoothing is not None else None,
        text=measured_text(sequences),
        device=device_name(loaded.device),
        versions=versions(),
        schemes=[
            _whole(scheme, divergence(loaded, sequences, treat(loaded, plan, sidecar), step))
            for scheme, plan in plans.items()
        ],
        groups=[_scored(loaded, module, group, sums) for module, group in groups.items()],
        not_scored=_not_scored(loaded),
    )
    return document.model_copy(update={"digest": document.compute_digest()})


def _runs(wanted: Sequence[ScoredScheme]) -> tuple[tuple[ScoredScheme, ...], ...]:
    """Schemes that are scored in one pass: those of the model itself, and those of the smoothed one."""
    return tuple(s for s in wanted if s != "int8"), tuple(s for s in wanted if s == "int8")


def _counter(progress: Callable[[int, int, str], None] | None, total: int) -> Step:
    done = 0

    def step(what: str) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total, what)

    return step


def _name(scheme: ScoredScheme) -> SchemeName:
    """The scheme of rules."""
    return "int8" if scheme == "int8_plain" else scheme


def _modules(loaded: Loaded, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(loaded.places[name].module for name in names))


def _takes(loaded: Loaded, group: _Group, scheme: ScoredScheme) -> bool:
    return all(takes_scheme(loaded.specs[name], _name(scheme)) for name in group.names)


def _plan(loaded: Loaded, groups: dict[str, _Group], scheme: ScoredScheme, profile: Profile | None) -> Plan:
    """Every group that can take the scheme, and nothing else."""
    low = {module_of(n) for group in groups.values() if _takes(loaded, group, scheme) for n in group.names}
    rest = {module for tensor in loaded.inventory.tensors if (module := module_of(tensor.name)) not in low}
    if not low:
        raise ProfilingError(f"no linear of {loaded.inventory.name} can take {scheme}", hint="leave it out")
    rules = [Rule(name="scored", scheme=_name(scheme), targets=factor(low))]
    if rest:
        rules.append(Rule(name="rest", scheme="bf16", targets=factor(rest)))
    return compile_plan(Rules(rules=rules), loaded.inventory, profile if scheme == "int8" else None).plan


def _per_module(
    loaded: Loaded, groups: dict[str, _Group], run: Sequence[ScoredScheme]
) -> dict[str, tuple[SchemeName, ...]]:
    return {
        module: tuple(_name(scheme) for scheme in run if _takes(loaded, group, scheme))
        for group in groups.values()
        for module in group.modules
    }


def _whole(scheme: ScoredScheme, found: Divergence) -> MeasuredScheme:
    return MeasuredScheme(
        scheme=scheme,
        kl=_rounded(found.kl),
        kl_standard_error=_rounded(found.kl_standard_error),
        mean_abs_dlogprob=_rounded(found.mean_abs_dlogprob),
    )


def _scored(loaded: Loaded, module: str, group: _Group, sums: dict[ScoredScheme, dict[str, Sums]]) -> ScoredGroup:
    scores = []
    for scheme, of_module in sums.items():
        if _takes(loaded, group, scheme):
            parts = [of_module[name] for name in group.modules]
            error = sum(part.errors[_name(scheme)] for part in parts) / max(sum(part.power for part in parts), 1e-300)
            score = sum(part.scores[_name(scheme)] for part in parts)
            scores.append(SchemeScore(scheme=scheme, score=_rounded(score), output_error=_rounded(error**0.5)))
    first = next(iter(sums.values()))[group.modules[0]]
    return ScoredGroup(
        module=module,
        tensors=factor(group.names),
        num_weights=sum(math.prod(loaded.specs[name].shape) for name in group.names),
        peak_over_rms=_rounded(first.peaks / max(first.num_tokens, 1)),
        scores=scores,
    )


def _not_scored(loaded: Loaded) -> list[NotScored]:
    reasons: dict[str, list[str]] = {}
    for name, reason in loaded.lost.items():
        reasons.setdefault(reason, []).append(name)
    return [NotScored(names=names, reason=reason) for reason, lost in reasons.items() for names in factor(lost)]


def _rounded(value: float) -> float:
    """Six digits: the rest is noise, and people compare documents."""
    return float(f"{value:.{_DIGITS}g}")
