"""``flashrl setup`` on a file that exists: what is in it stays, and nothing is replaced without a word."""

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flashrl_registry.errors import InteropError, NotExpressibleError
from flashrl_registry.interop.flashrl_append import with_entry
from flashrl_registry.interop.flashrl_config import FlashRLEntry
from flashrl_registry.interop.flashrl_setup import write_setup

Command = Callable[..., Any]
BF16 = "- distributed_executor_backend: external_launcher\n  fn: bf16\n  load_format: dummy\n"


@pytest.mark.parametrize("append", [True, False])
@pytest.mark.parametrize("before", ["", "\n \n"])
def test_an_empty_file_is_a_new_one(tmp_path: Path, before: str, append: bool) -> None:
    out = tmp_path / "c.yaml"
    out.write_text(before)
    written = write_setup(function="bf16", output=out, append=append)
    assert (written.num_entries, written.appended) == (1, False)
    assert out.read_text() == "configs:\n" + BF16


@pytest.mark.parametrize("before", ["# mine", "# mine\n", "---\n# mine\n", "\ufeff# mine\n"])
def test_a_file_of_comments_keeps_them(cli: Command, tmp_path: Path, before: str) -> None:
    out = tmp_path / "c.yaml"
    out.write_text(before)
    ran = cli("setup", "--fn", "bf16", "-o", out, "-a", program="flashrl")
    assert (ran.code, ran.err) == (0, "")
    assert out.read_text() == (before if before.endswith("\n") else before + "\n") + "configs:\n" + BF16


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("# top\nconfigs: # these\n- fn: fp8  # first\n# end\n", ""),
        ("configs:\n- fn: fp8", ""),
        ("configs:\n- fn: fp8 # x\n", "\n# about owner\nowner: me # last\n"),
        ("configs:\n- fn: fp8\n", "...\n# behind\n"),
        ("owner: me\nconfigs:\n-\n  fn: fp8\n", ""),
        ("configs:\n- fn: fp8\n  note: |\n    text\n    # no comment\n", ""),
        ("configs:\n- {fn: fp8}\n", "other: {list: [1]}\n"),
    ],
)
def test_every_byte_of_the_file_stays(tmp_path: Path, before: str, after: str) -> None:
    out = tmp_path / "c.yaml"
    out.write_text(before + after)
    old = yaml.safe_load(before + after)
    assert write_setup(function="bf16", output=out, append=True).num_entries == 2
    assert out.read_text() == (before if before.endswith("\n") else before + "\n") + BF16 + after
    new = yaml.safe_load(out.read_text())
    assert new.pop("configs")[:-1] == old.pop("configs")
    assert new == old


@pytest.mark.parametrize(
    "before",
    ["configs: [{fn: fp8}]  # ]\n", "configs: [\n  {fn: fp8}, # ]\n]\nlist: [1]\n", '{"configs": [{"fn": "fp8"}]}',
     '{"configs": [{"fn": "fp8", "model": "a]"}], "zeta": []}\n'],
)  # fmt: skip
def test_a_list_in_brackets_takes_an_entry_in_brackets(tmp_path: Path, before: str) -> None:
    out = tmp_path / "c.yaml"
    out.write_text(before)
    assert write_setup(function="bf16", output=out, append=True).num_entries == 2
    data = yaml.safe_load(out.read_text())
    assert [entry["fn"] for entry in data["configs"]] == ["fp8", "bf16"]
    text = out.read_text()
    start = text.index('{"distributed_executor_backend"')
    flow = text[start : text.index("}", start) + 1]
    assert before in {text.replace(comma + flow, "") for comma in (", ", " ")}


def test_indentation_and_line_ends_are_the_file_s(tmp_path: Path) -> None:
    out = tmp_path / "c.yaml"
    out.write_bytes(b"configs:\r\n  - fn: fp8 # eight\r\n    model: q\r\nowner: me\r\n")
    write_setup(function="bf16", output=out, append=True)
    added = "".join(f"  {line}\r\n" for line in BF16.splitlines()).encode()
    assert out.read_bytes() == (
        b"configs:\r\n  - fn: fp8 # eight\r\n    model: q\r\n" + added + b"owner: me\r\n"
    )  # fmt: skip


def test_what_cannot_take_an_entry_is_left(tmp_path: Path) -> None:
    text = "configs: [" + "{fn: fp8}, " * 2 + "{fn: fp8}] #" + "]" * 100 + "\n"
    with pytest.raises(InteropError, match="without being written anew"):
        with_entry(text, FlashRLEntry({"fn": "bf16"}), "c.yaml")


@pytest.mark.parametrize("before", ["foo: 1\n", "{", "configs: {web: {file: ./x}}\n", "- 1\n", "text\n"])
def test_a_file_that_is_no_config_is_not_replaced_without_a_word(cli: Command, tmp_path: Path, before: str) -> None:
    out = tmp_path / "c.yaml"
    out.write_text(before)
    ran = cli("setup", "--fn", "bf16", "-o", out, program="flashrl")
    assert ran.code == 1
    assert f"{out} is there and no FlashRL config" in ran.err
    assert "--force" in ran.err
    assert out.read_text() == before
    assert cli("setup", "--fn", "bf16", "-o", out, "--force", program="flashrl").code == 0
    assert out.read_text() == "configs:\n" + BF16


def test_a_config_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "c.yaml"
    out.write_text("configs: [{fn: int8, model: q}, {fn: fp8}]\n")
    assert write_setup(function="bf16", output=out).num_entries == 1
    assert out.read_text() == "configs:\n" + BF16


@pytest.mark.parametrize("append", [True, False])
def test_a_link_stays_a_link(tmp_path: Path, append: bool) -> None:
    (tmp_path / "files").mkdir()
    real, out = tmp_path / "files" / "real.yaml", tmp_path / "c.yaml"
    out.symlink_to("files/real.yaml")
    write_setup(function="bf16", output=out, append=append)  # the link leads nowhere yet
    assert real.read_text() == "configs:\n" + BF16
    real.chmod(0o600)
    write_setup(function="fp8", output=out, append=append)
    assert out.is_symlink()
    assert len(yaml.safe_load(real.read_text())["configs"]) == 1 + append
    assert stat.S_IMODE(real.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("function", "settings", "where"),
    [
        ("int8", ["quantization=fp8"], "quantization"),
        ("fp8", ["quantization=awq"], "quantization"),
        ("bf16", ["quantization=fp8"], "quantization"),
        ("int8", ["configs=[]"], "configs=[]"),
    ],
)
def test_a_setting_that_contradicts_fn_is_refused(
    tmp_path: Path, function: str, settings: list[str], where: str
) -> None:
    with pytest.raises(NotExpressibleError) as caught:
        write_setup(function=function, output=tmp_path / "c.yaml", model="q", settings=settings)
    assert [diagnostic.where for diagnostic in caught.value.diagnostics] == [where]


def test_a_setting_that_says_what_fn_says_is_taken(tmp_path: Path) -> None:
    for function, method in (("fp8_vllm", "fp8"), ("int8", "compressed-tensors"), ("fp8_tensor", "compressed-tensors")):
        settings = [f"quantization={method}"]
        entry = write_setup(function=function, output=tmp_path / "c.yaml", model="q", settings=settings).entry
        assert entry.values["quantization"] == method


def test_a_key_that_is_nearly_flashrl_s_is_warned_about(cli: Command, tmp_path: Path) -> None:
    keys = ("quantisation=x", "Model=y", "load-format=auto", "mine=1", "note=z")
    ran = cli("setup", "--fn", "bf16", "-o", tmp_path / "c.yaml", *keys, program="flashrl")
    assert ran.code == 0
    assert [line for line in ran.out.splitlines() if line.startswith("note:")] == [
        f"note: {key} is no key of FlashRL, which passes over it; did you mean {near}?"
        for key, near in (("quantisation", "quantization"), ("Model", "model"), ("load-format", "load_format"))
    ]
