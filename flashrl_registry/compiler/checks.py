"""What a compile refuses: every check returns all that it found."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from flashrl_registry.compiler.modules import (
    engine_module,
    fused_place,
    is_embedding_weight,
    is_linear_weight,
    what_it_is,
)
from flashrl_registry.documents import Inventory, Profile, Rule, Rules, SchemeName, SmoothingGroup, TensorSpec
from flashrl_registry.documents.names import expand, is_index
from flashrl_registry.documents.plan import Treatment
from flashrl_registry.documents.quantization import FP8_BLOCK, SCHEME_ARGS
from flashrl_registry.errors import Diagnostic

_FLOATS = {"bfloat16", "float16", "float32"}
_LOW = {"int8", "uint8", "float8_e4m3fn", "float8_e5m2"}


def check_arguments(rules: Sequence[Rule]) -> list[Diagnostic]:
    """Arguments that no scheme has, and schemes that one engine cannot hold together."""
    found = []
    for rule in rules:
        if rule.weights is not None and rule.decided_scheme() is None:
            message = f"no kernel of the engine takes {rule.shown_scheme()} weights with these inputs"
            hint = "arguments that can run are those of " + ", ".join(SCHEME_ARGS)
            where = f"rule '{rule.name}'"
            found.append(Diagnostic("unsupported-arguments", "error", where, message, hint, rule.name))
    schemes = {rule.name: rule.decided_scheme() for rule in rules}
    online = [name for name, scheme in schemes.items() if scheme == "fp8"]
    coded = [name for name, scheme in schemes.items() if scheme not in {None, "bf16", "fp8"}]
    if online and coded:
        message = f"fp8 is vLLM's own online method, and rule '{coded[0]}' brings codes; an engine has one of them"
        hint = "use fp8_tensor, fp8_channel or fp8_block in mixed plans"
        found.append(Diagnostic("online-with-codes", "error", f"rule '{online[0]}'", message, hint, online[0]))
    return found


def check_checkpoint(inventory: Inventory) -> list[Diagnostic]:
    """A model that is quantized already, and stacks of experts that lack one."""
    low = next((t for t in inventory.tensors if t.dtype in _LOW and t.name.endswith(".weight")), None)
    if low is not None:
        message = f"is a quantized checkpoint: {low.name} is {low.dtype}; a plan is for the bf16 model"
        hint = "give the bf16 model with --model; a quantized twin is for flashrl profile -qm"
        return [Diagnostic("quantized-checkpoint", "error", inventory.name, message, hint)]
    stacks: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for tensor in inventory.tensors:
        stack, found, rest = tensor.name.rpartition(".experts.")
        index, _, leaf = rest.partition(".")
        if found and is_index(index):
            stacks[stack + ".experts"][leaf].add(index)
    return [
        Diagnostic("incomplete-experts", "error", f"{stack}.{index}.{leaf}",
                   "the checkpoint lacks it, and has its siblings", "the engine loads whole stacks: complete the files")
        for stack, leaves in stacks.items()
        for leaf, indices in leaves.items()
        for index in sorted(set().union(*leaves.values()) - indices, key=int)
    ]  # fmt: skip


def check_tensors(rule_of: Mapping[str, Rule], inventory: Inventory) -> list[Diagnostic]:
    """Tensors that cannot take what their rule says."""
    found = []
    for tensor in inventory.tensors:
        rule = rule_of.get(tensor.name)
        if rule is None or rule.scheme == "bf16":
            continue
        if tensor.dtype not in _FLOATS:
            message, hint = (
                f"is {tensor.dtype}; only bf16, fp16 and fp32 weights can be quantized",
                "give it to a bf16 rule",
            )
            found.append(Diagnostic("not-a-float", "error", tensor.name, message, hint, rule.name))
        if tensor.name.endswith(".bias"):
            continue
        if is_linear_weight(tensor):
            found += _check_shape(tensor, rule)
            continue
        what = what_it_is(tensor)
        if inventory.tied_embeddings and is_embedding_weight(tensor.name):
            what += ", and this model's output head too"
        message = f"rule '{rule.name}' says {rule.shown_scheme()}, but it is {what}"
        found.append(Diagnostic("cannot-quantize", "error", tensor.name, message, "give it to a bf16 rule", rule.name))
    return found


def _check_shape(tensor: TensorSpec, rule: Rule) -> list[Diagnostic]:
    """Groups and blocks must fill the weight: kernels read whole ones."""
    rows, columns = tensor.shape
    args = rule.weights

    if rule.decided_scheme() == "fp8_tensor" and engine_module(tensor.name).endswith(".experts"):
        message = f"rule '{rule.name}' says fp8_tensor, which vLLM's stacks of experts do not take"
        hint = "use fp8_channel or fp8_block for experts"
        return [Diagnostic("cannot-quantize", "error", tensor.name, message, hint, rule.name)]
    if args is not None and args.group_size is not None and columns % args.group_size:
        message = f"rule '{rule.name}' groups {args.group_size} columns, which do not divide its {columns}"
        hint = "take a group size that divides it, or strategy channel"
        return [Diagnostic("group-size-does-not-divide", "error", tensor.name, message, hint, rule.name)]
    block = args.block_structure if args is not None else None
    if rule.decided_scheme() == "fp8_block":
        block = [FP8_BLOCK, FP8_BLOCK]
    if block is not None and (rows % block[0] or columns % block[1]):
        size = f"{block[0]} x {block[1]}"
        message = f"rule '{rule.name}' takes blocks of {size}, which do not divide its {rows} x {columns}"
        hint = "give it to an fp8_channel rule"
        return [Diagnostic("block-does-not-divide", "error", tensor.name, message, hint, rule.name)]
    return []


def takes_scheme(tensor: TensorSpec, scheme: SchemeName) -> bool:
    """Whether a linear weight can have a scheme."""
    return tensor.dtype in _FLOATS and not _check_shape(tensor, Rule(name="asked", scheme=scheme, targets=["*"]))


def check_fused(rule_of: Mapping[str, Rule]) -> list[Diagnostic]:
    """Siblings that the engine fuses into one weight must have one scheme."""
    schemes: dict[str, dict[str, str]] = defaultdict(dict)
    for name, rule in rule_of.items():
        if (place := fused_place(name)) is not None:
            schemes[place[0]].setdefault(rule.shown_scheme(), place[1])
    return [
        Diagnostic("fused-shards-disagree", "error", fused,
                   "the engine fuses these into one weight: " + ", ".join(f"{k}={v}" for v, k in shards.items()),
                   "give all of them to one scheme")
        for fused, shards in schemes.items()
        if len(shards) > 1
    ]  # fmt: skip


def check_profile(rules: Rules, inventory: Inventory, profile: Profile | None) -> list[Diagnostic]:
    """A profile that is needed and absent, or of another model."""
    if profile is None:
        if rules.update.scales == "frozen":
            message = "scales: frozen takes its scales from a profile, and none was given"
            return [Diagnostic("frozen-needs-profile", "error", "update.scales", message, "give --profile")]
        return []
    ours, theirs = inventory.fingerprint(), profile.reference.fingerprint
    if ours != theirs:
        message = (
            f"the profile is of {profile.reference.name} ({theirs[:19]}), the model is {inventory.name} ({ours[:19]})"
        )
        return [Diagnostic("profile-of-another-model", "error", "profile", message, "profile this model's own pair")]
    return []


def check_frozen(
    profile: Profile, treatment: Mapping[str, Treatment], dropped: Sequence[SmoothingGroup]
) -> list[Diagnostic]:
    """Frozen scales fit only the weights that they were measured on: those linears, with all of their factors."""
    measured = {name for family in profile.tensors if family.role == "quantized" for name in expand(family.names)}
    low = [name for name, how in treatment.items() if how == "int8"]
    if profile.no_frozen_scales is not None:
        message = (
            f"scales: frozen, but no engine takes the scales of {profile.quantized.name}: {profile.no_frozen_scales}"
        )
        return [Diagnostic("frozen-needs-scales", "error", "profile", message, "use scales: recompute")]
    found = [
        Diagnostic("frozen-needs-scales", "error", name, "scales: frozen, but the profile has no scale for it",
                   "give it to a bf16 rule, or use scales: recompute")
        for name in low
        if name not in measured
    ]  # fmt: skip
    unsmoothed = {name: group.source for group in dropped for name in members(group)}
    found += [
        Diagnostic("frozen-needs-smoothing", "error", name,
                   f"its frozen scale was measured with the factor of {unsmoothed[name]}, which cannot be applied here",
                   "quantize all linears that share the factor, or use scales: recompute")
        for name in low
        if name in unsmoothed
    ]  # fmt: skip
    return found


def check_pruning(rules: Sequence[Rule], pruned: set[str]) -> list[Diagnostic]:
    """``int8_prune`` without a norm to prune would be plain int8 under another name.

    Args:
        rules: All rules.
        pruned: Norms whose dead channels will be zeroed.
    """
    asking = [rule.name for rule in rules if rule.decided_scheme() == "int8_prune"]
    if not asking or pruned:
        return []
    message = "int8_prune needs a profile that has smoothing from a norm into these linears"
    return [
        Diagnostic(
            "prune-needs-profile", "error", f"rule '{asking[0]}'", message, "give --profile, or use int8", asking[0]
        )
    ]


def members(group: SmoothingGroup) -> list[str]:
    """The linears of a group: a norm only takes its factor, and stays what it is otherwise."""
    return group.targets if group.kind == "norm" else [group.source, *group.targets]
