"""The page that visitors of a plan's repository see, written from the plan at every push."""

import re

from flashrl_registry.compiler import checkpoint_bytes, tensor_bytes, weight_bytes
from flashrl_registry.compiler.devices import devices_of
from flashrl_registry.documents import History, Plan, PublishEvent
from flashrl_registry.documents.names import family_size
from flashrl_registry.documents.yaml_writer import dump_text
from flashrl_registry.registry.evidence import evidence_of, numbers_of, versions_of
from flashrl_registry.registry.hybrids import HybridPlans
from flashrl_registry.registry.ref import is_name
from flashrl_registry.registry.standing import standing_of

TAG = "flashrl-plan"
LIBRARY = "flashrl"
_SHOWN_EVIDENCE, _CELL = 20, 160


def tags_of(published: Plan | HybridPlans, version: str, state: str = "") -> list[str]:
    """Tags by which the Hub finds a plan: ``list_models(filter=[...])`` takes all of them together.

    Args:
        published: What it is.
        version: Of it.
        state: Channels that point at it, and what was said against it; see :meth:`Standing.state`.
    """
    plans = list(published.plans.values()) if isinstance(published, HybridPlans) else [published]
    plan, digest = plans[0], _digest(published)
    devices = devices_of([[(family.names, family.treatment) for family in each.tensors] for each in plans])
    schemes = sorted({rule.shown_scheme().replace(" ", "_") for each in plans for rule in each.rules})
    return [
        TAG,
        "flashrl-schema-1",
        *(f"scheme:{scheme}" for scheme in schemes),
        *(f"device:{device}" for device in devices),
        f"arch:{plan.base_model.architecture}",
        f"model:{plan.base_model.name}",
        f"vllm:{plan.engine.vllm}",
        f"plan-version:{version}",
        f"plan-digest:{digest}",
        *(f"plan-state:{word}" for word in state.split()),
    ]


def _digest(published: Plan | HybridPlans) -> str | None:
    return published.hybrid.compute_digest() if isinstance(published, HybridPlans) else published.digest


def card(published: Plan | HybridPlans, name: str, version: str, history: History) -> str:
    """README.md of a repository, about the version that its name without one means."""
    tags = tags_of(published, version, standing_of(history).state(version))
    metadata: dict[str, object] = {"library_name": LIBRARY, "tags": tags}
    plan = published.first if isinstance(published, HybridPlans) else published
    if is_name(plan.base_model.name):
        # A link to the model's page. No base_model_relation: a plan is not weights, and would be listed among them.
        metadata["base_model"] = plan.base_model.name
    return f"---\n{dump_text(metadata)}---\n{_body(published, plan, name, version, history)}"


def _body(published: Plan | HybridPlans, plan: Plan, name: str, version: str, history: History) -> str:
    is_hybrid = isinstance(published, HybridPlans)
    about = published.hybrid.description if isinstance(published, HybridPlans) else plan.description
    what = "Plans for different replicas of one job" if is_hybrid else "A plan"
    lines = [
        f"# {name}",
        "",
        about or f"{what} for 8-bit rollouts of `{plan.base_model.name}` inside vLLM.",
        "",
        "```console",
        f"$ FLASHRL_CONFIG=hf://{name}@{version} python train.py",
        "```",
        "",
        "| | |",
        "|---|---|",
        f"| version | {version} |",
        f"| model | `{plan.base_model.name}` ({plan.base_model.architecture}, {plan.base_model.num_tensors} tensors) |",
        f"| engine | vLLM `{plan.engine.vllm}` |",
        *(_members(published, name) if isinstance(published, HybridPlans) else _one_plan(published)),
        "",
        *_measured(history, version, _digest(published)),
        *_state(history),
        *_others(history, version),
        "`plan.yaml` is for people, `plan.json` holds the digested bytes, `manifest.json` hashes every file and "
        "`history.json` keeps who published and moved what. Versions are the tags `v1.2.3` and never change; "
        "`flashrl-registry` checks that. This page is generated.",
        "",
    ]
    return "\n".join(lines)


def _one_plan(plan: Plan) -> list[str]:
    return [
        f"| weights in the engine | {_weights(plan)} (predicted) |",
        f"| profile | {'measured, its vectors are in this repository' if plan.profile else 'none needed'} |",
        f"| digest | `{plan.digest}` |",
        "",
        "| treatment | tensors | checkpoint | engine |",
        "|---|---:|---:|---:|",
        *_treatments(plan),
    ]


def _members(published: HybridPlans, name: str) -> list[str]:
    lines = [
        f"| digest | `{_digest(published)}` |",
        "",
        f"Replicas take the members in turn; `hf://{name}:MEMBER` is one of them.",
        "",
        "| member | replicas in a row | weights in the engine (predicted) | digest |",
        "|---|---:|---|---|",
    ]
    for member in published.hybrid.members:
        plan = published.plans.get(member.name)
        facts = f"{_weights(plan)} | `{plan.digest}`" if plan else f"`{member.plan}`, made for the engine's model |"
        lines.append(f"| `{member.name}` | {member.weight} | {facts} |")
    return lines


def _weights(plan: Plan) -> str:
    before, after = checkpoint_bytes(plan), weight_bytes(plan)
    return f"{after / 1e9:.2f} GB, {after / before:.0%} of the bf16 checkpoint"


def _treatments(plan: Plan) -> list[str]:
    totals: dict[str, list[int]] = {}
    for family in plan.tensors:
        total = totals.setdefault(family.treatment, [0, 0, 0])
        members = family_size(family.names)
        total[0] += members
        total[1] += members * tensor_bytes(family.shape, family.dtype)
        total[2] += members * tensor_bytes(family.shape, family.dtype, family.treatment)
    return [
        f"| `{treatment}` | {count} | {before / 1e6:.1f} MB | {after / 1e6:.1f} MB |"
        for treatment, (count, before, after) in sorted(totals.items())
    ]


def _measured(history: History, version: str, digest: str | None) -> list[str]:
    """What was measured of the version that the page shows."""
    found = evidence_of(history, version, digest or "")
    if not found:
        return []
    rows = [
        (e.evidence.what, e.evidence.device, versions_of(e.evidence), numbers_of(e.evidence), e.evidence.method,
         f"{e.by}, {e.evidence.created_at[:10]}")
        for e in found[-_SHOWN_EVIDENCE:]
    ]  # fmt: skip
    more = len(found) - len(rows)
    return [
        f"Measured evidence of {version}, bound to its digest:",
        "",
        "| what | device | with | numbers | method | by |",
        "|---|---|---|---|---|---|",
        *(f"| {' | '.join(map(_cell, row))} |" for row in rows),
        *([f"\n{more} older in `history.json`."] if more else []),
        "",
    ]


def _cell(text: str) -> str:
    line = _line(text)
    return _text(line if len(line) <= _CELL else line[: _CELL - 3] + "...")


def _line(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _text(line: str) -> str:
    """What somebody wrote, as text: nothing in it is Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>()#|~!&])", r"\\\1", _line(line))


def _others(history: History, version: str) -> list[str]:
    """Whose files a visitor sees beside the page, where they are another version's."""
    published = [event.version for event in history.events if isinstance(event, PublishEvent)]
    if not published or published[-1] == version:
        return []
    return [f"The files beside this page are those of {published[-1]}, which was published last.", ""]


def _state(history: History) -> list[str]:
    standing = standing_of(history)
    lines = []
    if standing.channels:
        lines += ["| channel | version |", "|---|---|"]
        lines += [f"| `{channel}` | {version} |" for channel, version in sorted(standing.channels.items())]
        lines.append("")
    warnings = [line for version in sorted(standing.notices) for line in standing.warnings(history.name, version)]
    lines += [f"> {_text(line)}\n" for line in warnings]
    return lines
