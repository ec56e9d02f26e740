"""References: every form is understood, and nothing else is."""

from dataclasses import replace
from pathlib import Path

import pytest

from flashrl_registry.errors import InvalidRefError
from flashrl_registry.registry import HubFileRef, NamedRef, PathRef, PresetRef, parse_ref
from flashrl_registry.registry.folders import check_name
from flashrl_registry.registry.ref import with_digest

DIGEST = "a" * 64


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("int8", PresetRef("int8")),
        (" bf16 ", PresetRef("bf16")),
        ("./plans/mine", PathRef(Path("plans/mine"))),
        ("/abs/plan.yaml", PathRef(Path("/abs/plan.yaml"))),
        ("team/plan", NamedRef("team/plan")),
        ("team/plan@1.2.3", NamedRef("team/plan", "1.2.3")),
        (f"team/plan@1.2.3#sha256={DIGEST}", NamedRef("team/plan", "1.2.3", f"sha256:{DIGEST}")),
        (f"team/plan#sha256:{DIGEST}", NamedRef("team/plan", None, f"sha256:{DIGEST}")),
        (f"./plan#sha256={DIGEST}", PathRef(Path("plan"), f"sha256:{DIGEST}")),
    ],
)
def test_forms(text: str, ref: object) -> None:
    assert parse_ref(text) == ref


@pytest.mark.parametrize(
    "text",
    ["", "plan", "a/b/c", "team/..", "team/plan@", "team/plan@a b", "team/plan#abc", "-/x", "team/plan#sha256=A"],
)
def test_anything_else_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(InvalidRefError, match="is not a plan reference") as caught:
        parse_ref(text)
    assert caught.value.hint is not None
    assert "namespace/name[@version]" in caught.value.hint


def test_what_is_both_a_path_and_a_registry_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_ref("team/plan") == NamedRef("team/plan")
    (tmp_path / "team" / "plan").mkdir(parents=True)
    with pytest.raises(InvalidRefError, match="could be a registry name"):
        parse_ref("team/plan")
    assert parse_ref("./team/plan") == PathRef(Path("team/plan"))
    assert parse_ref("team/plan@1.0.0") == NamedRef("team/plan", "1.0.0")


def test_a_pin_without_a_digest_is_refused() -> None:
    with pytest.raises(InvalidRefError, match="not a digest"):
        parse_ref("./plan#")


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("team/plan@stable", NamedRef("team/plan", "stable")),
        ("team/plan@1.0.0:int8", NamedRef("team/plan", "1.0.0", None, "int8")),
        ("Qwen/Qwen3-8B:int8", NamedRef("Qwen/Qwen3-8B", None, None, "int8")),
        ("hf://team/plan", NamedRef("team/plan", store="hub")),
        ("hf://team/plan@refs%2Fpr%2F3", NamedRef("team/plan", "refs/pr/3", store="hub")),
        (f"hf://team/plan@v1#sha256={DIGEST}", NamedRef("team/plan", "v1", f"sha256:{DIGEST}", store="hub")),
        ("team/repo/configs/plan.yaml", HubFileRef("team/repo", "configs/plan.yaml")),
        ("hf://team/repo@v1/configs/plan.yaml", HubFileRef("team/repo", "configs/plan.yaml", "v1")),
        (
            "hf://team/plan?store=https://hub.example",
            NamedRef("team/plan", store="hub", endpoint="https://hub.example"),
        ),
        ("team/plan@v1?store=http://h:1/", NamedRef("team/plan", "v1", store="hub", endpoint="http://h:1")),
        ("a/b:int8?store=s3://plans/x", NamedRef("a/b", member="int8", store="url", endpoint="s3://plans/x")),
        ("a/b/c.yaml?store=https://h", HubFileRef("a/b", "c.yaml", endpoint="https://h")),
    ],
)
def test_forms_of_stores(text: str, ref: object) -> None:
    assert parse_ref(text) == ref
    if isinstance(ref, NamedRef):
        assert parse_ref(str(ref)) == replace(ref, digest=None)
        pinned = replace(ref, digest=f"sha256:{DIGEST}")
        assert parse_ref(with_digest(pinned)) == pinned


@pytest.mark.parametrize(
    "text", ["hf://team", "hf://team/..", "hf://a/b/c", "team/plan@../x", "team/plan@a..b", "hf://a/b@%00"]
)
def test_what_could_leave_a_repository_is_refused(text: str) -> None:
    with pytest.raises(InvalidRefError):
        parse_ref(text)


@pytest.mark.parametrize(
    "text",
    [
        "team/plan?store=", "team/plan?store=local", "team/plan?store=https://ann:secret@hub.example",
        "./plan?store=https://hub.example", "hf://team/plan?store=s3://bucket", "int8?store=https://hub.example",
    ],
)  # fmt: skip
def test_a_store_is_an_address_without_credentials(text: str) -> None:
    with pytest.raises(InvalidRefError, match="is not a plan reference") as caught:
        parse_ref(text)
    assert "secret" not in f"{caught.value} {caught.value.hint} {caught.value.context}"


@pytest.mark.parametrize(
    "text",
    [
        "https://ann:s3cret@huggingface.co/demo/a", "https://s3cret@huggingface.co/demo/a",
        "https://ann:s3cret@huggingface.co/demo/plan.yaml", "hf://ann:s3cret@huggingface.co/demo/a",
        "ann:s3cret@huggingface.co/demo/a", "hf://hf_s3cretS3CRETs3cret00@huggingface.co/demo/a",
        "team/plan#https://ann:s3cret@h",
    ],
)  # fmt: skip
def test_a_password_in_a_reference_is_not_repeated(text: str) -> None:
    with pytest.raises(InvalidRefError) as caught:
        parse_ref(text)
    assert "s3cret" not in f"{caught.value.message} {caught.value.hint} {caught.value.context}"


@pytest.mark.parametrize("name", ["ann:s3cret", "https://ann:s3cret", "https://s3cret", "hf_s3cretS3CRETs3cret00"])
def test_a_password_in_a_name_to_publish_is_not_repeated(name: str) -> None:
    with pytest.raises(InvalidRefError, match="is not a plan name") as caught:
        check_name(name)
    assert "s3cret" not in f"{caught.value.message} {caught.value.hint} {caught.value.context}"
