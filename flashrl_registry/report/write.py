"""Documents in, files out."""

from dataclasses import dataclass
from pathlib import Path

from flashrl_registry.documents import Plan, Profile, Sensitivity, write_atomically
from flashrl_registry.report.facts import Facts
from flashrl_registry.report.gather import gather
from flashrl_registry.report.page import render


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        facts: What the report says.
        num_bytes: Size of the page.
    """

    facts: Facts
    num_bytes: int


def write_report(
    profile: Profile,
    destination: Path,
    *,
    sensitivity: Sensitivity | None = None,
    plan: Plan | None = None,
    facts_file: Path | None = None,
    device: str = "cuda",
) -> Written:
    """Write the page, and the facts where a file is named; each file is whole or not there.

    Args:
        profile: Of the checkpoint pair.
        destination: The HTML file.
        sensitivity: Scores of the same model.
        plan: A plan for the same model.
        facts_file: The JSON file.
        device: Device whose formats the Pareto front may use.

    Raises:
        DocumentError: The documents are of different models.
        MissingDependencyError: SciPy is not installed, and the front has to be computed.
        OSError: A file cannot be written.
    """
    facts = gather(profile, sensitivity=sensitivity, plan=plan, device=device)
    page = render(facts).encode()
    if facts_file is not None:
        write_atomically(facts_file, (facts.model_dump_json(indent=1) + "\n").encode())
    write_atomically(destination, page)
    return Written(facts, len(page))
