"""``import`` and ``export`` as a user runs them: FlashRL's files in, and back out equal."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from flashrl_registry.documents import Hybrid, Plan, Rules, read_document
from flashrl_registry.errors import InteropError, SchemaError
from flashrl_registry.interop.importing import ImportOptions, import_source
from flashrl_registry.interop.locate import locate
from flashrl_registry.registry import read_bundle

Command = Callable[..., Any]
# Functions whose entry needs a profile, and the pair that it is of.
PROFILED = {"int8": "smooth", "int8_fast": "smooth", "int8_wo_prune": "smooth", "int8_prune": "smooth",
            "fp8_channel": "fp8", "fp8_tensor": "fp8"}  # fmt: skip
SCHEMES = {"int8_fast": "int8", "int8_wo_prune": "int8", "fp8_vllm": "fp8", "fp8_fast": "fp8", "fp8_vllm_fast": "fp8"}


@pytest.fixture
def job(flashrl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The folder of a FlashRL job: its configs name ``profiles/profile.pt``, relative to where it runs."""
    folder = tmp_path / "job"
    (folder / "profiles").mkdir(parents=True)
    monkeypatch.chdir(folder)

    def with_profile(pair: str) -> Any:
        shutil.copy(flashrl.folder / f"{pair}.pt", folder / "profiles" / "profile.pt")
        return flashrl

    return with_profile


def same_profile(one: Path, other: Path) -> bool:
    left, right = (torch.load(path, weights_only=True) for path in (one, other))
    if isinstance(left, list):
        return sorted(left) == sorted(right)  # FlashRL asks only whether a name is in it
    return left.keys() == right.keys() and all(
        torch.equal(a, b) and a.shape == b.shape if isinstance(a, torch.Tensor) else a == b and type(a) is type(b)
        for name in left
        for a, b in [(left[name][key], right[name][key]) for key in ("input_scale", "output_scale", "type")]
    )


@pytest.mark.parametrize(
    "function",
    ["fp8", "fp8_fast", "fp8_vllm", "fp8_vllm_fast", "fp8_channel", "fp8_tensor", "int8", "int8_fast",
     "int8_wo_prune", "int8_prune", "bf16"],
)  # fmt: skip
def test_a_config_and_its_profile_go_in_and_come_out_equal(
    cli: Command, job: Any, function: str, tmp_path: Path
) -> None:
    pair = PROFILED.get(function, "smooth")
    flashrl = job(pair)
    source = flashrl.folder / f"{function}.yaml"
    ran = cli("import", source, "-m", flashrl.references[pair], "-o", tmp_path / "plan")
    assert (ran.code, ran.err) == (0, "")
    plan = read_bundle(tmp_path / "plan").plan
    scheme = SCHEMES.get(function, function)
    assert {rule.scheme for rule in plan.rules} == {scheme, "bf16"}
    ran = cli("export", tmp_path / "plan", "--to", "flashrl", "-o", tmp_path / "back")
    assert (ran.code, ran.err) == (0, "")
    (theirs,), (ours,) = (
        yaml.safe_load(f.read_text())["configs"] for f in (source, tmp_path / "back/flashrl_config.yaml")
    )
    if function in PROFILED:
        assert same_profile(Path(ours.pop("profile")), Path(theirs.pop("profile")))
    assert ours == theirs


def test_int8_scales_are_flashrl_s_unless_asked_otherwise(cli: Command, job: Any, tmp_path: Path) -> None:
    flashrl = job("smooth")
    given = ("import", flashrl.folder / "int8.yaml", "-m", flashrl.references["smooth"], "-o")
    assert "scales are FlashRL's" in cli(*given, tmp_path / "frozen").out
    assert cli(*given, tmp_path / "fresh", "--recompute").code == 0
    scales = [read_bundle(tmp_path / name).plan.update.scales for name in ("frozen", "fresh")]
    assert scales == ["frozen", "recompute"]
    ran = cli("export", tmp_path / "fresh", "--to", "flashrl", "-o", tmp_path / "back", "--json")
    assert ran.code == 1
    assert ran.json["error"]["code"] == "not-expressible"
    assert [d["where"] for d in ran.json["error"]["context"]["diagnostics"]] == ["update.scales"]
    assert not (tmp_path / "back").exists()
    ran = cli("export", tmp_path / "fresh", "--to", "flashrl", "-o", tmp_path / "back", "--lossy")
    assert "left out: update.scales" in ran.out
    assert same_profile(tmp_path / "back" / "profile.pt", Path("profiles/profile.pt"))


def test_a_hybrid_goes_in_and_comes_out_equal(cli: Command, job: Any, tmp_path: Path) -> None:
    flashrl = job("smooth")
    entry = {"fn": "int8", "model": "q", "profile": "profiles/profile.pt", "load_format": "auto", "mine": [1]}
    config = {"configs": [entry, {"fn": "bf16", "load_format": "dummy"}, {**entry, "more": True}], "owner": "me"}
    Path("c.yaml").write_text(json.dumps(config))
    ran = cli("import", "c.yaml", "-m", flashrl.references["smooth"], "-o", tmp_path / "out", "--json")
    assert ran.code == 0
    assert [plan["name"] for plan in ran.json["plans"]] == ["int8", "bf16", "int8-2"]
    hybrid = read_document(tmp_path / "out" / "hybrid.yaml", Hybrid)
    assert [member.name for member in hybrid.schedule(4)] == ["int8", "bf16", "int8-2", "int8"]
    for member in hybrid.members:
        assert read_bundle(tmp_path / "out" / member.plan).plan.digest == member.digest
    assert cli("validate", tmp_path / "out").code == 0
    for given in (tmp_path / "out", tmp_path / "out" / "hybrid.yaml"):
        assert cli("export", given, "--to", "flashrl", "-o", tmp_path / "back").code == 0
    back = yaml.safe_load((tmp_path / "back" / "flashrl_config.yaml").read_text())
    for values, file in ((back["configs"][0], "profile-int8.pt"), (back["configs"][2], "profile-int8-2.pt")):
        assert values["profile"] == str(tmp_path / "back" / file)
        assert same_profile(tmp_path / "back" / file, Path("profiles/profile.pt"))
        values["profile"] = "profiles/profile.pt"
    assert back == config


def test_an_import_replaces_nothing_that_it_would_not_write_itself(cli: Command, job: Any, tmp_path: Path) -> None:
    flashrl = job("smooth")
    Path("one.yaml").write_text("configs: [{fn: fp8}]")
    Path("two.yaml").write_text("configs: [{fn: fp8}, {fn: bf16}]")
    to = ("-m", flashrl.references["smooth"], "-o", tmp_path / "out")
    for _ in range(2):
        assert cli("import", "one.yaml", *to).code == 0, "the same again is no loss"
    ran = cli("import", "two.yaml", *to)
    assert (ran.code, (tmp_path / "out" / "hybrid.yaml").exists()) == (1, False)
    assert "holds a plan already: plan.yaml, plan.json" in ran.err
    before = (tmp_path / "out" / "plan.yaml").read_text() + "# mine\n"
    (tmp_path / "out" / "plan.yaml").write_text(before)
    refused = cli("import", "one.yaml", *to)
    assert refused.code == 1
    assert "it is not replaced: plan.yaml" in refused.err
    assert "--force" in refused.err
    assert (tmp_path / "out" / "plan.yaml").read_text() == before
    assert cli("import", "one.yaml", *to, "--force").code == 0
    assert (tmp_path / "out" / "plan.yaml").read_text() != before
    (tmp_path / "file").write_text("mine")
    for source in ("one.yaml", "two.yaml"):
        assert "is a file, and a plan is written into a folder" in cli("import", source, *to[:3], tmp_path / "file").err
    assert (tmp_path / "file").read_text() == "mine"


def test_a_hybrid_member_that_was_compiled_again_is_refused(cli: Command, job: Any, tmp_path: Path) -> None:
    flashrl = job("smooth")
    Path("c.yaml").write_text("configs: [{fn: fp8}, {fn: bf16}]")
    model = flashrl.references["smooth"]
    assert cli("import", "c.yaml", "-m", model, "-o", tmp_path / "out").code == 0
    assert cli("compile", "-m", model, "--scheme", "bf16", "-o", tmp_path / "out" / "fp8").code == 0
    ran = cli("export", tmp_path / "out", "--to", "flashrl", "-o", tmp_path / "back")
    assert ran.code == 1
    assert "member 'fp8' is another plan" in ran.err


def test_weights_of_a_hybrid_repeat_entries(cli: Command, tmp_path: Path) -> None:
    hybrid = tmp_path / "h.yaml"
    hybrid.write_text(
        "schema_version: flashrl.hybrid/v1\nmembers: [{name: a, plan: fp8, weight: 2}, {name: b, plan: bf16}]\n"
    )
    assert cli("export", hybrid, "--to", "flashrl", "-o", tmp_path).code == 0
    entries = yaml.safe_load((tmp_path / "flashrl_config.yaml").read_text())["configs"]
    assert [entry["fn"] for entry in entries] == ["fp8", "fp8", "bf16"]


def test_a_profile_alone_becomes_a_plan(cli: Command, flashrl: Any, tmp_path: Path) -> None:
    for pair, options, scheme in (
        ("smooth", (), "int8"), ("smooth", ("--fn", "int8_prune"), "int8_prune"), ("fp8", (), "fp8_channel"),
        ("fp8", ("--fn", "fp8_tensor"), "fp8_tensor"),
    ):  # fmt: skip
        out = tmp_path / scheme
        ran = cli("import", flashrl.folder / f"{pair}.pt", "-m", flashrl.references[pair], "-o", out, *options)
        assert (ran.code, ran.err) == (0, "")
        assert read_bundle(out).plan.rules[0].scheme == scheme
    ran = cli(
        "import", flashrl.folder / "fp8.pt", "-m", flashrl.references["fp8"], "-o", tmp_path / "x", "--fn", "int8"
    )
    assert "is an fp8 profile, and int8 needs an int8 one" in ran.err


def test_a_checkpoint_s_own_config_becomes_a_plan_with_editable_rules(
    cli: Command, flashrl: Any, tmp_path: Path
) -> None:
    quantized, model = flashrl.quantized["smooth"], flashrl.references["smooth"]
    ran = cli("import", quantized, "-m", model, "-o", tmp_path / "plan")
    assert ran.code == 0
    assert "int8 without a profile" in ran.out
    rules = read_document(tmp_path / "plan" / "rules.yaml", Rules)
    assert cli("compile", "-m", model, "--rules", tmp_path / "plan" / "rules.yaml", "-o", tmp_path / "again").code == 0
    assert read_bundle(tmp_path / "again").plan.digest == read_bundle(tmp_path / "plan").plan.digest
    assert rules.rules[0].scheme == "int8"
    cli("profile", "-m", model, "-qm", quantized, "-o", tmp_path / "profile", program="flashrl")
    ran = cli("import", quantized, "-m", model, "-o", tmp_path / "smoothed", "-p", tmp_path / "profile")
    assert read_bundle(tmp_path / "smoothed").plan.smoothing
    assert "without a profile" not in ran.out


def test_the_format_is_told_from_the_content(cli: Command, flashrl: Any, tmp_path: Path) -> None:
    model = flashrl.references["smooth"]
    data = Path(__file__).parents[2] / "data" / "interop"
    for source, kind in (
        (flashrl.folder / "bf16.yaml", "flashrl"), (flashrl.folder / "smooth.pt", "flashrl-profile"),
        (flashrl.quantized["smooth"], "compressed-tensors"), (data / "recipe_smoothquant_gptq.yaml", "llm-compressor"),
    ):  # fmt: skip
        ran = cli("import", source, "-m", model, "-o", tmp_path / kind, "--json")
        assert (ran.code, ran.json["format"]) == (0, kind)
    ran = cli("import", flashrl.folder / "bf16.yaml", "-m", model, "-o", tmp_path / "x", "--format", "llm-compressor")
    assert ran.code == 1
    assert "configs: does not end in _stage" in ran.err
    ran = cli("import", tmp_path / "flashrl" / "plan.yaml", "-m", model, "-o", tmp_path / "x")
    assert "is a plan document of this project" in ran.err
    (tmp_path / "other.yaml").write_text("a: 1")
    assert "of no kind that can be imported" in cli("import", tmp_path / "other.yaml", "-m", model, "-o", tmp_path).err


def test_nothing_is_written_where_anything_is_wrong(cli: Command, job: Any, tmp_path: Path) -> None:
    flashrl = job("smooth")
    Path("c.yaml").write_text("configs: [{fn: bf16}, {fn: int8, model: q}]")
    ran = cli("import", "c.yaml", "-m", flashrl.references["smooth"], "-o", tmp_path / "out")
    assert ran.code == 1
    assert "no file q/profile.pt" in ran.err
    assert not (tmp_path / "out").exists()
    assert cli("import", "c.yaml", "-m", flashrl.references["smooth"], "-o", tmp_path / "out",
               "-p", "profiles/profile.pt").code == 0  # fmt: skip


def test_a_profile_of_another_model_is_refused(cli: Command, job: Any, checkpoint: Path, tmp_path: Path) -> None:
    flashrl = job("smooth")
    ran = cli("import", flashrl.folder / "int8.yaml", "-m", checkpoint, "-o", tmp_path / "out")
    assert ran.code == 1
    assert "input_scale is torch.float32 [32], not torch.float32 [16]" in ran.err


def test_what_flashrl_cannot_do_is_listed(cli: Command, checkpoint: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        "schema_version: flashrl.rules/v1\n"
        "engine: {kv_cache_dtype: fp8, logprobs_mode: raw_logprobs}\n"
        "rules:\n"
        "- {name: a, scheme: int8, targets: ['*.mlp.*']}\n"
        "- {name: b, scheme: fp8_channel, targets: ['*.self_attn.*']}\n"
        "- {name: rest, scheme: bf16, targets: ['*'], ignore: ['*.mlp.*', '*.self_attn.*']}\n"
    )
    assert cli("compile", "-m", checkpoint, "--rules", rules, "-o", tmp_path / "plan").code == 0
    ran = cli("export", tmp_path / "plan", "--to", "flashrl", "-o", tmp_path / "back", "--lossy", "--json")
    assert ran.code == 1
    where = [diagnostic["where"] for diagnostic in ran.json["error"]["context"]["diagnostics"]]
    assert where == ["plan", "plan: model"]
    assert ran.json["error"]["hint"] is None
    ran = cli("export", tmp_path / "plan", "--to", "flashrl", "-o", tmp_path / "back", "--json")
    where = [diagnostic["where"] for diagnostic in ran.json["error"]["context"]["diagnostics"]]
    assert where == ["plan", "plan: model", "engine.logprobs_mode", "engine.kv_cache_dtype"]
    assert ran.json["error"]["hint"].startswith("--lossy leaves out engine.logprobs_mode, engine.kv_cache_dtype; ")
    ran = cli("export", tmp_path / "plan", "--to", "compressed-tensors", "-o", tmp_path / "ct")
    assert ran.code == 1
    assert "engine.kv_cache_dtype: fp8 has no place in it" in ran.err
    assert cli("export", tmp_path / "plan", "--to", "vllm", "-o", tmp_path / "vllm").code == 0


def test_int8_by_absmax_needs_a_profile_in_flashrl(cli: Command, checkpoint: Path, tmp_path: Path) -> None:
    assert cli("compile", "-m", checkpoint, "-o", tmp_path / "plan").code == 0
    ran = cli("export", tmp_path / "plan", "--to", "flashrl", "-o", tmp_path / "back", "-m", "q")
    assert "FlashRL needs a profile with fixed scales" in ran.err


def test_smoothing_is_not_dropped_from_a_config_silently(cli: Command, bundle: Any, tmp_path: Path) -> None:
    ran = cli("export", bundle.origin, "--to", "compressed-tensors", "-o", tmp_path / "ct")
    assert ran.code == 1
    assert "smoothing" in ran.err
    assert "--lossy" in ran.err
    assert cli("export", bundle.origin, "--to", "compressed-tensors", "-o", tmp_path / "ct", "--lossy").code == 0


def test_vllm_s_arguments(cli: Command, checkpoint: Path, tmp_path: Path) -> None:
    for scheme in ("fp8", "int8"):
        assert cli("compile", "-m", checkpoint, "--scheme", scheme, "-o", tmp_path / scheme).code == 0
        ran = cli("export", tmp_path / scheme, "--to", "vllm", "-o", tmp_path / f"{scheme}-out", "--vllm", "0.32.0")
        assert (ran.code, ran.err) == (0, "")
    fp8, int8 = (json.loads((tmp_path / f"{scheme}-out" / "vllm.json").read_text()) for scheme in ("fp8", "int8"))
    assert fp8 == {
        "quantization": "fp8_per_tensor", "quantization_config": {"ignore": ["lm_head"]},
        "logprobs_mode": "processed_logprobs",
    }  # fmt: skip
    assert int8["hf_overrides"]["quantization_config"]["format"] == "int-quantized"
    ran = cli("export", tmp_path / "fp8", "--to", "compressed-tensors", "-o", tmp_path / "x", "--lossy")
    assert "is vLLM's online method" in ran.err
    assert cli("export", tmp_path / "int8", "--to", "vllm", "-o", tmp_path, "--vllm", "0.20.0").code == 1
    assert cli("export", tmp_path / "int8", "--to", "gguf", "-o", tmp_path).code == 2


def test_a_plan_that_never_was_flashrl_s_exports_with_a_model(cli: Command, flashrl: Any, tmp_path: Path) -> None:
    model, quantized = flashrl.references["smooth"], flashrl.quantized["smooth"]
    cli("profile", "-m", model, "-qm", quantized, "-o", tmp_path / "profile", program="flashrl")
    cli("compile", "-m", model, "-p", tmp_path / "profile", "-o", tmp_path / "plan")
    ran = cli("export", tmp_path / "plan", "--to", "flashrl", "-o", tmp_path / "back", "--lossy")
    assert "FlashRL loads the quantized checkpoint; name it with --model" in ran.err
    ran = cli("export", tmp_path / "plan", "--to", "flashrl", "-o", tmp_path / "back", "--lossy", "-m", quantized)
    assert ran.code == 0
    theirs, ours = (
        torch.load(path, weights_only=True) for path in (flashrl.folder / "smooth.pt", tmp_path / "back" / "profile.pt")
    )
    assert theirs.keys() == ours.keys()
    for name, entry in theirs.items():
        for key in ("input_scale", "output_scale"):
            assert torch.allclose(torch.as_tensor(entry[key]), torch.as_tensor(ours[name][key]), rtol=1e-5, atol=0)


def test_notes_of_a_config_do_not_count_in_the_digest(job: Any, tmp_path: Path) -> None:
    flashrl = job("smooth")
    digests = set()
    for number, extra in enumerate(("", ", mine: 1", ", model: other, load_format: dummy")):
        Path("c.yaml").write_text(f"configs: [{{fn: fp8{extra}}}]")
        made = import_source("c.yaml", flashrl.references["smooth"], tmp_path / str(number))
        digests.add(made.plans[0].plan.digest)
        assert read_document(tmp_path / str(number) / "plan.json", Plan).digest == made.plans[0].plan.digest
    assert len(digests) == 1


def test_the_model_that_flashrl_loads_is_what_the_engine_starts_with(job: Any, tmp_path: Path, cli: Command) -> None:
    flashrl = job("smooth")
    Path("c.yaml").write_text("configs: [{fn: int8, model: org/quantized@v1, profile: profiles/profile.pt}]")
    made = import_source("c.yaml", flashrl.references["smooth"], tmp_path / "plan")
    assert made.plans[0].plan.engine.model == "org/quantized@v1"
    assert "the engine starts with the weights of org/quantized@v1 (engine.model)" in made.notes
    ran = cli("export", tmp_path / "plan", "--to", "flashrl", "-o", tmp_path / "out")
    assert ran.code == 0, ran.err
    (entry,) = yaml.safe_load((tmp_path / "out" / "flashrl_config.yaml").read_text())["configs"]
    assert entry["model"] == "org/quantized@v1"
    Path("c.yaml").write_text("configs: [{fn: fp8_channel, load_format: dummy, model: q, profile: fp8.pt}]")
    shutil.copy(flashrl.folder / "fp8.pt", "fp8.pt")
    made = import_source("c.yaml", flashrl.references["fp8"], tmp_path / "random")
    assert made.plans[0].plan.engine.model is None, "FlashRL starts such an engine with random weights"


def test_a_kept_entry_of_another_function_is_not_used(cli: Command, job: Any, tmp_path: Path) -> None:
    flashrl = job("smooth")
    Path("c.yaml").write_text("configs: [{fn: fp8, mine: 1}]")
    cli("import", "c.yaml", "-m", flashrl.references["smooth"], "-o", tmp_path / "plan")
    for name in ("plan.yaml", "plan.json"):
        file = tmp_path / "plan" / name
        file.write_text(file.read_text().replace("fn: fp8", "fn: int8").replace('"fn":"fp8"', '"fn":"int8"'))
    ran = cli("export", tmp_path / "plan", "--to", "flashrl", "-o", tmp_path / "back")
    assert "x-flashrl is not of this plan's function fp8" in ran.out
    assert yaml.safe_load((tmp_path / "back" / "flashrl_config.yaml").read_text())["configs"][0]["fn"] == "fp8"


def test_places_on_the_hub_are_flashrl_s(tmp_path: Path) -> None:
    asked = []

    def fetch(repo: str, file: str) -> Path:
        asked.append((repo, file))
        return tmp_path

    (tmp_path / "here.pt").write_bytes(b"")
    assert locate("here.pt", [tmp_path], fetch=fetch) == tmp_path / "here.pt"
    assert locate(" owner/repo/a/profile.pt ", fetch=fetch) == tmp_path
    assert asked == [("owner/repo", "a/profile.pt")]
    for text in ("owner/repo", "/a/b/c", "./a/b/c", "~/a/b/c", "a//b"):
        with pytest.raises(InteropError, match="no file"):
            locate(text, fetch=fetch)


def test_a_profile_on_the_hub_is_fetched(flashrl: Any, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("configs: [{fn: int8, model: owner/repo}]")
    options = ImportOptions(fetch=lambda repo, file: flashrl.folder / "smooth.pt")
    with pytest.raises(SchemaError, match=r"c\.yaml:1:29: configs\[0\]\.model: no file owner/repo/profile"):
        import_source(str(config), flashrl.references["smooth"], tmp_path / "x", ImportOptions(fetch=refuse))
    made = import_source(str(config), flashrl.references["smooth"], tmp_path / "out", options)
    assert made.plans[0].plan.profile is not None


def refuse(repo: str, file: str) -> Path:
    raise InteropError(f"no file {repo}/{file}")


def test_commands_on_one_plan_name_the_plans_of_a_hybrid(cli: Command, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("configs: [{fn: fp8}, {fn: bf16}]")
    out = tmp_path / "out"
    assert cli("import", tmp_path / "c.yaml", "-m", checkpoint, "-o", out).code == 0
    for command in (("explain", out), ("show", out), ("lint", out), ("diff", out, out / "fp8")):
        ran = cli(*command)
        assert ran.code == 1
        assert f"{out} is a hybrid of 2 members, not one plan" in ran.err
        assert f"hint: name one of them: {out}/fp8, {out}/bf16" in ran.err
    assert cli("explain", f"{out}/fp8").code == 0


def test_a_hybrid_is_not_half_written_where_a_member_cannot_be(
    cli: Command, bundle: Any, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text("configs: [{fn: bf16}, {fn: fp8}]")
    (tmp_path / "out").mkdir()
    shutil.copytree(bundle.origin, tmp_path / "out" / "fp8")
    ran = cli("import", tmp_path / "c.yaml", "-m", checkpoint, "-o", tmp_path / "out")
    assert ran.code == 1
    assert "holds a profile that this plan does not use" in ran.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["fp8"]
