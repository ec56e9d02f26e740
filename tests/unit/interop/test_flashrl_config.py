"""FlashRL's config files: what FlashRL 1.0.3 wrote is read, and what is written FlashRL reads."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from flashrl_registry.documents.strict_yaml import parse_text
from flashrl_registry.errors import SchemaError
from flashrl_registry.interop.flashrl_config import (
    FUNCTIONS,
    FlashRLConfig,
    FlashRLEntry,
    default_values,
    parse_config,
    read_config,
)
from flashrl_registry.interop.flashrl_text import config_text

SCHEMES = {
    "fp8": "fp8", "fp8_fast": "fp8", "fp8_vllm": "fp8", "fp8_vllm_fast": "fp8", "fp8_channel": "fp8_channel",
    "fp8_tensor": "fp8_tensor", "int8": "int8", "int8_fast": "int8", "int8_wo_prune": "int8",
    "int8_prune": "int8_prune", "bf16": "bf16",
}  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_config_that_flashrl_wrote_is_read_and_written_byte_for_byte(flashrl: Any, function: str) -> None:
    file = flashrl.folder / f"{function}.yaml"
    config = read_config(file)
    (entry,) = config.entries
    assert (entry.function, entry.scheme) == (function, SCHEMES[function])
    assert config_text(config) == file.read_text()


def test_defaults_are_flashrl_s_own(flashrl: Any) -> None:
    theirs = json.loads((flashrl.folder / "defaults.json").read_text())
    # FlashRL's setup overwrites its dataclass's fn, which is another synonym for some.
    assert {fn: default_values(fn) for fn in FUNCTIONS} == {fn: {**theirs[fn], "fn": fn} for fn in FUNCTIONS}


def test_several_entries_keep_their_order(flashrl: Any) -> None:
    config = read_config(flashrl.folder / "two.yaml")
    assert [entry.function for entry in config.entries] == ["int8", "fp8_channel"]
    assert config_text(config) == (flashrl.folder / "two.yaml").read_text()


def test_keys_that_nothing_knows_come_out_again(flashrl: Any) -> None:
    config = read_config(flashrl.folder / "columns.yaml")
    (entry,) = config.entries
    assert entry.unknown == ["flag", "nested", "note", "nothing", "steps"]
    assert entry.values["steps"] == 1e-5
    assert entry.values["nested"] == {"a": [1, 2.5]}
    assert yaml.safe_load(config_text(config)) == yaml.safe_load((flashrl.folder / "columns.yaml").read_text())


def test_the_profile_lies_beside_the_model_by_default() -> None:
    def profile(**values: str) -> str | None:
        return FlashRLEntry(values).profile

    assert profile(model="org/q") == "org/q/profile.pt"
    assert profile(model="q/", fn="fp8_channel") == "q/profile.pt"
    assert profile(model="q", profile=" p.pt ") == "p.pt"
    assert profile(model="q", profile="p.pt", fn="fp8") is None
    assert profile() is None


def test_an_entry_without_fn_is_int8() -> None:
    assert parse_config("configs: [{model: q}]", "f").entries[0].scheme == "int8"


def test_all_faults_are_named_at_once_with_their_places() -> None:
    text = "configs:\n- fn: int9\n  model: 7\n- 3\n- module_attribute_to_preserve: workspace\n  profile: null\n"
    with pytest.raises(SchemaError) as caught:
        parse_config(text, "f.yaml")
    assert str(caught.value).splitlines() == [
        "f.yaml:2:7: configs[0].fn: 'int9' is no function of FlashRL; did you mean 'int8'?",
        "f.yaml:3:10: configs[0].model: must be a string, not the number 7",
        "f.yaml:4:3: configs[1]: must be a map, not the number 3",
        "f.yaml:5:33: configs[2].module_attribute_to_preserve: must be a list of strings, not the string 'workspace'",
        "f.yaml:6:12: configs[2].profile: must be a string, not null",
    ]


@pytest.mark.parametrize("text", ["[]", "other: 1", "configs: []", "configs: {}", "configs:"])
def test_what_is_no_config_is_refused(text: str) -> None:
    with pytest.raises(SchemaError):
        parse_config(text, "f")


@pytest.mark.parametrize(
    "value",
    ["no", "on", "Y", "null", "", "~/x", "2026-11-24", "1:30", "1_000", "1e3", "0x1F", ".5", ".inf", "=", "<<", "a: b",
     " x", "x ", "a #b", "[1]", "é", "\u2028", "\x85", "\U0001f600", "tab\t", "line\nbreak", '"', "'", "\\", "&a", "*a",
     "!t", "%d", "@x", "`x", "-", "?", "1e-05", 1e-05, 1e20, 1.5, -0.0, 3, True, None,
     [], {}, ["a", "no"], [[1], ["x"]], {"no": "yes", "a b": [1, {"c": None}]}, "x" * 300],
    ids=repr,
)  # fmt: skip
def test_every_value_means_the_same_to_flashrl_and_to_us(value: Any) -> None:
    text = config_text(FlashRLConfig((FlashRLEntry({"key": value, "no": value}),), {"zeta": value}))
    wanted = {"configs": [{"key": value, "no": value}], "zeta": value}
    assert repr(yaml.safe_load(text)) == repr(wanted)
    assert repr(parse_text(text, "f").data) == repr(wanted)


def test_a_header_becomes_comments(tmp_path: Path) -> None:
    text = config_text(FlashRLConfig((FlashRLEntry({"fn": "bf16"}),)), header="one\ntwo")
    assert text.splitlines()[:3] == ["# one", "# two", "configs:"]
