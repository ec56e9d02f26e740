"""What a plan can choose for each group of linears, what each choice costs, and which choices go together."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from flashrl_registry.compiler.checks import members
from flashrl_registry.compiler.devices import device_faults
from flashrl_registry.compiler.groups import fused_groups
from flashrl_registry.compiler.presets import default_linears
from flashrl_registry.documents import Inventory, Profile, ScoredGroup, Sensitivity, TensorSpec
from flashrl_registry.documents.names import expand
from flashrl_registry.documents.plan import Treatment
from flashrl_registry.documents.sensitivity import ScoredScheme
from flashrl_registry.documents.tensors import ELEMENT_BYTES

Format = ScoredScheme | Literal["bf16"]


@dataclass(frozen=True)
class Option:
    """One format of one group.

    Attributes:
        module: The group.
        format: ``bf16``, or a scored scheme.
        num_bytes: Of the group's weights or codes. Scales are left out: their few bytes would decide between 8-bit
            formats that differ in what matters.
        kl: What it adds to the predicted KL; 0 for bf16.
    """

    module: str
    format: Format
    num_bytes: int
    kl: float

    @property
    def is_int8(self) -> bool:
        """Smoothed or not, the same scheme of a rule."""
        return self.format in {"int8", "int8_plain"}


@dataclass(frozen=True)
class Problem:
    """Choose one option per group.

    Attributes:
        options: Per group, bf16 among them.
        tensors: Weights of each group.
        num_weights: Elements of each group.
        smoothed_with: Group to the groups that share its smoothing: ``int8`` is smoothed where all of them are int8,
            and ``int8_plain`` is what it is where they are not.
        fixed_bytes: Bytes of linears that stay in bf16 whatever is chosen.
        fixed_weights: Their elements.
    """

    options: dict[str, list[Option]]
    tensors: dict[str, list[str]]
    num_weights: dict[str, int]
    smoothed_with: dict[str, frozenset[str]]
    fixed_bytes: int
    fixed_weights: int

    @property
    def total_weights(self) -> int:
        """Elements of all linears."""
        return self.fixed_weights + sum(self.num_weights.values())


def make_problem(
    inventory: Inventory,
    sensitivity: Sensitivity,
    profile: Profile | None,
    *,
    device: str,
    schemes: Sequence[ScoredScheme] | None = None,
) -> Problem:
    """Turn scores into options.

    A scheme's scores are brought to nats by the whole model's KL under it: they add up to that.

    Args:
        inventory: The bf16 checkpoint's tensors.
        sensitivity: Scores of the same model.
        profile: The profile that the plan will be compiled with.
        device: What the plan must run on; formats that vLLM has no kernels for there are left out.
        schemes: Schemes to choose among, with bf16; None means all.
    """
    specs = {tensor.name: tensor for tensor in inventory.tensors}
    scored = {group.module: group for group in sensitivity.groups}
    tensors = {module: _names(group) for module, group in scored.items()}
    shared = _smoothed_with(profile, tensors)
    nats = _nats_per_score(sensitivity)
    options: dict[str, list[Option]] = {}
    for module, group in scored.items():
        weights = [specs[name] for name in tensors[module]]
        found = [Option(module, "bf16", _bytes(weights, "bf16"), 0.0)]
        for scheme in _possible(group, schemes, with_profile=profile is not None, shared=shared[module]):
            if not device_faults([(name, _treatment(scheme)) for name in tensors[module]], device):
                score = next(entry.score for entry in group.scores if entry.scheme == scheme)
                found.append(Option(module, scheme, _bytes(weights, scheme), score * nats[scheme]))
        options[module] = found
    decided = {name for names in tensors.values() for name in names}
    rest = [specs[name] for name in default_linears(inventory) if name not in decided]
    return Problem(
        options,
        tensors,
        {module: group.num_weights for module, group in scored.items()},
        shared,
        _bytes(rest, "bf16"),
        sum(math.prod(tensor.shape) for tensor in rest),
    )


def _names(group: ScoredGroup) -> list[str]:
    return [name for family in group.tensors for name in expand(family)]


def _possible(
    group: ScoredGroup, schemes: Sequence[ScoredScheme] | None, *, with_profile: bool, shared: frozenset[str]
) -> list[ScoredScheme]:
    """Scored schemes that a compile can give the group; without a factor, its int8 is the same either way."""
    found = []
    for entry in group.scores:
        scheme = entry.scheme
        asked = schemes is None or scheme in schemes or (scheme == "int8_plain" and "int8" in schemes)
        reachable = {"int8": with_profile, "int8_plain": not with_profile or len(shared) > 1}.get(scheme, True)
        if asked and reachable:
            found.append(scheme)
    return found


def _nats_per_score(sensitivity: Sensitivity) -> dict[str, float]:
    totals: dict[str, float] = defaultdict(float)
    for group in sensitivity.groups:
        for entry in group.scores:
            totals[entry.scheme] += entry.score
    return {entry.scheme: entry.kl / (totals[entry.scheme] or 1.0) for entry in sensitivity.schemes}


def _smoothed_with(profile: Profile | None, tensors: dict[str, list[str]]) -> dict[str, frozenset[str]]:
    """Groups that must be int8 together with each group for its inputs to be smoothed; itself among them."""
    module_of_name = {name: module for module, names in tensors.items() for name in names}
    shared = {module: {module} for module in tensors}
    for factor in profile.smoothing if profile is not None else ():
        if factor.not_applicable is None:
            needed = {module_of_name[name] for name in members(factor) if name in module_of_name}
            for target in factor.targets:
                if target in module_of_name:
                    shared[module_of_name[target]] |= needed
    return {module: frozenset(needed) for module, needed in shared.items()}


def _treatment(scheme: Format) -> Treatment:
    if scheme == "bf16":
        return "keep"
    return "int8" if scheme == "int8_plain" else scheme


def _bytes(weights: Sequence[TensorSpec], scheme: Format) -> int:
    return sum(math.prod(w.shape) * (ELEMENT_BYTES[w.dtype] if scheme == "bf16" else 1) for w in weights)


def same_groups(inventory: Inventory, sensitivity: Sensitivity) -> bool:
    """Whether the scored groups are those that this release fuses; another release may have fused others."""
    scored = {group.module: set(_names(group)) for group in sensitivity.groups}
    everything = {name for names in scored.values() for name in names}
    fused = {module: set(names) for module, names in fused_groups(everything).items()}
    return fused == scored and everything <= {tensor.name for tensor in inventory.tensors}
