"""Compile a rules file, with its own places in what is wrong."""

from pathlib import Path

from flashrl_registry.compiler import Compiled, compile_plan
from flashrl_registry.compiler.summary import diagnostic_lines
from flashrl_registry.documents import Inventory, Profile, Rules, read_document
from flashrl_registry.documents.io import parse_as, read_text
from flashrl_registry.errors import CompileError


def compile_file(rules_file: Path, inventory: Inventory, profile: Profile | None = None) -> Compiled:
    """Compile a rules document for one model.

    Args:
        rules_file: YAML or JSON.
        inventory: Names, shapes and dtypes of the bf16 checkpoint.
        profile: Smoothing to apply; must be of the same model.

    Raises:
        DocumentError: Every fault of the file.
        CompileError: As :func:`compile_plan`; a line about a rule begins with ``file:line:col``.
    """
    rules = read_document(rules_file, Rules)
    try:
        return compile_plan(rules, inventory, profile)
    except CompileError as exc:
        places = parse_as(read_text(rules_file), str(rules_file), Rules.KIND).places
        where = {
            rule.name: f"{rules_file}:{place[0]}:{place[1]}"
            for index, rule in enumerate(rules.rules)
            if (place := places.get(("rules", index))) is not None
        }
        raise CompileError(exc.diagnostics, lines=diagnostic_lines(exc.diagnostics, where), hint=exc.hint) from exc
