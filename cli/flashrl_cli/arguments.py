"""Options that several commands take, and what they stand for."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flashrl_registry.errors import MissingDependencyError

if TYPE_CHECKING:
    from flashrl_registry.registry import LocalStore, PlanBundle

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Folder = Annotated[Path, typer.Option("-o", "--output", help="Folder to write; created where missing.")]
Ref = Annotated[
    str, typer.Argument(metavar="REF", help="Path of a plan, or namespace/name[@version][#sha256=<digest>].")
]

_EXTRA_OF = {"torch": "torch", "safetensors": "torch", "numpy": "torch", "vllm": "vllm"}


def local_store() -> "LocalStore":
    """The user's registry: ``FLASHRL_REGISTRY`` or the user's data folder."""
    from flashrl_registry.registry import LocalStore, default_registry_root

    return LocalStore(default_registry_root(os.environ))


def bundle_of(text: str) -> "PlanBundle":
    """The plan that a reference on the command line names."""
    from flashrl_registry.registry import open_bundle, parse_ref

    return open_bundle(parse_ref(text), local_store())


@contextmanager
def needs(what: str) -> Iterator[None]:
    """Turn the import error of an extra into the command that installs it.

    Args:
        what: What cannot be done without it.

    Raises:
        MissingDependencyError: An optional package is missing.
    """
    try:
        yield
    except ModuleNotFoundError as exc:
        package = (exc.name or "").partition(".")[0]
        if package not in _EXTRA_OF:
            raise
        raise MissingDependencyError(
            f"{what} needs {package}, which is not installed",
            hint=f'pip install "flashrl-registry[{_EXTRA_OF[package]}]"',
            context={"package": package, "extra": _EXTRA_OF[package]},
        ) from exc
