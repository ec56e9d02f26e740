"""Real vLLM on CPU, in subprocesses; real checkpoints, made once."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # tiny.py is shared with scenarios that run as scripts
ROOT = HERE.parents[2]


@dataclass
class Ran:
    """One finished scenario."""

    returncode: int
    result: dict[str, Any]
    log: str


@pytest.fixture
def run_scenario(tmp_path: Path) -> Callable[..., Ran]:
    """Run a scenario in a process of its own."""

    def run(
        name: str, config: str | None, *, in_process: bool = True, env: dict[str, str] | None = None, **args: Any
    ) -> Ran:
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("FLASHRL_", "VLLM_"))}
        environ |= {
            "OMP_NUM_THREADS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0" if in_process else "1",
            "VLLM_LOGGING_LEVEL": "WARNING",
            "FLASHRL_REGISTRY": str(tmp_path / "registry"),
        }
        if config is not None:
            environ["FLASHRL_CONFIG"] = config
        environ |= env or {}
        given, out = tmp_path / f"{name}-in.json", tmp_path / f"{name}-out.json"
        out.unlink(missing_ok=True)
        given.write_text(json.dumps({key: str(v) if isinstance(v, Path) else v for key, v in args.items()}))
        done = subprocess.run(
            [sys.executable, str(HERE / "scenarios.py"), name, str(given), str(out)],
            env=environ, capture_output=True, text=True, check=False, timeout=420,
        )  # fmt: skip
        log = done.stdout + done.stderr
        return Ran(done.returncode, json.loads(out.read_text()) if out.exists() else {}, log)

    return run


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Tiny random checkpoints by seed."""
    import tiny as make

    root = tmp_path_factory.mktemp("tiny")

    def get(seed: int, **kind: bool) -> Path:
        folder = root / "-".join([*(name for name, wanted in sorted(kind.items()) if wanted), str(seed)])
        return folder if folder.exists() else make.write(folder, seed, **kind)

    return get


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[..., str]:
    """Compile rules, as YAML text, for a model by the command a user types; returns the plan's folder."""

    def make(model: Path, rules: str) -> str:
        file, plan = tmp_path / "rules.yaml", tmp_path / "plan"
        file.write_text("schema_version: flashrl.rules/v1\n" + rules)
        command = [str(Path(sys.executable).parent / "flashrl-registry"), "compile"]
        subprocess.run([*command, "-m", str(model), "--rules", str(file), "-o", str(plan)], check=True)
        return str(plan)

    return make


@pytest.fixture(scope="session")
def pair() -> tuple[Path, Path]:
    """The demo's real pair: (bf16, W8A8)."""
    folder = Path(os.environ.get("FLASHRL_TEST_PAIR", ROOT / ".cache" / "demo" / "pair"))
    subprocess.run([sys.executable, str(ROOT / "demo" / "prepare_pair.py"), "--out", str(folder)], check=True)
    return folder / "SmolLM2-135M-Instruct", folder / "SmolLM2-135M-Instruct-quantized.w8a8"


@pytest.fixture(scope="session")
def real_plan(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan folder compiled from the pair's profile, by the commands a user types."""
    work = tmp_path_factory.mktemp("plan")
    bin_dir = Path(sys.executable).parent
    for command in (
        ["flashrl", "profile", "-m", pair[0], "-qm", pair[1], "-o", work / "profile", "--fn", "int8"],
        ["flashrl-registry", "compile", "-m", pair[0], "--profile", work / "profile", "-o", work / "plan"],
    ):
        subprocess.run([str(bin_dir / command[0]), *map(str, command[1:])], check=True, capture_output=True)
    return work / "plan"
