"""FLASHRL_CONFIG by FlashRL's rule for the Hub, ``owner/repo/path/in/repo.yaml``: the real client, a real server."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from server import Hub

pytestmark = pytest.mark.hub

PROGRAM = """
import sys
from pathlib import Path
from flashrl_registry.checkpoints import read_checkpoint
from flashrl_registry.errors import FlashRLError
from flashrl_registry.registry import read_bundle
from flashrl_registry.runtime.reference import plan_reference
try:
    model = read_checkpoint(Path(sys.argv[2])).inventory
    ref = plan_reference(sys.argv[1], Path("registry"), lambda: model)
    print(read_bundle(ref.path).plan.count_by_treatment())
except FlashRLError as exc:
    sys.exit(f"{type(exc).__name__}: {exc}")
"""
SHAPES = {"model.embed_tokens.weight": (32, 8), "model.layers.0.self_attn.o_proj.weight": (8, 8)}
Engine = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def engine(tmp_path: Path, hub: Hub, publish: Callable[..., Path]) -> Engine:
    """What an engine with this FLASHRL_CONFIG makes of it for its model."""
    model = publish("org/model", SHAPES)

    def run(config: str, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "FLASHRL_"))}
        environ = {
            **kept, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1", **environment,
        }  # fmt: skip
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, config, str(model)],
            env=environ, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    return run


@pytest.fixture
def repo(hub: Hub) -> Path:
    """A repository with a config in a folder, as FlashRL's users publish theirs."""
    folder = hub.root / "LiyuanLucasLiu" / "quantized"
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "flashrl_config.yaml").write_text("configs:\n- fn: fp8_vllm\n  load_format: auto\n")
    return folder


def test_a_config_on_the_hub_is_compiled_for_the_model(engine: Engine, repo: Path) -> None:
    ran = engine("LiyuanLucasLiu/quantized/configs/flashrl_config.yaml")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.strip() == "{'keep': 1, 'fp8': 1}"


def test_the_cached_config_serves_offline(engine: Engine, repo: Path) -> None:
    engine("LiyuanLucasLiu/quantized/configs/flashrl_config.yaml")
    ran = engine("LiyuanLucasLiu/quantized/configs/flashrl_config.yaml", HF_HUB_OFFLINE="1")
    assert ran.returncode == 0, ran.stderr


def test_a_profile_that_is_not_on_the_hub_is_one_clear_error(engine: Engine, repo: Path) -> None:
    (repo / "configs" / "flashrl_config.yaml").write_text("configs: [{fn: int8, model: LiyuanLucasLiu/quantized}]\n")
    ran = engine("LiyuanLucasLiu/quantized/configs/flashrl_config.yaml")
    assert ran.returncode == 1
    assert ran.stderr.startswith("StoreUnavailableError: profile.pt of LiyuanLucasLiu/quantized cannot be had")


def test_no_such_file_and_no_such_repository(engine: Engine, repo: Path) -> None:
    for config in ("LiyuanLucasLiu/quantized/other.yaml", "nobody/nothing/flashrl_config.yaml"):
        ran = engine(config)
        assert ran.returncode == 1
        assert ran.stderr.startswith("StoreUnavailableError: ")
        assert "Traceback" not in ran.stderr


def test_another_document_on_the_hub_is_not_taken_for_a_config(engine: Engine, repo: Path) -> None:
    (repo / "plan.yaml").write_text("somebody: else\n")
    ran = engine("LiyuanLucasLiu/quantized/plan.yaml")
    assert ran.returncode == 1
    assert "a FlashRL config is a map with the key 'configs'" in ran.stderr
