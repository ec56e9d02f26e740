"""What a compile accepts and an author would not want, and what a compile refuses, said shortly: once per rule.

Rules alone show little: whether a target is dead or shadowed depends on the model's tensor names. Plans carry them.
Every code is in ``docs/diagnostics.md``.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from flashrl_registry.compiler.checks import check_arguments, check_checkpoint, check_fused, check_tensors
from flashrl_registry.compiler.lint_engine import lint_engine
from flashrl_registry.compiler.match import dead_target, matching, partly_dead
from flashrl_registry.compiler.modules import module_of
from flashrl_registry.compiler.summary import shown_names
from flashrl_registry.documents import Inventory, Plan, Profile, Rule, Rules, TensorSpec
from flashrl_registry.documents.names import expand, factor
from flashrl_registry.errors import Diagnostic

# ``\.`` is a dot; a name's own characters stand for themselves; ``.*`` is a glob's ``*``.
_PLAIN_REGEX = re.compile(r"(?:[A-Za-z0-9_-]|\\\.|\.\*)+")


def lint_rules(rules: Rules, inventory: Inventory | None = None) -> list[Diagnostic]:
    """Lint a rules document.

    Args:
        rules: What a person wrote.
        inventory: The model it is for; without one, only what the text shows is found.

    Returns:
        Everything found, in the order of the document; ``where`` is a key path such as ``rules[0].targets[1]``.
    """
    found = lint_engine(rules.engine)
    if inventory is not None and (unusable := check_checkpoint(inventory)):
        return [*found, *unusable]
    if inventory is None:
        return [*found, *_lint_text(rules.rules), *_same_text(rules.rules)]
    claimed = _Claims(rules.rules, [tensor.name for tensor in inventory.tensors])
    found += [*_lint_text(rules.rules), *claimed.lint()]
    rule_of = claimed.decided()
    checked = [*check_arguments(rules.rules), *check_tensors(rule_of, inventory), *check_fused(rule_of)]
    return [*found, *_grouped(checked, rules.rules)]


def _grouped(checked: Sequence[Diagnostic], rules: Sequence[Rule]) -> Iterator[Diagnostic]:
    """What differs only in the tensor becomes one finding, at the rule that it is about."""
    index_of = {rule.name: index for index, rule in enumerate(rules)}
    alike: dict[Diagnostic, list[str]] = {}
    for diagnostic in checked:
        alike.setdefault(replace(diagnostic, where=""), []).append(diagnostic.where)
    for diagnostic, names in alike.items():
        if diagnostic.rule is None:
            yield replace(diagnostic, where=shown_names(names))
            continue
        about = "" if names[0].startswith("rule ") else f"{shown_names(names)}: "
        yield replace(diagnostic, where=f"rules[{index_of[diagnostic.rule]}]", message=about + diagnostic.message)


def lint_plan(plan: Plan, profile: Profile | None = None, inventory: Inventory | None = None) -> list[Diagnostic]:
    """Lint a compiled plan.

    Args:
        plan: It carries the names of its model's tensors.
        profile: The profile that it was compiled with, where that is at hand.
        inventory: A model that it should be for.

    Returns:
        As :func:`lint_rules`.
    """
    found = []
    if inventory is not None and inventory.fingerprint() != plan.base_model.fingerprint:
        message = f"is for {plan.base_model.name}; {inventory.name} has other tensors"
        found.append(Diagnostic("plan-of-another-model", "error", "base_model", message, "compile it for that model"))
    found += lint_engine(plan.engine)
    found += _lint_text(plan.rules)
    found += _Claims(plan.rules, [tensor.name for tensor in inventory_of_plan(plan).tensors]).lint()
    return found + _dropped_smoothing(plan, profile)


def _lint_text(rules: Sequence[Rule]) -> Iterator[Diagnostic]:
    """What a rule's own text shows."""
    for index, rule in enumerate(rules):
        for key, place, target in _entries(index, rule):
            before = rule.targets if key == "targets" else rule.ignore
            number = int(place[:-1].rpartition("[")[2])
            if target in before[:number]:
                yield Diagnostic("duplicate-target", "warning", place, f"'{target}' stands there twice", "remove one")
            elif key == "ignore" and target in rule.targets:
                message = f"rule '{rule.name}' targets and ignores '{target}'"
                yield Diagnostic("ignored-target", "warning", place, message, "remove both")
            if _mixes_forms(target):
                message = f"'{target}': in a family, * and ? are letters of the name, so it matches nothing"
                yield Diagnostic("glob-in-family", "error", place, message, "write a glob, a family, or a re: target")
            if target.startswith("re:") and _PLAIN_REGEX.fullmatch(target[3:]):
                simple = target[3:].replace("\\.", "\0").replace(".*", "*").replace("\0", ".")
                yield Diagnostic("needless-regex", "warning", place, f"'{target}' needs no regular expression",
                                 f"write '{simple}'")  # fmt: skip


def _same_text(rules: Sequence[Rule]) -> Iterator[Diagnostic]:
    """Targets that two rules share to the letter, where neither has exceptions: whatever they match is contested."""
    for (_, first), (index, second) in itertools.combinations(enumerate(rules), 2):
        for number, target in enumerate(second.targets):
            if target in first.targets and not first.ignore and not second.ignore:
                message = f"rules '{first.name}' and '{second.name}' both claim '{target}'"
                where = f"rules[{index}].targets[{number}]"
                yield Diagnostic("conflicting-rules", "error", where, message, "a tensor has one rule: narrow one")


def _mixes_forms(target: str) -> bool:
    """Braces make a target a family; a star in one is a letter, and no module's name has that."""
    return not target.startswith("re:") and "{" in target and any(char in target for char in "*?[")


def _entries(index: int, rule: Rule) -> Iterator[tuple[str, str, str]]:
    """Key, key path and text of every target and every exception."""
    for key, texts in (("targets", rule.targets), ("ignore", rule.ignore)):
        for number, text in enumerate(texts):
            yield key, f"rules[{index}].{key}[{number}]", text


class _Claims:
    """Which tensors each target of each rule matches."""

    def __init__(self, rules: Sequence[Rule], names: Sequence[str]) -> None:
        self.rules = rules
        self.names = names
        self.hits: dict[str, set[str]] = {}
        self.bad: dict[str, str] = {}
        for text in dict.fromkeys(text for index, rule in enumerate(rules) for _, _, text in _entries(index, rule)):
            try:
                self.hits[text] = set(matching(text, names))
            except ValueError as exc:
                self.hits[text], self.bad[text] = set(), str(exc)
        self.ignored = [set[str]().union(*(self.hits[text] for text in rule.ignore)) for rule in rules]
        self.targeted = [set[str]().union(*(self.hits[text] for text in rule.targets)) for rule in rules]
        self.claimed = [targeted - ignored for targeted, ignored in zip(self.targeted, self.ignored, strict=True)]

    def decided(self) -> dict[str, Rule]:
        """The rule of each tensor that has exactly one."""
        owners: dict[str, list[Rule]] = {}
        for rule, claimed in zip(self.rules, self.claimed, strict=True):
            for name in claimed:
                owners.setdefault(name, []).append(rule)
        return {name: owners[name][0] for name in self.names if len(owners.get(name, ())) == 1}

    def lint(self) -> Iterator[Diagnostic]:
        """Everything that the matches show."""
        for index, rule in enumerate(self.rules):
            for key, place, text in _entries(index, rule):
                if text in self.bad:
                    yield Diagnostic("bad-target", "error", place, self.bad[text])
                elif not self.hits[text]:
                    if not _mixes_forms(text):
                        yield dead_target(place, text, self.names)
                elif (partly := partly_dead(place, text, self.hits[text])) is not None:
                    yield partly
                elif key == "ignore":
                    yield from self._lint_ignore(index, place, text)
                else:
                    yield from self._lint_target(index, place, text)
            if not self.claimed[index] and self.targeted[index]:
                message = f"rule '{rule.name}' decides no tensor"
                yield Diagnostic("rule-decides-nothing", "warning", f"rules[{index}]", message, "remove it")
        yield from self._conflicts()
        yield from self._uncovered()

    def _lint_ignore(self, index: int, place: str, text: str) -> Iterator[Diagnostic]:
        if not self.hits[text] & self.targeted[index]:
            message = f"'{text}' takes nothing from the targets of rule '{self.rules[index].name}'"
            yield Diagnostic("shadowed-ignore", "warning", place, message, "remove it")

    def _lint_target(self, index: int, place: str, text: str) -> Iterator[Diagnostic]:
        rule, hits = self.rules[index], self.hits[text]
        if text.startswith("re:") and not _PLAIN_REGEX.fullmatch(text[3:]):
            yield from self._lint_regex(place, text)
        if hits <= self.ignored[index]:
            if self.claimed[index] and text not in rule.ignore:
                message = f"'{text}' decides nothing: rule '{rule.name}' ignores all that it matches"
                yield Diagnostic("ignored-target", "warning", place, message, "remove it")
            return
        others = [other for other in dict.fromkeys(rule.targets) if other != text]
        covering = [
            other
            for other in others
            # Of two targets that match the same, the later one is the shadowed one.
            if hits < self.hits[other] or (hits == self.hits[other] and others.index(other) < rule.targets.index(text))
        ]
        if covering:
            message = f"'{text}' is covered by '{covering[0]}' of the same rule"
            yield Diagnostic("shadowed-target", "warning", place, message, "remove it")
        elif len(others) > 1 and hits <= set[str]().union(*(self.hits[other] for other in others)):
            message = f"'{text}' is covered by the other targets of rule '{rule.name}' together"
            yield Diagnostic("shadowed-target", "warning", place, message, "remove it")

    def _lint_regex(self, place: str, text: str) -> Iterator[Diagnostic]:
        families = factor({module_of(name) for name in self.hits[text]})
        if len(families) == 1:
            message = f"'{text}' is one family"
            yield Diagnostic("needless-regex", "warning", place, message, f"write '{families[0]}'")

    def _conflicts(self) -> Iterator[Diagnostic]:
        for (a, first), (b, second) in itertools.combinations(enumerate(self.rules), 2):
            both = self.claimed[a] & self.claimed[b]
            if both:
                message = f"rules '{first.name}' and '{second.name}' both claim {_shown(both)}"
                hint = "narrow one target or add it to 'ignore'"
                yield Diagnostic("conflicting-rules", "error", f"rules[{b}]", message, hint)

    def _uncovered(self) -> Iterator[Diagnostic]:
        left = set(self.names).difference(*self.claimed)
        if left:
            message = f"no rule decides {_shown(left)}"
            yield Diagnostic(
                "uncovered-tensor", "error", "rules", message, "add a rule; bf16 keeps tensors as they are"
            )


def _shown(names: set[str]) -> str:
    """How many tensors, and the first family of them."""
    families = factor(names)
    more = f" and {len(families) - 1} more" if len(families) > 1 else ""
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''}: {families[0]}{more}"


def inventory_of_plan(plan: Plan) -> Inventory:
    """The model that a plan is for, as far as a plan knows it: enough to compile and lint rules against."""
    base = plan.base_model
    tensors = [
        TensorSpec(name=name, shape=family.shape, dtype=family.dtype)
        for family in plan.tensors
        for name in expand(family.names)
    ]
    return Inventory(
        name=base.name,
        architecture=base.architecture,
        model_type=base.model_type,
        tied_embeddings=base.tied_embeddings,
        tensors=sorted(tensors, key=lambda tensor: tensor.name),
    )


def _dropped_smoothing(plan: Plan, profile: Profile | None) -> list[Diagnostic]:
    if profile is None:
        return []
    applied = {name for entry in plan.smoothing for name in expand(entry.source)}
    dropped = {group.source for group in profile.smoothing} - applied
    if not dropped:
        return []
    message = f"of the profile's {len(profile.smoothing)} smoothing factors, these are not applied: {_shown(dropped)}"
    hint = "give every linear that shares a factor to an int8 rule"
    return [Diagnostic("smoothing-dropped", "warning", "smoothing", message, hint)]
