"""``flashrl cleanup``: FlashRL's lines go, everything else stays."""

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flashrl_registry.interop.flashrl_hook import FILE_NAME, clean

HOOK = "try: import flash_rl\nexcept ImportError: pass\n"


def hook_file(folder: Path, text: str) -> Path:
    file = folder / FILE_NAME
    file.write_bytes(text.encode())
    return file


@pytest.mark.parametrize(
    "hook",
    [HOOK, "import flash_rl\n", HOOK + HOOK, HOOK.replace("\n", "\r\n"), HOOK.rstrip(), "# import flash_rl\n",
     "# try: import flash_rl\n# except ImportError: pass\n"],
)  # fmt: skip
def test_a_file_that_is_only_the_hook_is_deleted(tmp_path: Path, hook: str) -> None:
    file = hook_file(tmp_path, hook)
    (found,) = clean([tmp_path])
    assert found.deleted
    assert not found.unknown
    assert not file.exists()
    assert clean([tmp_path]) == []


@pytest.mark.parametrize("before", ["", "import os\n\n", "# mine\n"])
@pytest.mark.parametrize("after", ["print('x')\n", "\r\nimport sys", "caf\u00e9 = 1\n"])
def test_other_lines_stay_byte_for_byte(tmp_path: Path, before: str, after: str) -> None:
    file = hook_file(tmp_path, before + HOOK + after)
    file.chmod(0o600)
    (found,) = clean([tmp_path])
    assert file.read_bytes() == (before + after).encode()
    assert found.removed == ["try: import flash_rl", "except ImportError: pass"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert clean([tmp_path])[0].removed == []


def test_bytes_that_are_no_utf8_stay(tmp_path: Path) -> None:
    file = tmp_path / FILE_NAME
    file.write_bytes(b"# \xff\n" + HOOK.encode())
    clean([tmp_path])
    assert file.read_bytes() == b"# \xff\n"


@pytest.mark.parametrize(
    "text",
    ["if True:\n    import flash_rl\n", "import flash_rl, os\n", "from flash_rl import x\n",
     "try: import flash_rl\nexcept Exception: pass\n", "try: import flash_rl\n"],
)  # fmt: skip
def test_lines_that_flashrl_did_not_write_are_named_and_left(tmp_path: Path, text: str) -> None:
    file = hook_file(tmp_path, text)
    (found,) = clean([tmp_path])
    assert len(found.unknown) == 1
    assert file.read_text() == text


def test_other_modules_are_not_flashrl(tmp_path: Path) -> None:
    hook_file(tmp_path, "import flash_rl_other\nimport flashrl_registry\n# about import flash_rl\n")
    (found,) = clean([tmp_path])
    assert (found.removed, found.unknown) == ([], [])


def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    file = hook_file(tmp_path, HOOK)
    (found,) = clean([file], dry_run=True)
    assert found.deleted
    assert file.read_text() == HOOK


@pytest.mark.parametrize(
    "text",
    [
        'HELP = """\nimport flash_rl\n"""\n',
        '"""\ntry: import flash_rl\nexcept ImportError: pass\n# import flash_rl\n"""\n',
        'x = f"""\nimport flash_rl\n{1}"""\n',
    ],
)
def test_text_inside_a_string_is_no_hook(tmp_path: Path, text: str) -> None:
    file = hook_file(tmp_path, text + HOOK)
    (found,) = clean([tmp_path])
    assert file.read_text() == text
    assert found.removed == HOOK.splitlines()
    assert found.unknown == []


@pytest.mark.parametrize(
    "text",
    ["try: import flash_rl\nexcept ImportError: pass\nfinally: print()\n", "if True: \\\nimport flash_rl\n",
     "print 1\nimport flash_rl\n", "exec('import flash_rl')\n", "if 1:\n    import flash_rl.commands as c\n"],
)  # fmt: skip
def test_what_cannot_be_taken_out_by_itself_is_named_and_left(tmp_path: Path, text: str) -> None:
    file = hook_file(tmp_path, text)
    (found,) = clean([tmp_path])
    assert (found.removed, len(found.unknown)) == ([], 1)
    assert file.read_text() == text


def test_a_page_break_does_not_shift_lines(tmp_path: Path) -> None:
    file = hook_file(tmp_path, "# a\n\x0c\nx = '\\d'\n" + HOOK + "y = 2\n")
    clean([tmp_path])
    assert file.read_bytes() == b"# a\n\x0c\nx = '\\d'\ny = 2\n"


@pytest.mark.parametrize("rest", ["", "import os\n"])
def test_a_link_stays_and_its_file_is_edited(cli: Callable[..., Any], tmp_path: Path, rest: str) -> None:
    (tmp_path / "dotfiles").mkdir()
    real = tmp_path / "dotfiles" / "mine.py"
    real.write_text(rest + HOOK)
    real.chmod(0o640)
    link = tmp_path / FILE_NAME
    link.symlink_to(real)
    assert cli("cleanup", "-p", tmp_path, program="flashrl").code == 0
    assert link.is_symlink()
    assert real.read_text() == rest
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


@pytest.mark.parametrize("name", ["nowhere", "nowhere/usercustomize.py"])
def test_a_place_that_does_not_exist_is_said_to(cli: Callable[..., Any], tmp_path: Path, name: str) -> None:
    ran = cli("cleanup", "-p", tmp_path / name, program="flashrl")
    assert ran.code == 1
    assert f"{tmp_path / name} does not exist" in ran.err


def test_the_command_says_what_it_did(cli: Callable[..., Any], tmp_path: Path) -> None:
    file = hook_file(tmp_path, "import os\n" + HOOK)
    ran = cli("cleanup", "-p", tmp_path, "--dry-run", program="flashrl")
    assert "would be removed: try: import flash_rl" in ran.out
    ran = cli("cleanup", "-p", file, program="flashrl")
    assert (ran.code, ran.out.splitlines()) == (
        0, [f"{file}: 1 other line stays", "  removed: try: import flash_rl", "  removed: except ImportError: pass"]
    )  # fmt: skip
    assert "no hook of FlashRL" in cli("cleanup", "-p", tmp_path, program="flashrl").out
    hook_file(tmp_path, "import flash_rl, os\n")
    ran = cli("cleanup", "-p", tmp_path, "--json", program="flashrl")
    assert (ran.code, ran.json["ok"]) == (1, False)
    assert ran.json["files"][0]["unknown"] == [[1, "import flash_rl, os"]]


def test_the_default_places_are_site_packages(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import site

    monkeypatch.setattr(site, "getsitepackages", lambda: [str(tmp_path)])
    monkeypatch.setattr(site, "getusersitepackages", lambda: str(tmp_path / "user"))
    hook_file(tmp_path, HOOK)
    assert cli("cleanup", "--json", program="flashrl").json["files"][0]["deleted"]
