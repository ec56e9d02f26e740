"""What a search for documents finds, what it refuses and what it leaves to others."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flashrl_registry.registry import Verdict, find_documents, plan_migrations, validate_paths

ROOT = Path(__file__).parents[3]
GOOD = "schema_version: flashrl.rules/v1\nrules:\n- {name: all, scheme: bf16, targets: ['*']}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one valid document."""
    (tmp_path / "good.yaml").write_text(GOOD)
    return tmp_path


def only_bad(folder: Path) -> Verdict:
    """The one invalid document among two, for both commands that search."""
    _, errors = plan_migrations([folder])
    assert len(errors) == 1
    verdicts = validate_paths([folder])
    [bad] = [verdict for verdict in verdicts if verdict.error]
    assert len(verdicts) == 2
    return bad


BROKEN = {
    "not_utf8.yaml": GOOD.encode() + b"# \xff\n",
    "utf16.yaml": GOOD.encode("utf-16"),
    "utf16.json": json.dumps({"schema_version": "flashrl.rules/v1"}).encode("utf-16"),
    "large.yaml": GOOD.encode() + b"# x\n" * 300_000,
    "large.json": b'{"schema_version": "flashrl.lock/v1", "entries": [' + b"1, " * 500_000 + b"1]}",
    "misspelt.yaml": GOOD.replace("version", "versoin").encode(),
    "misspelt.json": b'{"schemaVersion": "flashrl.rules/v1", "rules": []}',
    "a_number.yaml": b"schema_version: 1\nrules: []\n",
    "a_number.json": b'{"schema_version": 1, "tensors": []}',
    "a_typo_and_a_number.yaml": b"schema_vesion: 1\nrules: []\n",
    "capitals.YAML": GOOD.replace("bf16", "bf61").encode(),
    "capitals.Json": b'{"schema_version": "flashrl.rules/v1",}',
    "unclosed.yaml": b"schema_version: flashrl.rules/v1\nrules: [\n",
    "indented.yaml": b"# mine\n  schema_version: flashrl.rules/v1\n",
    "only_the_line_for_editors.yaml":
        b"# yaml-language-server: $schema=https://x/flashrl-registry/raw/main/schemas/rules/v1.json\nrules: []\n",
    "late.json": b'{"entries": [' + b" " * 200_000 + b'], "schema_version": "flashrl.lock/v1", "x": 1}',
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_document_is_not_somebody_elses(folder: Path, name: str) -> None:
    (folder / name).write_bytes(BROKEN[name])
    assert only_bad(folder).path == folder / name


OTHERS = {
    "values.yaml": "replicas: 2\n",
    "empty.yaml": "",
    "falco.yaml": "version: 1\nrules: []\n",
    "openapi.json": '{"schema_version": 3, "paths": {}}',
    "docker.json": '{"schemaVersion": 2, "files": []}',
    "config_map.yaml": "data:\n  rules.yaml: |\n    schema_version: flashrl.rules/v1\n",
    "comment.yaml": "# schema_version: flashrl.rules/v1\na: 1\n",
    "template.yaml": "a: {{ .Values.b }}\n",
    "rules.yaml": "rules: [\n",
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_tools_files_are_left_alone_and_counted(folder: Path, name: str) -> None:
    (folder / name).write_text(OTHERS[name])
    assert [verdict.error for verdict in validate_paths([folder])] == [None]
    assert find_documents([folder]).others == [folder / name]


def test_our_own_schemas_are_no_documents(folder: Path) -> None:
    found = find_documents([ROOT / "schemas", folder])
    assert list(found.files) == [folder / "good.yaml"]


def test_a_key_that_is_nearly_right_is_named(folder: Path) -> None:
    (folder / "bad.yaml").write_bytes(BROKEN["misspelt.yaml"])
    assert (
        f"{folder}/bad.yaml:1:1: schema_version: required key 'schema_version' is missing; is it 'schema_versoin'?"
        in (str(only_bad(folder).error))
    )


@pytest.mark.parametrize("name", ["loop.yaml", "loop"])
def test_a_link_to_itself_is_an_error(folder: Path, name: str) -> None:
    (folder / name).symlink_to(name)
    assert "cannot be read: Too many levels of symbolic links" in str(only_bad(folder).error)


def test_a_link_to_nothing_is_an_error(folder: Path) -> None:
    (folder / "gone.yaml").symlink_to("nowhere.yaml")
    assert "cannot be read: No such file or directory" in str(only_bad(folder).error)


def test_a_pipe_is_an_error_and_nobody_waits_for_it(folder: Path) -> None:
    os.mkfifo(folder / "pipe.yaml")
    assert "is not a regular file" in str(only_bad(folder).error)


def test_a_folder_that_links_to_its_parent_is_searched_once(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "up").symlink_to(folder)
    assert len(validate_paths([folder])) == 1


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that a user without rights can reach."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_what_may_not_be_read_is_an_error(public: Path) -> None:
    (public / "good.yaml").write_text(GOOD)
    (public / "locked").mkdir()
    (public / "locked" / "hidden.yaml").write_text(GOOD)
    (public / "secret.yaml").write_text(GOOD)
    code = (
        "import os, sys; from pathlib import Path\n"
        "from flashrl_registry.registry import validate_paths\n"
        f"folder = Path({str(public)!r})\n"
        "(folder / 'locked').chmod(0); (folder / 'secret.yaml').chmod(0)\n"
        "validate_paths([folder / 'good.yaml'])  # imports what that user may not\n"
        "os.setuid(65534) if os.geteuid() == 0 else None\n"
        "for verdict in validate_paths([folder, folder / 'locked' / 'hidden.yaml']):\n"
        "    print(verdict.error)\n"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    ran = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    (public / "locked").chmod(0o755)
    assert ran.stdout.splitlines() == [
        f"{public}/locked cannot be searched: Permission denied",
        "None",
        f"{public}/secret.yaml: cannot be read: Permission denied",
        f"{public}/locked/hidden.yaml: cannot be read: Permission denied",
    ]
