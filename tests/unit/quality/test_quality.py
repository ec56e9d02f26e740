"""Sensitivity and quality, on tiny real models of transformers."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from flashrl_cli.app import run
from flashrl_registry import ops
from flashrl_registry.compiler import compile_plan, preset_rules
from flashrl_registry.documents import Evidence, Plan, Rule, Rules, Sensitivity, read_document
from flashrl_registry.errors import CheckpointError, ProfilingError
from flashrl_registry.quality import measure_plan, measure_sensitivity
from flashrl_registry.quality.divergence import divergence
from flashrl_registry.quality.fake import fake_input, fake_weight
from flashrl_registry.quality.inputs import quantized_inputs
from flashrl_registry.quality.loaded import Loaded, load, sequences_of
from flashrl_registry.quality.scores import gradient_scores
from flashrl_registry.quality.treated import Treated, smoothed, treat
from flashrl_registry.registry import read_bundle, read_profile, write_bundle


@pytest.fixture(scope="module")
def dense(llama: Path) -> Loaded:
    return load(str(llama), "cpu")


@pytest.fixture(scope="module")
def experts(mixture: Path) -> Loaded:
    return load(str(mixture), "cpu")


@pytest.fixture(scope="module")
def scores(llama: Path, smoothing: Path, text: Path) -> Sensitivity:
    return measure_sensitivity(str(llama), [text], profile=smoothing, num_tokens=128, sequence_tokens=64, device="cpu")


def whole(loaded: Loaded, scheme: str, profile: Path | None = None) -> Plan:
    found = read_profile(profile)[0] if profile is not None else None
    return compile_plan(preset_rules(scheme, loaded.inventory), loaded.inventory, found).plan  # type: ignore[arg-type]


def kl(loaded: Loaded, plan: Plan, text: Path, profile: Path | None = None) -> float:
    sequences = sequences_of(loaded.tokenizer, [text], num_tokens=128, sequence_tokens=64)
    sidecar = read_profile(profile)[1] if profile is not None else None
    return divergence(loaded, sequences, treat(loaded, plan, sidecar)).kl


@pytest.mark.parametrize("scheme", ["int8", "fp8_tensor", "fp8_channel", "fp8_block"])
def test_fake_weights_are_the_runtimes_codes_times_its_scales(scheme: str) -> None:
    weight_OI = torch.randn(256, 128, generator=torch.Generator().manual_seed(0))
    codes_OI, scale = getattr(ops, f"quantize_{scheme}")(weight_OI)
    if scheme == "fp8_block":
        scale = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)
    assert torch.equal(fake_weight(scheme, weight_OI), codes_OI.float() * scale)  # type: ignore[arg-type]


def test_inputs_have_one_scale_per_token_or_per_group_of_128() -> None:
    inputs = torch.ones(1, 2, 256)
    inputs[0, 0, 0], inputs[0, 1] = 12700.0, 0.25
    token = fake_input("int8", inputs)
    assert token[0, 0].tolist() == [12700.0] + [0.0] * 255  # 1 is a hundredth of the token's step
    assert torch.equal(token[0, 1], inputs[0, 1])  # another token's outlier does not matter
    group = fake_input("fp8_block", inputs)
    assert torch.equal(group[0, 0, 128:], inputs[0, 0, 128:])
    assert fake_input("int8", torch.empty(0, 4)).shape == (0, 4)


def test_a_plan_that_changes_nothing_has_no_divergence(dense: Loaded, text: Path) -> None:
    plan = whole(dense, "bf16")
    assert treat(dense, plan, None) == Treated({}, {})
    assert kl(dense, plan, text) == 0.0


def test_the_model_is_as_it_was_after_a_plan_was_measured(dense: Loaded, text: Path) -> None:
    before = {name: value.clone() for name, value in dense.model.state_dict().items()}
    assert kl(dense, whole(dense, "int8"), text) > 0
    assert all(torch.equal(value, before[name]) for name, value in dense.model.state_dict().items())
    assert kl(dense, whole(dense, "bf16"), text) == 0.0


def test_smoothing_alone_leaves_the_models_outputs(dense: Loaded, smoothing: Path, text: Path) -> None:
    plan, (_, sidecar) = whole(dense, "int8", smoothing), read_profile(smoothing)
    moved = smoothed(dense, plan, sidecar)
    assert len(moved) == 2 * (1 + 3 + 2)
    assert any(not torch.equal(value, dict(dense.model.named_parameters())[name]) for name, value in moved.items())
    sequences = sequences_of(dense.tokenizer, [text], num_tokens=128, sequence_tokens=64)
    assert divergence(dense, sequences, Treated(moved, {})).kl < 1e-7


def test_smoothing_helps_a_model_with_an_outlier_channel(dense: Loaded, smoothing: Path, text: Path) -> None:
    plain = kl(dense, whole(dense, "int8"), text)
    assert kl(dense, whole(dense, "int8", smoothing), text, smoothing) < 0.7 * plain


def test_every_fused_group_is_scored_under_every_scheme(scores: Sensitivity) -> None:
    leaves = ["mlp.down_proj", "mlp.gate_up_proj", "self_attn.o_proj", "self_attn.qkv_proj"]
    assert [group.module for group in scores.groups] == [
        f"model.layers.{i}.{leaf}" for i in range(2) for leaf in leaves
    ]
    assert {entry.scheme for entry in scores.schemes} == {
        "int8", "int8_plain", "fp8_tensor", "fp8_channel", "fp8_block",
    }  # fmt: skip
    assert all(len(group.scores) == 5 for group in scores.groups)
    assert all(entry.score > 0 and entry.output_error > 0 for group in scores.groups for entry in group.scores)
    assert scores.not_scored == []
    assert scores.text.num_tokens == 128


def test_the_group_with_the_outlier_is_the_most_sensitive_until_it_is_smoothed(scores: Sensitivity) -> None:
    by_scheme = {
        scheme: {group.module: next(e.score for e in group.scores if e.scheme == scheme) for group in scores.groups}
        for scheme in ("int8_plain", "int8")
    }
    hot = "model.layers.1.self_attn.qkv_proj"
    assert max(by_scheme["int8_plain"], key=by_scheme["int8_plain"].__getitem__) == hot
    assert by_scheme["int8"][hot] < 0.2 * by_scheme["int8_plain"][hot]
    peaks = {group.module: group.peak_over_rms for group in scores.groups}
    assert max(peaks, key=peaks.__getitem__) == hot


def test_scores_follow_the_kl_of_a_group_alone(dense: Loaded, scores: Sensitivity, text: Path) -> None:
    """To second order KL is half the expected square."""
    alone, predicted = [], []
    for group in scores.groups:
        low = [name.removesuffix(".weight") for name in group.tensors]
        rest = sorted({tensor.name.rpartition(".")[0] for tensor in dense.inventory.tensors} - set(low))
        rules = [Rule(name="low", scheme="int8", targets=low), Rule(name="rest", scheme="bf16", targets=rest)]
        alone.append(kl(dense, compile_plan(Rules(rules=rules), dense.inventory).plan, text))
        predicted.append(next(e.score for e in group.scores if e.scheme == "int8_plain") / scores.text.num_tokens / 2)
    assert predicted == pytest.approx(alone, rel=0.5)
    assert predicted.index(max(predicted)) == alone.index(max(alone))


def test_the_same_text_gives_the_same_document(llama: Path, text: Path) -> None:
    made = [
        measure_sensitivity(str(llama), [text], schemes=["int8_plain"], num_tokens=64, sequence_tokens=64, device="cpu")
        for _ in range(2)
    ]
    assert made[0].compute_digest() == made[1].compute_digest()
    assert made[0].profile is None


def test_experts_of_a_layer_are_one_group_of_the_checkpoints_names(mixture: Path, text: Path) -> None:
    made = measure_sensitivity(str(mixture), [text], num_tokens=64, sequence_tokens=64, device="cpu")
    groups = {group.module: group for group in made.groups}
    experts = groups["model.layers.0.mlp.experts"]
    assert sum(name.count(".experts.") for name in experts.tensors) == len(experts.tensors)
    assert experts.num_weights == 4 * 3 * 64 * 128
    assert {entry.scheme for entry in experts.scores} == {"int8_plain", "fp8_channel"}  # neither blocks nor tensors
    assert all(entry.score > 0 for entry in experts.scores)
    assert made.not_scored == []


def test_a_plan_reaches_the_weights_and_the_inputs_of_experts(experts: Loaded, text: Path) -> None:
    plan = whole(experts, "int8")
    treated = treat(experts, plan, None)
    stack = "model.layers.0.mlp.experts.gate_up_proj"
    parameters = dict(experts.model.named_parameters())
    assert torch.equal(treated.overrides[stack], fake_weight("int8", parameters[stack]))
    assert treated.inputs["model.layers.0.mlp.experts"] == "int8"
    ids = torch.arange(1, 33)[None]
    with torch.no_grad():
        plain = experts.model(input_ids=ids).logits
        with quantized_inputs(experts.model, {"model.layers.0.mlp.experts": "int8"}):
            moved = experts.model(input_ids=ids).logits
        again = experts.model(input_ids=ids).logits
    assert not torch.equal(plain, moved)
    assert torch.equal(plain, again)
    assert kl(experts, plan, text) > 0


def test_text_that_is_none_is_an_error(dense: Loaded, tmp_path: Path) -> None:
    (tmp_path / "few.txt").write_text("w1 w2 w3")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProfilingError, match="no text in"):
        sequences_of(dense.tokenizer, [tmp_path / "few.txt"], num_tokens=64, sequence_tokens=64)
    for name in ("binary", "absent"):
        with pytest.raises(ProfilingError, match="cannot be read as text"):
            sequences_of(dense.tokenizer, [tmp_path / name], num_tokens=64, sequence_tokens=64)


def test_a_tokenizer_of_a_larger_vocabulary_than_the_models_is_an_error(
    llama: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = shutil.copytree(llama, tmp_path / "model")
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["stray"] = 64
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    (tmp_path / "text").write_text(text.read_text()[:400] + " stray w1 w2")
    command = ["sensitivity", "-m", str(model), "-t", str(tmp_path / "text"), "-o", str(tmp_path / "out.yaml")]
    assert run("flashrl-registry", [*command, "--device", "cpu", "--scheme", "int8_plain"]) == 1
    shown = capsys.readouterr().err
    assert "the tokenizer of model turns the text into token ids up to 64 ('stray')" in shown
    assert "the model's embedding has 64 rows" in shown
    assert not (tmp_path / "out.yaml").exists()


def test_a_device_that_is_not_there_is_an_error(llama: Path) -> None:
    for device in ("cuda:99", "toaster"):
        with pytest.raises(ProfilingError, match=f"cannot use the device '{device}'"):
            load(str(llama), device)


def test_weights_that_are_not_finite_are_an_error(llama: Path, text: Path) -> None:
    broken = load(str(llama), "cpu")
    with torch.no_grad():
        broken.model.get_parameter("model.layers.0.mlp.up_proj.weight")[0, 0] = float("nan")
    with pytest.raises(ProfilingError, match="not finite"):
        kl(broken, whole(broken, "bf16"), text)
    sequences = sequences_of(broken.tokenizer, [text], num_tokens=64, sequence_tokens=64)
    with pytest.raises(ProfilingError, match="not finite"):
        gradient_scores(broken, sequences, {"model.layers.0.mlp.up_proj": ["int8"]})


def test_a_plan_of_another_model_is_refused(dense: Loaded, mixture: Path, text: Path) -> None:
    with pytest.raises(ProfilingError, match="the plan is for"):
        measure_plan(whole(dense, "int8"), None, str(mixture), [text], device="cpu")


def test_a_model_that_transformers_does_not_know_is_an_error(llama: Path, text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    for file in llama.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "nobody_knows"}))
    with pytest.raises(CheckpointError, match="transformers cannot load"):
        measure_sensitivity(str(folder), [text], device="cpu")


def test_from_text_to_an_automatic_plan_to_evidence(
    llama: Path, smoothing: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*arguments: object) -> str:
        code = run("flashrl-registry", [str(argument) for argument in arguments])
        ran = capsys.readouterr()
        assert code == 0, ran.err
        return ran.out

    sizes = ("--tokens", 128, "--sequence", 64, "--device", "cpu")
    scored = command("sensitivity", "-m", llama, "-p", smoothing, "-t", text, "-o", tmp_path / "s.yaml", *sizes)
    assert "MOST SENSITIVE TO" in scored
    assert read_document(tmp_path / "s.yaml", Sensitivity).groups
    auto = ("compile", "-m", llama, "-o", tmp_path / "plan", "--auto", "--budget", "bf16=0.3", "-p", smoothing)
    made = command(*auto, "--sensitivity", tmp_path / "s.yaml", "--text", text)
    assert "<- this plan" in made
    assert ", measured 0." in made
    assert "chosen for bf16=0.3" in command("explain", tmp_path / "plan", "model.layers.1.self_attn.q_proj")
    out = ("-o", tmp_path / "evidence.yaml", "--json")
    measured = json.loads(command("quality", tmp_path / "plan", "-m", llama, "-t", text, *sizes, *out))
    assert 0 < measured["kl"] < 1
    assert measured["predicted_kl"] > 0
    evidence = read_document(tmp_path / "evidence.yaml", Evidence)
    assert evidence.plan_digest == read_bundle(tmp_path / "plan").digest
    assert evidence.metrics["kl"].value == measured["kl"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--auto",), "--auto needs --budget and --sensitivity"),
        (("--budget", "bf16=0.5"), "--budget belongs to --auto"),
        (("--auto", "--scheme", "int8"), "give one of --scheme, --rules and --auto"),
        (("--auto", "--budget", "half", "--sensitivity", "x.yaml"), "is not avg-bits=N"),
    ],
)
def test_wrong_usage_of_auto_is_said(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    code = run("flashrl-registry", ["compile", "-m", str(llama), "-o", str(tmp_path / "p"), *arguments])
    assert (code, message in " ".join(capsys.readouterr().err.split())) == (2, True)


def test_the_bundle_of_an_automatic_plan_is_a_plan_like_any_other(dense: Loaded, tmp_path: Path) -> None:
    plan = whole(dense, "int8")
    write_bundle(tmp_path / "plan", plan.model_copy(update={"x-auto": {"budget": "bf16=0.5"}}))
    assert read_bundle(tmp_path / "plan").digest == plan.digest
