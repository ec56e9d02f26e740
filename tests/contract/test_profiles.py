"""The curated plans: each is what its public model compiles to, tensor by tensor, and the index tells the truth.

The models are made again from ``tools/profiles/models`` on torch's meta device, and every plan is compiled again.
"""

import importlib.util
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from flashrl_cli.app import run
from flashrl_registry.compiler import checkpoint_bytes, weight_bytes
from flashrl_registry.documents import Environment, Inventory, Plan, read_document
from flashrl_registry.documents.names import expand
from flashrl_registry.documents.strict_yaml import parse_text
from flashrl_registry.registry import LocalStore, parse_ref, validate_paths
from flashrl_registry.resolver import resolve

ROOT = Path(__file__).parents[2]
PROFILES = ROOT / "profiles"
FAMILIES = {
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen/Qwen2.5-72B-Instruct": 72_706_203_648,
    "Qwen/Qwen3-0.6B": 751_632_384,  # its files hold the tied head too
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
    "meta-llama/Llama-3.1-70B-Instruct": 70_553_706_496,
    "mistralai/Mistral-7B-Instruct-v0.3": 7_248_023_552,
    "google/gemma-3-27b-it": 27_432_406_640,
    "microsoft/phi-4": 14_659_507_200,
}
"""One model per family with its published number of parameters, written out here as well."""
PATHS = sorted(str(file.parent.relative_to(PROFILES)) for file in PROFILES.rglob("plan.yaml"))


@pytest.fixture(scope="module")
def generate() -> Iterator[ModuleType]:
    """The tool that wrote the folder."""
    spec = importlib.util.spec_from_file_location("generate_profiles", ROOT / "tools/profiles/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def entries(generate: ModuleType) -> list[Any]:
    """Every plan, compiled again from the model's config."""
    return list(generate.entries(PROFILES))


@pytest.fixture(scope="module")
def inventories(entries: list[Any]) -> dict[str, Inventory]:
    """Hub id to names and shapes."""
    return {entry.model.name: entry.inventory for entry in entries}


@pytest.fixture(scope="module")
def index() -> dict[str, dict[str, Any]]:
    """Path to entry of ``index.yaml``."""
    text = (PROFILES / "index.yaml").read_text()
    return {entry["path"]: entry for entry in parse_text(text, "index.yaml").data["plans"]}


@pytest.fixture(scope="module")
def plans() -> dict[str, Plan]:
    """Path to the plan, read through the strict door."""
    return {path: read_document(PROFILES / path / "plan.yaml", Plan) for path in PATHS}


def test_compiling_everything_again_gives_the_same_bytes(generate: ModuleType, entries: list[Any]) -> None:
    assert generate.compare(generate.files_of(entries), PROFILES) == []


def test_the_index_names_every_plan_with_its_digest_and_bytes(
    plans: dict[str, Plan], index: dict[str, dict[str, Any]]
) -> None:
    assert sorted(index) == PATHS
    for path, plan in plans.items():
        entry = index[path]
        assert entry["digest"] == plan.digest == plan.compute_digest()
        assert entry["weight_bytes"] == weight_bytes(plan)
        assert entry["checkpoint_bytes"] == checkpoint_bytes(plan)
        assert f"{entry['model']}/{entry['scheme']}" == path
        assert {rule.scheme for rule in plan.rules} <= {entry["scheme"], "bf16"}


def test_every_model_has_every_scheme_or_a_reason(
    generate: ModuleType, entries: list[Any], index: dict[str, dict[str, Any]]
) -> None:
    for model in generate.models():
        wanted = {"int8"} if model.name == generate.MEASURED else set(generate.SCHEMES)
        shipped = {entry["scheme"] for entry in index.values() if entry["model"] == model.name}
        refused = {entry.scheme for entry in entries if entry.model.name == model.name and entry.plan is None}
        assert shipped | refused == wanted
        assert not shipped & refused
    assert all(entry.reason for entry in entries if entry.plan is None)


def test_a_plan_decides_every_tensor_of_its_model_and_no_other(
    plans: dict[str, Plan], inventories: dict[str, Inventory]
) -> None:
    for path, plan in plans.items():
        inventory = inventories[path.rpartition("/")[0]]
        planned = {name: family.shape for family in plan.tensors for name in expand(family.names)}
        assert planned == {tensor.name: tensor.shape for tensor in inventory.tensors}, path
        assert plan.base_model.fingerprint == inventory.fingerprint()
        assert {family.dtype for family in plan.tensors} == {"bfloat16"}


@pytest.mark.parametrize("model", FAMILIES)
def test_the_number_of_parameters_is_the_published_one(model: str, plans: dict[str, Plan]) -> None:
    for path in (path for path in PATHS if path.startswith(f"{model}/")):
        count = sum(family.num_members * math.prod(family.shape) for family in plans[path].tensors)
        assert count == FAMILIES[model]


def test_the_model_files_agree_with_the_tensors_and_say_where_they_come_from(
    generate: ModuleType, inventories: dict[str, Inventory]
) -> None:
    assert len(inventories) == len(list(generate.MODELS.glob("*.json"))) >= 25
    for model in generate.models():
        tensors = inventories[model.name].tensors
        assert sum(math.prod(tensor.shape) for tensor in tensors) == model.num_parameters
        assert len(tensors) == (model.num_tensors or len(tensors))
        assert model.confirmed


def test_only_linears_of_the_language_model_are_quantized(plans: dict[str, Plan]) -> None:
    kept = ("embed_tokens", "lm_head", "norm", "vision_tower", "multi_modal_projector", ".mlp.gate.", ".bias")
    for path, plan in plans.items():
        low = [family for family in plan.tensors if family.treatment not in {"keep", "rescale"}]
        assert bool(low) == (not path.endswith("/bf16")), path
        assert not [family.names for family in low if any(word in family.names for word in kept)], path
        assert all(len(family.shape) == 2 for family in low)
        if low:  # the linears are most of any model, so 8 bits must show
            assert weight_bytes(plan) < checkpoint_bytes(plan) * 0.8, path


def test_names_are_those_of_the_published_files(inventories: dict[str, Inventory]) -> None:
    def has(model: str, *names: str) -> bool:
        return {tensor.name for tensor in inventories[model].tensors} >= set(names)

    assert has(
        "Qwen/Qwen3-30B-A3B", "model.layers.47.mlp.experts.127.gate_proj.weight", "model.layers.0.mlp.gate.weight"
    )
    assert has("microsoft/phi-4", "model.layers.0.self_attn.qkv_proj.weight", "model.layers.0.mlp.gate_up_proj.weight")
    assert has("Qwen/Qwen2.5-7B-Instruct", "model.layers.0.self_attn.q_proj.bias", "lm_head.weight")
    assert has(
        "google/gemma-3-4b-it",
        "language_model.model.layers.0.self_attn.q_norm.weight",
        "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
        "multi_modal_projector.mm_input_projection_weight",
    )
    assert has("Qwen/Qwen3-0.6B", "lm_head.weight")
    for tied in ("Qwen/Qwen3-4B", "Qwen/Qwen2.5-0.5B-Instruct", "google/gemma-3-1b-it", "google/gemma-3-27b-it"):
        assert inventories[tied].tied_embeddings
        assert not [tensor.name for tensor in inventories[tied].tensors if "lm_head" in tensor.name]


def test_validate_finds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    verdicts = validate_paths([PROFILES])
    assert [verdict for verdict in verdicts if verdict.error is not None] == []
    assert len(verdicts) == len(PATHS) + 1  # and the measured profile
    assert run("flashrl-registry", ["validate", str(PROFILES)]) == 0
    assert f"{len(PATHS) + 1} valid, 0 invalid" in capsys.readouterr().out


@pytest.mark.parametrize("path", ["Qwen/Qwen3-30B-A3B/fp8_block", "HuggingFaceTB/SmolLM2-135M-Instruct/int8"])
def test_a_plan_is_used_by_its_path(
    path: str, tmp_path: Path, inventories: dict[str, Inventory], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(PROFILES / path)
    assert run("flashrl-registry", ["show", folder]) == 0
    assert run("flashrl-registry", ["explain", folder]) == 0
    assert path.rpartition("/")[0] in capsys.readouterr().out
    environment = Environment(vllm="0.32.0", device="cuda")
    resolution = resolve(parse_ref(folder), inventories[path.rpartition("/")[0]], environment, LocalStore(tmp_path))
    assert len(resolution.resolved.tensors) == resolution.plan.base_model.num_tensors
    assert (resolution.sidecar is not None) == ("SmolLM2" in path)


def test_the_folder_is_text_but_for_one_measured_sidecar() -> None:
    files = [file for file in PROFILES.rglob("*") if file.is_file()]
    (sidecar,) = [file for file in files if file.suffix not in {".yaml", ".md"}]
    assert sidecar.suffix == ".safetensors"
    assert sidecar.stat().st_size < 1_000_000
    assert sum(file.stat().st_size for file in files if file is not sidecar) < 600_000
