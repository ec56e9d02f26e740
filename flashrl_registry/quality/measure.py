"""A plan's whole-model divergence, and the same as evidence."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flashrl_registry.compiler.notes import Checked, notes_of, with_notes
from flashrl_registry.documents import Evidence, Metric, Plan
from flashrl_registry.documents.sensitivity import MeasuredText
from flashrl_registry.errors import ProfilingError
from flashrl_registry.quality.divergence import Divergence, divergence
from flashrl_registry.quality.loaded import device_name, enough_memory, load, measured_text, text_for, versions
from flashrl_registry.quality.treated import treat


@dataclass(frozen=True)
class Quality:
    """What was measured, and on what.

    Attributes:
        divergence: Of the plan against bf16.
        text: The tokens.
        device: Where it ran.
        versions: Releases that took part.
    """

    divergence: Divergence
    text: MeasuredText
    device: str
    versions: dict[str, str]


@enough_memory()
def measure_plan(
    plan: Plan,
    sidecar: Path | None,
    model: str,
    files: Sequence[Path],
    *,
    num_tokens: int = 4096,
    sequence_tokens: int = 512,
    device: str | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Quality:
    """Compare a model under a plan with itself in bf16.

    Args:
        plan: A compiled plan.
        sidecar: Its profile's vectors, where it has a profile.
        model: The bf16 model: a folder, or ``owner/name[@revision]`` on the Hub.
        files: UTF-8 text.
        num_tokens: Tokens in all.
        sequence_tokens: Tokens of a sequence.
        device: torch's name of it; None takes a GPU where there is one.
        progress: Told of each sequence: done, total, what.

    Raises:
        CheckpointError: The model cannot be read.
        ProfilingError: The device cannot be used or is too small, there is no text, a token that the model does
            not know, or the plan is of another model.
    """
    loaded = load(model, device)
    if (ours := loaded.inventory.fingerprint()) != plan.base_model.fingerprint:
        raise ProfilingError(
            f"the plan is for {plan.base_model.name} ({plan.base_model.fingerprint[:19]}), "
            f"the model is {loaded.inventory.name} ({ours[:19]})",
            hint="give the plan's own bf16 model",
        )
    sequences = text_for(loaded, files, num_tokens=num_tokens, sequence_tokens=sequence_tokens)
    treated = treat(loaded, plan, sidecar)
    done = 0

    def step(what: str) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, len(sequences), what)

    found = divergence(loaded, sequences, treated, step)
    return Quality(found, measured_text(sequences), device_name(loaded.device), versions())


def with_measured(plan: Plan, quality: Quality) -> Plan:
    """A plan of ``compile --auto`` whose notes say what was measured of it; any other plan as it is."""
    notes = notes_of(plan)
    if notes is None:
        return plan
    found = quality.divergence
    checked = Checked(
        kl=found.kl,
        kl_standard_error=found.kl_standard_error,
        num_tokens=found.num_tokens,
        text=quality.text.digest,
    )
    return with_notes(plan, notes.model_copy(update={"measured": checked}))


def evidence_of(plan: Plan, quality: Quality) -> Evidence:
    """What was measured as a document that can lie beside the published plan."""
    found = quality.divergence
    return Evidence(
        plan_digest=plan.compute_digest(),
        created_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        what="mismatch",
        device=quality.device,
        versions=quality.versions,
        metrics={
            "kl": Metric(value=found.kl, unit="nat"),
            "kl_standard_error": Metric(value=found.kl_standard_error, unit="nat"),
            "mean_abs_dlogprob": Metric(value=found.mean_abs_dlogprob, unit="nat"),
            "tokens": Metric(value=found.num_tokens, unit="1"),
        },
        method=(
            "KL(bf16 || plan) over the whole vocabulary, by transformers in float32 with weights and inputs quantized "
            f"and multiplied back; {quality.text.num_tokens} tokens of given text in sequences of at most "
            f"{quality.text.sequence_tokens}, token ids {quality.text.digest}"
        ),
    )
