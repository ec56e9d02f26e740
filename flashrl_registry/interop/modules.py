"""compressed-tensors' targets to the modules of a checkpoint, and groups of modules to rules.

A target is a module's name, ``re:`` and a regular expression for the start of it, or the name of a class, of which
checkpoints know only ``Linear``. The rules that come out list families of names: they mean one thing, and need no
second reading of another tool's patterns.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from flashrl_registry.compiler.match import dead_target
from flashrl_registry.compiler.modules import is_embedding_weight, is_linear_weight, module_of
from flashrl_registry.documents import Inventory, Rule, Rules, SchemeName, TensorSpec
from flashrl_registry.documents.names import factor
from flashrl_registry.documents.strict_yaml import Path
from flashrl_registry.interop.findings import Findings

LINEAR = "Linear"


@dataclass(frozen=True)
class SchemeGroup:
    """Layers that share a scheme.

    Attributes:
        name: What the file calls them; the rule gets a name like it.
        scheme: Their scheme.
        targets: As written.
        path: Where the targets stand in the file.
    """

    name: str
    scheme: SchemeName
    targets: tuple[str, ...]
    path: Path


def rules_for(
    groups: Sequence[SchemeGroup], ignore: Sequence[tuple[str, Path]], inventory: Inventory, found: Findings
) -> Rules:
    """Rules that give every module of a checkpoint what the groups say, and bf16 to all others.

    Where several groups reach a module, a name goes before a class, and then the first group before the others: the
    order in which vLLM looks.

    Args:
        groups: In the order of the file.
        ignore: Modules that no group reaches, with their places.
        inventory: The bf16 checkpoint.
        found: Takes faults for targets that match nothing, and notes for exceptions that do.

    Returns:
        The rules; meaningless where ``found`` has faults.
    """
    names = [tensor.name for tensor in inventory.tensors]
    modules = dict.fromkeys(module_of(name) for name in names)
    matrices = {module_of(tensor.name): tensor for tensor in inventory.tensors if _is_matrix(tensor)}
    skipped: set[str] = set()
    for target, path in ignore:
        reached = set(modules) if target == LINEAR else _named(target, modules, path, found)
        skipped |= reached
        if not reached and not (target == "lm_head" and inventory.tied_embeddings):
            found.note(f"ignore '{target}' matches nothing in {inventory.name}")
    by_name: dict[str, SchemeGroup] = {}
    by_class: dict[str, SchemeGroup] = {}
    for group in groups:
        for index, target in enumerate(group.targets):
            if target == LINEAR:
                for module in _linears(matrices, found):
                    by_class.setdefault(module, group)
                continue
            reached = _named(target, matrices, (*group.path, index), found)
            by_name |= {module: group for module in reached if module not in by_name}
            if not reached:
                dead = dead_target("target", target, names)
                found.fault((*group.path, index), dead.message + (f"; {dead.hint}" if dead.hint else ""))
    group_of = {**by_class, **by_name}
    return _rules(groups, {m: group for m, group in group_of.items() if m not in skipped}, modules)


def _is_matrix(tensor: TensorSpec) -> bool:
    return tensor.name.endswith(".weight") and len(tensor.shape) == 2 and not is_embedding_weight(tensor.name)


def _linears(matrices: dict[str, TensorSpec], found: Findings) -> list[str]:
    """Modules that the class reaches: a router is no ``Linear`` in newer transformers, and never quantized in vLLM."""
    routers = {
        module: None
        for module, tensor in matrices.items()
        if not is_linear_weight(tensor) and not module.endswith(("lm_head", "embed_out", "score"))
    }
    if routers:
        found.note(f"{len(routers)} routers stay bf16, such as {next(iter(routers))}: vLLM does not quantize them")
    return [module for module in matrices if module not in routers]


def _named(target: str, modules: Collection[str], path: Path, found: Findings) -> set[str]:
    if not target.startswith("re:"):
        return {target} if target in modules else set()  # configs list tens of thousands of names
    try:
        pattern = re.compile(target[3:])
    except (re.error, RecursionError, OverflowError) as exc:
        found.fault(path, f"{target!r} is not a regular expression: {exc}")
        return {target}  # named already; not a second time as dead
    return {module for module in modules if pattern.match(module)}


def _rules(groups: Sequence[SchemeGroup], group_of: dict[str, SchemeGroup], modules: Collection[str]) -> Rules:
    rules: list[Rule] = []
    used: set[str] = set()
    for group in groups:
        members = [module for module in modules if group_of.get(module) is group]
        if members and group.scheme != "bf16":
            name = _rule_name(group.name, used)
            rules.append(Rule(name=name, scheme=group.scheme, targets=factor(members)))
    rest = [m for m in modules if m not in group_of or group_of[m].scheme == "bf16"]
    if rest:
        rules.append(Rule(name=_rule_name("rest", used), scheme="bf16", targets=factor(rest)))
    return Rules(rules=rules)


def _rule_name(name: str, used: set[str]) -> str:
    slug = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-_")[:56] or "group"
    candidate, number = slug, 2
    while candidate in used:
        candidate, number = f"{slug}-{number}", number + 1
    used.add(candidate)
    return candidate
