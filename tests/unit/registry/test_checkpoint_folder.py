"""A plan's vectors never land among a model's shards."""

from pathlib import Path

import pytest

from flashrl_registry.errors import RegistryError
from flashrl_registry.registry.plan_folders import refuse_checkpoint_folder


def test_a_folder_that_holds_a_checkpoint_is_refused(tmp_path: Path) -> None:
    refuse_checkpoint_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RegistryError, match="holds a checkpoint"):
        refuse_checkpoint_folder(tmp_path)
