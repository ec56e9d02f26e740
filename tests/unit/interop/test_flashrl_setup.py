"""``flashrl setup`` writes what FlashRL's own command wrote, and what that one could not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flashrl_registry.errors import InteropError, NotExpressibleError, SchemaError
from flashrl_registry.interop.flashrl_setup import write_setup

THEIRS = (
    "fp8", "fp8_fast", "fp8_vllm", "fp8_vllm_fast", "fp8_channel", "fp8_tensor", "int8", "int8_fast",
    "int8_wo_prune", "int8_prune",
)  # fmt: skip


@pytest.mark.parametrize("function", THEIRS)
def test_the_file_equals_the_one_that_flashrl_writes(flashrl: Any, tmp_path: Path, function: str) -> None:
    out = tmp_path / "c.yaml"
    write_setup(function=function, output=out, model="org/model-quantized", profile="profiles/profile.pt")
    assert out.read_bytes() == (flashrl.folder / f"{function}.yaml").read_bytes()


def test_appending_equals_flashrl_s(flashrl: Any, tmp_path: Path) -> None:
    out = tmp_path / "c.yaml"
    assert not write_setup(function="int8", output=out, model="org/model-quantized", append=True).appended
    written = write_setup(function="fp8_channel", output=out, model="org/model-quantized", append=True)
    assert (written.appended, written.num_entries) == (True, 2)
    assert out.read_bytes() == (flashrl.folder / "two.yaml").read_bytes()


def test_a_bf16_entry_can_be_appended_where_flashrl_s_command_fails(flashrl: Any, tmp_path: Path) -> None:
    assert "load_format should be 'auto' for bf16" in (flashrl.folder / "bf16_appended.txt").read_text()
    out = tmp_path / "c.yaml"
    write_setup(function="int8", output=out, model="q")
    write_setup(function="bf16", output=out, append=True)
    assert yaml.safe_load(out.read_text())["configs"][1] == {
        "distributed_executor_backend": "external_launcher", "fn": "bf16", "load_format": "dummy",
    }  # fmt: skip


def test_settings_are_data(tmp_path: Path) -> None:
    out = tmp_path / "c.yaml"
    settings = ['module_attribute_to_preserve=["workspace"]', "url=a=b", "rate=1e-5", "note=__import__('os').abort()"]
    entry = write_setup(function="int8", output=out, model="q", settings=settings).entry
    assert entry.values["module_attribute_to_preserve"] == ["workspace"]
    assert entry.values["url"] == "a=b"
    assert entry.values["rate"] == 1e-5
    assert entry.values["note"] == "__import__('os').abort()"


def test_all_faults_of_the_command_line_are_named_at_once(tmp_path: Path) -> None:
    settings = ["novalue", "load_format=dummy", "model=3", "x=[1", "flag=True", "fn=bf16"]
    with pytest.raises(NotExpressibleError) as caught:
        write_setup(function="int8", output=tmp_path / "c.yaml", settings=settings)
    assert [diagnostic.where for diagnostic in caught.value.diagnostics] == [
        "--model", "novalue", "model=3", "x=[1", "flag=True", "fn", "load_format",
    ]  # fmt: skip
    assert "write flag=true" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_an_unknown_function_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InteropError, match="did you mean 'fp8_channel'"):
        write_setup(function="fp8_chanel", output=tmp_path / "c.yaml")


@pytest.mark.parametrize("before", ["configs: 3\n", "configs: [{fn: x}]\n", "{"])
def test_a_file_that_is_no_config_stays_as_it_is(tmp_path: Path, before: str) -> None:
    out = tmp_path / "c.yaml"
    out.write_text(before)
    with pytest.raises(Exception, match=r"c\.yaml"):
        write_setup(function="bf16", output=out, append=True)
    assert out.read_text() == before
    assert [file.name for file in tmp_path.iterdir()] == ["c.yaml"]


def test_other_keys_of_the_file_stay(tmp_path: Path) -> None:
    out = tmp_path / "c.yaml"
    out.write_text("owner: me\nconfigs:\n- {fn: int8, model: q, more: [1]}\n")
    write_setup(function="bf16", output=out, append=True)
    data = yaml.safe_load(out.read_text())
    assert data["owner"] == "me"
    assert data["configs"][0] == {"fn": "int8", "model": "q", "more": [1]}


def test_the_default_file_is_flashrl_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert write_setup(function="bf16").path == tmp_path / ".flashrl_config.yaml"


def test_the_command(cli: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "c.yaml"
    ran = cli("setup", "-m", "q", "-p", "p.pt", "--fn", "int8", "-o", out, "a=1", "b=[x]", program="flashrl")
    assert (ran.code, ran.err) == (0, "")
    assert yaml.safe_load(out.read_text())["configs"][0]["b"] == ["x"]
    ran = cli("setup", "-a", "--fn", "bf16", "-o", out, "--json", program="flashrl")
    assert ran.json["num_entries"] == 2
    assert cli("setup", "--fn", "int8", "-o", out, program="flashrl").code == 1
    assert cli("setup", "--fn", "int3", "-o", out, program="flashrl").code == 2


def test_nothing_but_the_file_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import site

    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.setattr(site, "getsitepackages", lambda: [str(folder)])
    write_setup(function="bf16", output=tmp_path / "c.yaml")
    assert not list(folder.iterdir())


def test_the_appended_file_is_checked_before_the_new_entry(tmp_path: Path) -> None:
    out = tmp_path / "c.yaml"
    out.write_text("configs:\n- {model: 1}\n")
    with pytest.raises(SchemaError, match=r"c\.yaml:2:11"):
        write_setup(function="bf16", output=out, append=True)
