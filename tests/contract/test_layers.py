"""import-linter holds the layers, and notices when they are broken."""

import importlib
import os
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(folder / "cli"), *sys.path])}
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", code, "--no-cache"], cwd=folder, env=environ, capture_output=True, text=True, check=False
    )


def test_the_layers_hold() -> None:
    ran = lint(ROOT)
    assert ran.returncode == 0, ran.stdout
    assert "Contracts: 4 kept, 0 broken." in ran.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("flashrl_registry/compiler/match.py", "import flashrl_registry.registry", "One way"),
        ("flashrl_registry/documents/names.py", "import torch", "The middle is values"),
        ("flashrl_registry/runtime/settings.py", "import vllm", "vllm is imported only"),
        ("flashrl_registry/registry/ref.py", "import yaml", "yaml is imported only"),
    ],
)
def test_a_broken_layer_is_noticed(tmp_path: Path, module: str, line: str, contract: str) -> None:
    for name in ("flashrl_registry", "cli"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    file = tmp_path / module
    file.write_text(file.read_text() + f"\n\ndef hidden() -> None:\n    {line}\n")
    ran = lint(tmp_path)
    assert ran.returncode == 1
    broken = [text for text in ran.stdout.splitlines() if text.rstrip().endswith("BROKEN")]
    assert len(broken) == 1
    assert contract in ran.stdout.replace("\n", " ")


@pytest.mark.parametrize("package", ["", ".runtime", ".registry", ".documents", ".compiler"])
def test_no_module_hides_a_function_of_its_package(package: str) -> None:
    """Importing a module binds its name in the package, so ``from package import name`` would give the module."""
    found = importlib.import_module("flashrl_registry" + package)
    modules = {module.name for module in pkgutil.iter_modules(found.__path__)}
    assert not modules & set(found.__all__)
