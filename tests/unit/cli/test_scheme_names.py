"""The schemes that ``compile --help`` lists are those that exist."""

from flashrl_cli.commands.compile import SCHEME_NAMES
from flashrl_registry.documents import SCHEMES


def test_help_lists_every_scheme() -> None:
    assert SCHEME_NAMES.startswith(", ".join(SCHEMES) + ",")
