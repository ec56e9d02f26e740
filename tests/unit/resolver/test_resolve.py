"""A reference becomes a plan that fits, or an error that says why not."""

from pathlib import Path

import pytest

from flashrl_registry.compiler import compile_plan, preset_rules
from flashrl_registry.documents import Environment, Inventory, TensorSpec
from flashrl_registry.errors import IntegrityError, PluginNotActiveError, ResolutionError
from flashrl_registry.registry import LocalStore, parse_ref, write_bundle
from flashrl_registry.resolver import make_payload, open_payload, resolve

CPU = Environment(vllm="0.32.0+cpu", device="cpu")


def inventory(layers: int = 2, extra: str | None = None) -> Inventory:
    names = {"model.embed_tokens.weight": [32, 8], "model.norm.weight": [8], "lm_head.weight": [32, 8]}
    for layer in range(layers):
        for leaf in ("q_proj", "k_proj", "v_proj", "o_proj"):
            names[f"model.layers.{layer}.self_attn.{leaf}.weight"] = [8, 8]
    if extra:
        names[extra] = [8]
    specs = [TensorSpec(name=name, shape=shape, dtype="bfloat16") for name, shape in sorted(names.items())]
    return Inventory(name="m", architecture="A", model_type="a", tied_embeddings=False, tensors=specs)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "registry")


@pytest.fixture
def plan_folder(tmp_path: Path) -> Path:
    model = inventory()
    write_bundle(tmp_path / "plan", compile_plan(preset_rules("int8", model), model).plan)
    return tmp_path / "plan"


def test_scheme_name_compiles_for_the_engines_model(store: LocalStore) -> None:
    resolution = resolve(parse_ref("int8"), inventory(), CPU, store)
    config = resolution.resolved.engine.quantization_config
    assert config is not None
    assert config["ignore"] == ["lm_head"]
    assert resolution.plan.count_by_treatment() == {"int8": 8, "keep": 3}


def test_path_resolves_and_a_pinned_digest_is_checked(store: LocalStore, plan_folder: Path) -> None:
    resolution = resolve(parse_ref(str(plan_folder)), inventory(), CPU, store)
    pinned = f"{plan_folder}#{resolution.plan.digest}"
    assert resolve(parse_ref(pinned), inventory(), CPU, store).resolved.digest == resolution.resolved.digest
    with pytest.raises(IntegrityError, match="expected sha256:0000"):
        resolve(parse_ref(f"{plan_folder}#sha256:{'0' * 64}"), inventory(), CPU, store)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (inventory(layers=3), "not decided by the plan"),
        (inventory(layers=1), "not in the model"),
        (inventory(extra="model.layers.0.self_attn.q_proj.bias"), "q_proj.bias"),
    ],
    ids=["larger", "smaller", "bias"],
)
def test_plan_for_another_model_is_refused_with_names(
    store: LocalStore, plan_folder: Path, model: Inventory, text: str
) -> None:
    with pytest.raises(ResolutionError, match=text):
        resolve(parse_ref(str(plan_folder)), model, CPU, store)


@pytest.mark.parametrize("version", ["0.20.2", "0.34.0", "0.8.5+cpu"])
def test_vllm_outside_the_plans_range_is_refused(store: LocalStore, plan_folder: Path, version: str) -> None:
    with pytest.raises(ResolutionError, match="not in the plan's range"):
        resolve(parse_ref(str(plan_folder)), inventory(), Environment(vllm=version, device="cpu"), store)


def test_a_worker_proves_that_it_resolves_the_same(store: LocalStore, plan_folder: Path, tmp_path: Path) -> None:
    resolution = resolve(parse_ref(str(plan_folder)), inventory(), CPU, store)
    payload = make_payload(resolution, tmp_path / "gate", "auto", {}).as_dict()
    resolved, sidecar = open_payload(payload, CPU)
    assert resolved.digest == resolution.resolved.digest
    assert sidecar is None
    with pytest.raises(PluginNotActiveError, match="another plan than the driver"):
        open_payload(payload, Environment(vllm="0.32.1", device="cpu"))
    with pytest.raises(IntegrityError, match="does not match its digest"):
        open_payload({**payload, "plan": payload["plan"].replace('"recompute"', '"frozen"')}, CPU)


def test_digest_does_not_depend_on_where_the_model_lay(store: LocalStore) -> None:
    here = resolve(parse_ref("int8"), inventory(), CPU, store)
    there = resolve(parse_ref("int8"), inventory().model_copy(update={"name": "elsewhere"}), CPU, store)
    assert here.plan.digest == there.plan.digest
    assert here.resolved.digest == there.resolved.digest
