"""Where the local registry is: known without reading a document."""

from collections.abc import Mapping
from pathlib import Path

from platformdirs import user_data_path

REGISTRY_VARIABLE = "FLASHRL_REGISTRY"


def default_registry_root(environ: Mapping[str, str]) -> Path:
    """Folder of the local registry: ``FLASHRL_REGISTRY``, or the user's data folder.

    Args:
        environ: Environment variables, as the program's edge read them.
    """
    given = environ.get(REGISTRY_VARIABLE, "").strip()
    return Path(given).expanduser() if given else user_data_path("flashrl-registry", appauthor=False)
