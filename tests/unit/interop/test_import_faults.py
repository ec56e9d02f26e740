"""What an import says of files that it cannot take: all of it, with places, and what was found instead."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from flashrl_registry.errors import InteropError, StoreUnavailableError
from flashrl_registry.interop.importing import ImportOptions, import_source
from flashrl_registry.interop.locate import locate

Command = Callable[..., Any]


@pytest.fixture
def refused(cli: Command, checkpoint: Path, tmp_path: Path) -> Callable[[Path | str], str]:
    """The message for a file that cannot be imported."""

    def message(source: Path | str) -> str:
        ran = cli("import", source, "-m", checkpoint, "-o", tmp_path / "out")
        assert ran.code == 1
        assert not (tmp_path / "out").exists()
        text: str = ran.err
        return text

    return message


def test_every_fault_of_every_entry_is_named_at_once(
    refused: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(
        "configs:\n- fn: int9\n- fn: int8\n  profile: nope.pt\n- {fn: fp8, quantization: awq}\n- {fn: bf16}\n- {}\n"
    )
    assert refused("c.yaml").splitlines()[:-1] == [
        "error: c.yaml:2:7: configs[0].fn: 'int9' is no function of FlashRL; did you mean 'int8'?",
        "c.yaml:4:12: configs[1].profile: no file nope.pt in .",
        "c.yaml:5:27: configs[2].quantization: is 'awq', which would make vLLM load something else than fp8; "
        "only 'fp8' means that",
        "c.yaml:7:3: configs[4]: names neither a profile nor the model beside which one lies",
    ]


def test_faults_inside_profiles_of_several_entries_come_together(
    refused: Callable[[str], str], flashrl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save([], "empty.pt")
    fp8 = flashrl.folder / "fp8.pt"
    Path("c.yaml").write_text(f"configs:\n- profile: empty.pt\n- profile: {fp8}\n- {{fn: bf16}}\n")
    text = refused("c.yaml")
    assert f"c.yaml:3:12: configs[1].profile: {fp8} is an fp8 profile, and int8 needs an int8 one" in text
    assert "empty.pt: is empty" in text


@pytest.mark.parametrize("values", ["fn: int8, quantization: fp8", "fn: bf16, quantization: fp8"])
def test_a_quantization_that_contradicts_fn_is_refused(
    refused: Callable[[Path], str], tmp_path: Path, values: str
) -> None:
    (tmp_path / "c.yaml").write_text(f"configs: [{{{values}, model: q, profile: c.yaml}}]\n")
    assert "which would make vLLM load something else than" in refused(tmp_path / "c.yaml")


def test_a_key_that_is_nearly_flashrl_s_is_noted(cli: Command, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("configs: [{fn: fp8, quantisation: awq, mine: 1}]\n")
    ran = cli("import", tmp_path / "c.yaml", "-m", checkpoint, "-o", tmp_path / "out", "--json")
    assert [note for note in ran.json["notes"] if "did you mean" in note] == [
        "quantisation is no key of FlashRL, which passes over it; did you mean quantization?"
    ]


def test_a_path_whose_first_folder_is_here_is_no_place_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ie").mkdir()
    (tmp_path / "beside" / "or").mkdir(parents=True)

    def fetch(repo: str, file: str) -> Path:
        raise AssertionError((repo, file))

    for text in ("ie/cfl/quantization_config.json", "or/x/profile.pt"):
        with pytest.raises(InteropError, match=f"no such file: {text}"):
            locate(text, [tmp_path / "beside"], fetch=fetch)
    for text in ("a/../b/c.json", "a b/c/d.json", "..x/c/d.json", "a/b/../c.json"):
        with pytest.raises(InteropError, match="no file"):
            locate(text, fetch=fetch)


def test_a_hub_that_cannot_be_reached_is_one_error_and_no_line_per_retry(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("configs: [{profile: owner/repo/profile.pt}]\n")
    code = (
        "import sys; from huggingface_hub import file_download\n"
        "from huggingface_hub.utils import logging\n"
        "def unreachable(**_):\n"
        "    logging.get_logger('huggingface_hub.utils._http').warning('Retrying in 1s [Retry 1/5].')\n"
        "    raise OSError('no route')\n"
        "import huggingface_hub; huggingface_hub.hf_hub_download = unreachable\n"
        "from flashrl_cli.app import run; sys.exit(run('flashrl-registry', sys.argv[1:]))"
    )
    arguments = ["import", str(tmp_path / "c.yaml"), "-m", str(checkpoint), "-o", str(tmp_path / "out")]
    ran = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr.splitlines() == [
        "error: profile.pt of owner/repo cannot be had from the Hub: no route",
        "hint: download it yourself and give its path",
    ]


def test_a_hub_that_cannot_be_reached_stays_that_error(checkpoint: Path, tmp_path: Path) -> None:
    def unreachable(repo: str, file: str) -> Path:
        raise StoreUnavailableError(f"{file} of {repo}")

    (tmp_path / "c.yaml").write_text("configs: [{fn: bf16}, {profile: owner/repo/profile.pt}]\n")
    with pytest.raises(StoreUnavailableError):
        import_source(str(tmp_path / "c.yaml"), checkpoint, tmp_path / "out", ImportOptions(fetch=unreachable))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("[1, 2]", "holds a list, which is of no kind that can be imported"),
        ("{a: 1, b: 2}", "is of no kind that can be imported: a map of a, b"),
        ('{"quant_method": "awq", "bits": 4}', "1:2: quant_method: is the string 'awq', not compressed"),
        (
            '{"model_type": "m", "quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic"}}',
            "quantization_config.quant_method: is the string 'fp8', not compressed-tensors",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_imported_is_said_to_be_what_it_is(
    refused: Callable[[Path], str], tmp_path: Path, text: str, says: str
) -> None:
    (tmp_path / "file.json").write_text(text)
    told = refused(tmp_path / "file.json")
    assert says in told
    assert "bits" not in told


def test_a_checkpoint_that_is_not_quantized_is_said_to_be_one(refused: Callable[[Path], str], checkpoint: Path) -> None:
    told = refused(checkpoint)
    assert "is the config of a llama checkpoint that is not quantized: it has no quantization_config" in told
    assert f"flashrl-registry compile -m {checkpoint}" in told


class _Code:
    """What a pickle of it would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.getenv, ("HOME",)


def test_nobody_is_told_to_run_the_code_in_a_profile(refused: Callable[[Path], str], tmp_path: Path) -> None:
    torch.save({"a": _Code()}, tmp_path / "evil.pt")
    told = refused(tmp_path / "evil.pt")
    assert "it calls for os.getenv, which is code" in told
    assert "weights_only" not in told
    (tmp_path / "cut.pt").write_bytes((tmp_path / "evil.pt").read_bytes()[:60])
    assert "failed finding central directory" in refused(tmp_path / "cut.pt")
