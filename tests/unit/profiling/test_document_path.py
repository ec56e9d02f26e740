"""Where ``-o`` puts a profile."""

from pathlib import Path
from typing import Any

import pytest

from flashrl_registry.profiling import document_path, profile_pair


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("x.yaml", "x.yaml"),
        ("x.yml", "x.yml"),
        ("x.json", "x.json"),
        ("x.pt", "x.yaml"),
        ("dir/x.PT", "dir/x.yaml"),
        ("name", "name/profile.yaml"),
        ("Qwen2.5-0.5B", "Qwen2.5-0.5B/profile.yaml"),
        ("name/", "name/profile.yaml"),
    ],
)
def test_output_names(output: str, expected: str) -> None:
    assert document_path(Path(output)) == Path(expected)


def test_a_folder_that_exists_is_a_folder_whatever_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "x.yaml"
    folder.mkdir()
    assert document_path(folder) == folder / "profile.yaml"


def test_flashrls_spelling_writes_yaml_and_no_pickle(pair: Any, tmp_path: Path) -> None:
    document, profile = profile_pair(*pair.write(), tmp_path / "out" / "profile.pt")
    assert document == tmp_path / "out" / "profile.yaml"
    assert {file.name for file in document.parent.iterdir()} == {"profile.yaml", profile.sidecar.file_name}


def test_json_is_the_same_document(pair: Any, tmp_path: Path) -> None:
    folders = pair.write()
    _, as_yaml = profile_pair(*folders, tmp_path / "x.yaml")
    document, as_json = profile_pair(*folders, tmp_path / "x.json")
    assert document.read_bytes().startswith(b'{"digest"')
    assert as_json.digest == as_yaml.digest
