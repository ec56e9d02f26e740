"""Regular expressions of ``re:`` targets: checked when a file is read, matched when it is compiled, by one engine.

``regex`` takes a timeout and answers most patterns that hang ``re`` at once; rules are other people's files.
"""

from typing import Any

PREFIX = "re:"


def compile_expression(target: str) -> Any:
    """The pattern of a target.

    Args:
        target: As written, ``re:`` included.

    Raises:
        ValueError: It is not a regular expression.
    """
    import regex  # here, because only targets of this form need it

    try:
        return regex.compile(target.removeprefix(PREFIX))
    except (regex.error, RecursionError, OverflowError) as exc:
        raise ValueError(f"'{target}' is not a regular expression: {exc}") from exc
